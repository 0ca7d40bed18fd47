"""Normal rows of a labelled table."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from anomgan.tables import keep_normal


@pytest.mark.parametrize(
    ("labels", "normal", "kept"),
    [
        (["ok", " ok ", "bad", None], ["ok"], [0, 1]),
        (["<=50K", "<=50K.", ">50K"], ["<=50K", "<=50K."], [0, 1]),
        (["0", "0.0", "1", "x"], ["0"], [0, 1]),
        ([0, 1, None, 0], ["0"], [0, 3]),
        ([0.0, 1.0, 0.5], ["0"], [0]),
        ([False, True], ["False"], [0]),
        (["", "NA", "a"], ["a"], [2]),
        (["a", "A"], [" a "], [0]),
    ],
)
def test_values_are_compared_as_stripped_text_or_as_numbers(
    labels: list[Any], normal: list[str], kept: list[int]
) -> None:
    frame = pl.DataFrame({"row": range(len(labels)), "y": labels}, strict=False)
    assert keep_normal(frame, "y", normal, source="t")["row"].to_list() == kept
