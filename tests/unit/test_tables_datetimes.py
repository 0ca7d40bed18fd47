"""Dates in text, against the standard library."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from anomgan.tables.datetimes import (
    FORMATS,
    Detected,
    detect_format,
    parse_datetimes,
    temporal_seconds,
)

UTC = dt.UTC


def seconds(*values: str | None, format_name: str | None = None) -> list[float]:
    return parse_datetimes(pl.Series(values, dtype=pl.String), format_name).tolist()


def at(year: int, month: int, day: int, *clock: int) -> float:
    return dt.datetime(year, month, day, *clock, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01", 0.0),
        ("2024-02-29", at(2024, 2, 29)),
        ("2024-2-9", at(2024, 2, 9)),
        ("0001-01-01", at(1, 1, 1)),
        ("9999-12-31 23:59:59", at(9999, 12, 31, 23, 59, 59)),
        ("1900-03-01T01:02", at(1900, 3, 1, 1, 2)),
        ("2024-02-29T23:59:59.25", at(2024, 2, 29, 23, 59, 59) + 0.25),
        ("2024-02-29 23:59:59,125", at(2024, 2, 29, 23, 59, 59) + 0.125),
        ("2024-01-01T00:00:00Z", at(2024, 1, 1)),
        ("2024-01-01 00:00:00 UTC", at(2024, 1, 1)),
        ("2024-01-01T00:00:00+02:00", at(2024, 1, 1) - 7200),
        ("2024-01-01T00:00:00-0530", at(2024, 1, 1) + 19_800),
        ("2024-01-01 00:00:00.5+01", at(2024, 1, 1) - 3599.5),
        ("2024-01-01 12:30 AM", at(2024, 1, 1, 0, 30)),
        ("2024-01-01 12:30 pm", at(2024, 1, 1, 12, 30)),
        ("2024-01-01 1:30PM", at(2024, 1, 1, 13, 30)),
    ],
)
def test_iso(text: str, expected: float) -> None:
    assert seconds(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29",
        "2024-13-01",
        "2024-00-10",
        "2024-01-00",
        "2024-04-31",
        "0000-01-01",
        "24-01-01",
        "2024-01-01T24:00",
        "2024-01-01 10:60",
        "2024-01-01 13:00 PM",
        "2024-01-01 0:00 AM",
        "2024-01-01x",
        "2024-01",
        "٢٠٢٤-01-01",
        "yesterday",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert np.isnan(seconds(text, format_name="Y-M-D")).all()


@pytest.mark.parametrize(
    ("format_name", "text"),
    [
        ("Y-M-D", "2024-03-04"),
        ("Y/M/D", "2024/03/04"),
        ("M/D/Y", "3/4/2024"),
        ("M/D/Y", "03-04-2024"),
        ("D/M/Y", "04/03/2024"),
        ("D.M.Y", "4.3.2024"),
    ],
)
def test_formats(format_name: str, text: str) -> None:
    for clock, extra in (("", 0), (" 10:11:12", 36_672)):
        assert seconds(text + clock, format_name=format_name) == [at(2024, 3, 4) + extra]


def test_iso_is_read_beside_any_format_and_missing_stays_missing() -> None:
    got = seconds("4.3.2024", None, "2024-03-04", "3/4/2024", format_name="D.M.Y")
    assert got[0] == got[2] == at(2024, 3, 4)
    assert np.isnan([got[1], got[3]]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1/2/2024", "3/4/2024"], Detected("M/D/Y", 1.0, ambiguous=True)),
        (["1/1/2024", "2/2/2024"], Detected("M/D/Y", 1.0)),  # both readings agree
        (["1/2/2024", "31/12/2024"], Detected("D/M/Y", 1.0)),
        (["1/2/2024", "12/31/2024"], Detected("M/D/Y", 1.0)),
        (["2024-01-02", "2024-01-03T04:05:06.7Z"], Detected("Y-M-D", 1.0)),
        (["1.2.2024 10:00", "31.1.2024 11:30"], Detected("D.M.Y", 1.0)),
        (["2024/1/2", "2024/1/3", "2024/1/4", "?"], Detected("Y/M/D", 0.75)),
        (["a", "2024-01-02"], None),
        (["10.0.0.1", "1.2.3.4"], None),
        (["12:30", "13:45"], None),
        (["1-2", "3-4"], None),
    ],
)
def test_detection(values: list[str], expected: Detected | None) -> None:
    assert detect_format(pl.Series(values)) == expected


def test_detection_looks_at_every_cell() -> None:
    days = [f"{1 + i % 12}/{1 + i % 12}/2024" for i in range(500)]
    assert detect_format(pl.Series([*days, "25/1/2024"])) == Detected("D/M/Y", 1.0)


def test_formats_do_not_overlap_but_for_day_and_month() -> None:
    texts = ["2024-03-04", "2024/03/04", "4.3.2024"]
    for name in FORMATS:
        matches = [bool(pl.Series([t]).str.contains(FORMATS[name]).item()) for t in texts]
        assert sum(matches) == (0 if name in ("M/D/Y", "D/M/Y") else 1)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_temporal_types(unit: str) -> None:
    moments = pl.Series([dt.datetime(1970, 1, 2, 0, 0, 1, 500_000), None])
    typed = moments.cast(pl.Datetime(unit))  # type: ignore[arg-type]
    assert temporal_seconds(typed)[0] == 86_401.5
    assert np.isnan(temporal_seconds(typed)[1])
    aware = typed.dt.replace_time_zone("Asia/Tokyo")
    assert temporal_seconds(aware)[0] == 86_401.5 - 9 * 3600
    spans = pl.Series([dt.timedelta(seconds=1.5)]).cast(pl.Duration(unit))  # type: ignore[arg-type]
    assert temporal_seconds(spans).tolist() == [1.5]


def test_dates_and_times_of_day() -> None:
    assert temporal_seconds(pl.Series([dt.date(1969, 12, 31)])).tolist() == [-86_400.0]
    assert temporal_seconds(pl.Series([dt.time(1, 0, 0, 500_000)])).tolist() == [3600.5]
