"""The one shape in which faults are told: what, where (row, line, column, value), remedy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from difflib import get_close_matches

__all__ = ["MAX_LISTED", "cell", "did_you_mean", "flag", "listing", "plural", "quoted_names"]

MAX_LISTED = 5
"""Faults written out in one message; the rest are counted (all stay in `error.faults`)."""

_MAX_VALUE_CHARS = 40


def plural(n: int, noun: str) -> str:
    """Return ``1 row``, ``2 rows``: a count with its noun."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def cell(value: object) -> str:
    """Quote a cell's value for a message, shortened to one readable line."""
    text = str(value)
    if len(text) > _MAX_VALUE_CHARS:
        text = text[: _MAX_VALUE_CHARS - 3] + "..."
    return repr(text)


def flag(option: str, name: str) -> str:
    """Return a command-line option ready to paste, such as ``--drop 'Product ID'``."""
    return f"{option} {shlex.quote(name)}"


def quoted_names(names: Sequence[str], limit: int = 20) -> str:
    """Return column names in quotes, at most `limit` of them, the rest counted."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown}, and {len(names) - limit:,} more" if len(names) > limit else shown


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)`` where a known name is close, else nothing."""
    folded = {candidate.casefold(): candidate for candidate in reversed(known)}
    close = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.75)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""


def listing(headline: str, faults: Sequence[str], remedy: str, n_faults: int | None = None) -> str:
    """Write several faults as one message.

    Parameters
    ----------
    headline : str
        What is wrong, with the source in front and no full stop.
    faults : sequence of str
        One sentence each; the first `MAX_LISTED` are written out.
    remedy : str
        What to do next.
    n_faults : int, optional
        How many there are, if more than `faults` holds.
    """
    total = len(faults) if n_faults is None else n_faults
    lines = [f"{headline}:", *(f"  {fault}" for fault in faults[:MAX_LISTED])]
    if total > MAX_LISTED:
        lines.append(f"  and {total - MAX_LISTED:,} more")
    lines.append(f"Remedy: {remedy}")
    return "\n".join(lines)
