"""What counts as a missing cell: one list, used by the reader, the encoder and the ONNX graph."""

from __future__ import annotations

import polars as pl

__all__ = ["MISSING_TOKENS", "text_or_null"]

MISSING_TOKENS: tuple[str, ...] = (
    "",
    "#N/A",
    "-nan",
    ".",
    "<NA>",
    "?",
    "N/A",
    "NA",
    "NAN",
    "NULL",
    "NaN",
    "NaT",
    "None",
    "n/a",
    "nan",
    "null",
)
"""Cells that mean "no value" once surrounding white space is gone (exact case).

`none`, `unknown` and `-` are ordinary categories: tables use them for "there is none".
"""


def text_or_null(text: pl.Series) -> pl.Series:
    """Strip every cell of a `pl.String` column and turn missing tokens into null.

    Parameters
    ----------
    text : polars.Series of String, [n]

    Returns
    -------
    polars.Series of String, [n]
    """
    stripped = text.str.strip_chars()
    return stripped.set(stripped.is_in(list(MISSING_TOKENS)), None)
