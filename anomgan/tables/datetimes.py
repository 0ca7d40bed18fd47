"""Text to seconds since 1970-01-01 UTC, under a fixed list of formats."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = [
    "FORMATS",
    "ISO",
    "Detected",
    "detect_format",
    "parse_datetimes",
    "temporal_seconds",
    "time_text",
]

# Rust's \d matches every Unicode digit, which int() below would refuse: hence [0-9].
_TIME = (
    r"(?:[Tt ]\s*(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"\s*(?P<half>[AaPp][Mm])?\s*(?P<zone>[Zz]|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
_YEAR, _MONTH, _DAY = (
    r"(?P<year>[0-9]{4})",
    r"(?P<month>[0-9]{1,2})",
    r"(?P<day>[0-9]{1,2})",
)

FORMATS: dict[str, str] = {
    "Y-M-D": f"^{_YEAR}-{_MONTH}-{_DAY}{_TIME}",
    "Y/M/D": f"^{_YEAR}/{_MONTH}/{_DAY}{_TIME}",
    "M/D/Y": f"^{_MONTH}[/-]{_DAY}[/-]{_YEAR}{_TIME}",
    "D/M/Y": f"^{_DAY}[/-]{_MONTH}[/-]{_YEAR}{_TIME}",
    "D.M.Y": rf"^{_DAY}\.{_MONTH}\.{_YEAR}{_TIME}",
}
"""Name -> pattern. Each may be followed by a time, a fraction, AM or PM, and a UTC offset."""

ISO = "Y-M-D"
"""The format that is read in every date column."""

_SAMPLE_ROWS = 100


@dataclass(frozen=True)
class Detected:
    """A format that reads a text column, and the share of the cells that it reads."""

    format: str
    share: float
    ambiguous: bool = False


def time_text(seconds: float) -> str:
    """Write seconds since 1970-01-01 UTC as people read them: ISO 8601, to the second."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.6g} s since 1970"
    return moment.isoformat(sep=" ", timespec="seconds")


def temporal_seconds(series: pl.Series) -> NDArray[np.float64]:
    """Turn Date, Datetime, Duration or Time columns into seconds, missing = NaN.

    Dates and naive times are taken as they stand, aware ones in UTC; a Time counts from
    midnight.
    """
    ticks = series.to_physical().cast(pl.Float64).to_numpy()
    dtype = series.dtype
    if dtype == pl.Date:
        return ticks * 86_400.0
    unit = "ns" if dtype == pl.Time else getattr(dtype, "time_unit", "us")
    return ticks / {"ns": 1e9, "us": 1e6, "ms": 1e3}[unit]


def parse_datetimes(text: pl.Series, format_name: str | None) -> NDArray[np.float64]:
    """Read stripped text as dates.

    Parameters
    ----------
    text : polars.Series of String, [n]
        Stripped cells, null = missing.
    format_name : str or None
        A key of `FORMATS`; None means ISO 8601. Cells in ISO 8601 are read in any case,
        since they cannot be mistaken for another format.

    Returns
    -------
    ndarray of float64, [n]
        Seconds since 1970-01-01 (UTC where an offset is given); NaN where the cell is
        missing or is no date.
    """
    seconds = _parse(text, format_name or ISO)
    if format_name not in (None, ISO) and bool(np.isnan(seconds).any()):
        seconds = np.where(np.isnan(seconds), _parse(text, ISO), seconds)
    return seconds


def detect_format(text: pl.Series) -> Detected | None:
    """Find the format that reads most cells of a text column.

    Parameters
    ----------
    text : polars.Series of String, [n]
        Stripped cells without nulls, n >= 1.

    Returns
    -------
    Detected or None
        None where no format reads even half of the cells. Where both M/D/Y and D/M/Y read
        the same number, and differently, month first is chosen and `ambiguous` is true.
    """
    best: Detected | None = None
    values: NDArray[np.float64] | None = None
    for name in FORMATS:
        if bool(np.isnan(_parse(text.head(_SAMPLE_ROWS), name)).mean() > 0.5):
            continue
        seconds = _parse(text, name)
        share = float(1.0 - np.isnan(seconds).mean())
        if best is None or share > best.share:
            best, values = Detected(name, share), seconds
        elif share == best.share and values is not None and not _same(values, seconds):
            best = Detected(best.format, best.share, ambiguous=True)
    return best if best is not None and best.share > 0.5 else None


def _same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))


def _parse(text: pl.Series, format_name: str) -> NDArray[np.float64]:
    parts = text.str.extract_groups(FORMATS[format_name]).struct.unnest()
    matched = parts["year"].is_not_null().to_numpy()
    seconds = np.full(len(text), np.nan)
    if not matched.any():
        return seconds
    parts = parts.filter(pl.Series(matched))
    days, valid = _days(_whole(parts["year"]), _whole(parts["month"]), _whole(parts["day"]))
    clock, valid_clock = _clock_seconds(parts)
    value = days * 86_400.0 + clock - _offset_seconds(parts["zone"])
    seconds[matched] = np.where(valid & valid_clock, value, np.nan)
    return seconds


def _whole(digits: pl.Series) -> NDArray[np.int64]:
    return digits.cast(pl.Int64).fill_null(0).to_numpy()


def _days(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return days since 1970-01-01 in the Gregorian calendar, and which dates exist."""
    months = (year - 1970) * 12 + month - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + day - 1
    back = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    valid = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (back == months)
    return days, valid


def _clock_seconds(parts: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    hour, minute, second = (_whole(parts[name]) for name in ("hour", "minute", "second"))
    half = parts["half"].str.to_lowercase()
    twelve = half.is_not_null().to_numpy()
    afternoon = half.eq_missing(pl.Series(["pm"])).to_numpy()
    valid = (hour <= 23) & (minute <= 59) & (second <= 60)
    valid &= ~twelve | ((hour >= 1) & (hour <= 12))
    hour = np.where(twelve, hour % 12 + 12 * afternoon, hour)
    fraction = ("0." + parts["fraction"]).cast(pl.Float64).fill_null(0.0).to_numpy()
    return hour * 3_600.0 + minute * 60.0 + second + fraction, valid


def _offset_seconds(zone: pl.Series) -> NDArray[np.float64]:
    sign = np.where(zone.str.starts_with("-").fill_null(value=False).to_numpy(), -1.0, 1.0)
    digits = zone.str.replace_all(r"[^0-9]", "")
    hours = digits.str.slice(0, 2).cast(pl.Int64, strict=False).fill_null(0).to_numpy()
    minutes = digits.str.slice(2, 2).cast(pl.Int64, strict=False).fill_null(0).to_numpy()
    return sign * (hours * 3_600.0 + minutes * 60.0)
