"""How figures are written for people, on the terminal and in reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from anomgan.evaluation.bootstrap import Estimate

__all__ = [
    "band",
    "counted",
    "grouped",
    "measure_name",
    "moment",
    "percent",
    "percent_span",
    "span",
]

_NAMES: Final[Mapping[str, str]] = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "best_f1": "best F1 of any threshold",
}
_THIN = "\N{NARROW NO-BREAK SPACE}"


def measure_name(measure: str) -> str:
    """Return what a measure of `anomgan.evaluation.bootstrap.ranking_measures` is called."""
    stem, _, number = measure.rpartition("_")
    if stem == "partial_auroc":
        return f"AUROC up to {float(number):.0%} false alarms"
    if stem == "recall_at":
        return f"recall at {float(number):.0%} false alarms"
    if stem == "precision_at":
        return f"precision at {number}"
    return _NAMES[measure]


def span(estimate: Estimate) -> str:
    """Return ``0.9876 [0.9701, 0.9955]``; a dash where there is no value."""
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def band(ends: tuple[float, float] | None) -> str:
    """Return ``0.0000 to 0.0312``; a dash where there is none."""
    return "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def grouped(n: int) -> str:
    """Return ``12 345``, with narrow spaces that do not break."""
    return f"{n:,}".replace(",", _THIN)


def counted(n: int, one: str, many: str = "") -> str:
    """Return ``1 row`` or ``12 345 rows``."""
    return f"{grouped(n)} {one if n == 1 else many or one + 's'}"


def moment(iso_8601: str) -> str:
    """Return ``2026-01-31 09:30 UTC``; what is no time with a zone stays as it is."""
    try:
        found = datetime.fromisoformat(iso_8601)
    except ValueError:
        return iso_8601
    return iso_8601 if found.tzinfo is None else f"{found.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def percent(share: float) -> str:
    """Return ``21.4 %``, or a dash for NaN.

    Three digits, two below 1 %; and never 100 % for less than all or 0 % for more than none.
    """
    if math.isnan(share):
        return "–"
    value = 100.0 * share
    if 0.0 < value < 1.0:
        text = f"{value:.2g}" if value >= 0.001 else "<0.001"
    elif 99.95 <= value < 100.0:
        text = f"{value:.2f}" if value < 99.995 else ">99.99"
    else:
        text = f"{value:.3g}"
    return f"{text}{_THIN}%"


def percent_span(estimate: Estimate) -> str:
    """Return ``0.7 % to 4.4 %``, the interval of a share."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"
