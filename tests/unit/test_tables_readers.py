"""Reading: dialects, encodings, origins, batches, line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from anomgan.errors import TableError, UsageError
from anomgan.tables import TableReader, csv_blocks, open_table, read_table, readers

TABULAR = (
    "adult_census",
    "ai4i2020",
    "arrhythmia_raw",
    "bank_additional",
    "cicids2017_sample",
    "creditcard_sample",
    "nsl_kdd",
    "ozone_eighthr",
    "vehicle_claims_fraud",
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(frame: pl.DataFrame) -> list[list[str]]:
    """The frame's rows with missing cells as empty text."""
    return [["" if v is None else v for v in row] for row in frame.rows()]


# --- Real files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABULAR)
def test_real_table_equals_the_csv_module(data_dir: Path, name: str) -> None:
    folder = data_dir / "tabular" / name
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    expected_rows = {part: n for part, n, _ in meta["expect"]}
    for part, file in meta["read"].items():
        frame = read_table(folder / file)
        with gzip.open(folder / file, "rt", encoding="utf-8-sig", newline="") as text:
            header, *rows = csv.reader(text, delimiter=meta.get("sep", ","))
        assert frame.columns == [column.strip() for column in header]
        assert frame.height == expected_rows[part] == len(rows)
        assert set(frame.dtypes) == {pl.String}
        assert cells(frame) == rows


def test_real_file_without_header_is_refused_with_the_reason(data_dir: Path) -> None:
    path = data_dir / "papers" / "kdd99_10percent" / "kddcup.data_10_percent.gz"
    with pytest.raises(TableError) as caught:
        open_table(path)
    assert str(caught.value).startswith(f"{path}: the header is unusable:\n  '0' names 16 columns")
    assert str(caught.value).endswith("if the file has no header line, put one in front")


def test_kdd99_with_a_header_in_front(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "papers" / "kdd99_10percent"
    names = (folder / "columns.txt").read_text(encoding="utf-8").split()
    with gzip.open(folder / "kddcup.data_10_percent.gz") as source:
        lines = [next(source) for _ in range(60_000)]
    path = write(tmp_path / "kdd.csv", ",".join(names).encode() + b"\n" + b"".join(lines))
    with open_table(path) as reader:
        assert reader.columns == tuple(names)
        batches = list(reader)
    assert sum(batch.frame.height for batch in batches) == len(lines)
    assert len(batches) > 60_000 // 8192  # several blocks of bytes, cut at record ends
    last = lines[-1].decode().rstrip("\n").split(",")
    assert list(batches[-1].frame.row(-1)) == last


# --- Dialects -------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_ends_are_detected(tmp_path: Path, delimiter: str, end: str) -> None:
    rows = [["a", "b", "c"], ["1.5", "x y", ""], ["2", "", "z"]]
    path = write(tmp_path / "t.txt", end.join(delimiter.join(row) for row in rows))
    frame = read_table(path)
    assert [frame.columns, *cells(frame)] == rows


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),  # decimal commas
        ('"a,b";c\n"1,2";3\n', ";"),  # the other delimiter inside quotes
        ("a,b;c\n1,2\n3,4\n", ","),  # one odd name
        ("time|x, y|z\n1|2, 3|4\n", "|"),
        ("only\n1\n2\n", ","),
    ],
)
def test_delimiter_detection(tmp_path: Path, text: str, delimiter: str) -> None:
    path = write(tmp_path / "t.csv", text)
    expected = next(csv.reader(io.StringIO(text), delimiter=delimiter))
    assert list(open_table(path).columns) == expected


@pytest.mark.parametrize("asked", [":", " ", "tab", "\\t"])
def test_delimiter_can_be_asked_for(tmp_path: Path, asked: str) -> None:
    real = "\t" if asked in ("tab", "\\t") else asked
    path = write(tmp_path / "t.csv", f"a{real}b\n1{real}2\n")
    assert read_table(path, delimiter=asked).rows() == [("1", "2")]


def test_excel_sep_line_names_the_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "sep=^\r\na^b\r\n1^2\r\n")
    (batch,) = open_table(path)
    assert batch.frame.columns == ["a", "b"]
    assert batch.line_numbers is not None
    assert batch.line_numbers.tolist() == [3]


def test_quotes_delimiters_and_newlines_inside_quotes(tmp_path: Path) -> None:
    text = 'a,b\n"x, ""y""","1\n2"\nplain,"3"\n'
    (batch,) = open_table(write(tmp_path / "t.csv", text))
    assert batch.frame.rows() == [('x, "y"', "1\n2"), ("plain", "3")]
    assert batch.line_numbers is not None
    assert batch.line_numbers.tolist() == [2, 4]


def test_quotes_in_the_middle_of_a_field_are_text(tmp_path: Path) -> None:
    text = 'size, place\n5" pipe, "north, east"\n3, "3"" bolt"\n'
    (batch,) = open_table(write(tmp_path / "t.csv", text))
    assert batch.frame.columns == ["size", "place"]
    assert batch.frame.rows() == [('5" pipe', "north, east"), ("3", '3" bolt')]
    assert batch.line_numbers is not None
    assert batch.line_numbers.tolist() == [2, 3]


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    (batch,) = open_table(write(tmp_path / "t.csv", "\na,b\n\n1,2\n  \n\r\n3,4\n\n"))
    assert batch.frame.rows() == [("1", "2"), ("3", "4")]
    assert batch.line_numbers is not None
    assert batch.line_numbers.tolist() == [4, 7]


def test_one_column_with_missing_cells(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path / "t.csv", 'a\n1\n""\n3\n'))
    assert cells(frame) == [["1"], [""], ["3"]]


def test_nameless_first_column_is_the_row_index_of_pandas(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "t.csv", ",x\n0,5\n")).columns == ["Unnamed: 0", "x"]


def test_numbers_may_be_names(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "t.csv", "0,1,2\n.5,.5,.5\n")).columns == ["0", "1", "2"]


def test_unicode_line_separators_are_cell_contents(tmp_path: Path) -> None:
    text = 'a,b\nx\u2028y\x0c\x1c,\x85\n"q\u2029",5"\n'
    assert read_table(write(tmp_path / "t.csv", text)).rows() == [
        ("x\u2028y\x0c\x1c", "\x85"),
        ("q\u2029", '5"'),
    ]


# --- Encodings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=lambda e: str(e)
)
@pytest.mark.parametrize("packed", [False, True])
def test_byte_order_marks(tmp_path: Path, encoding: str, packed: bool) -> None:
    content = "naïve,Größe\n1,ß€😀\n".encode(encoding)
    path = write(tmp_path / "t.csv", gzip.compress(content) if packed else content)
    frame = read_table(path)
    assert frame.columns == ["naïve", "Größe"]
    assert frame.rows() == [("1", "ß€😀")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "UTF8"])
def test_encoding_asked_for(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "t.csv", "a,b\nñ,ü\n".encode(encoding))
    assert read_table(path, encoding=encoding).rows() == [("ñ", "ü")]


def test_mark_is_stripped_where_the_encoding_names_the_byte_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\ufeffa,b\n1,2\n".encode("utf-16-le"))
    assert read_table(path, encoding="utf-16-le").columns == ["a", "b"]


# --- Batches --------------------------------------------------------------------------------


def test_batches_number_rows_and_can_be_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a\n" + "".join(f"{i}\n" for i in range(25)))
    with open_table(path, batch_rows=10) as reader:
        for _ in range(2):
            batches = list(reader)
            assert [b.first_row for b in batches] == [1, 11, 21]
            assert [b.frame.height for b in batches] == [10, 10, 5]
            assert {b.source for b in batches} == {str(path)}
            lines = np.concatenate([b.line_numbers for b in batches])  # type: ignore[arg-type]
            assert lines.tolist() == list(range(2, 27))
        assert reader.bytes_total == reader.bytes_read == path.stat().st_size


@pytest.mark.parametrize("block_bytes", [7, 64, 1000])
def test_block_size_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    text = "a,b\n" + "".join(f'{i},"x {i}\n, ""q"""\n' if i % 3 else f"{i},é\n" for i in range(99))
    path = write(tmp_path / "t.csv", text + '7,5" pipe\n' + text.partition("\n")[2])
    whole = list(open_table(path, batch_rows=10_000))
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(csv_blocks, "_SLOW_RECORDS", 13)
    monkeypatch.setattr(readers, "_HEAD_BYTES", 5)
    parts = list(open_table(path))
    assert pl.concat(b.frame for b in parts).equals(pl.concat(b.frame for b in whole))
    assert np.array_equal(
        np.concatenate([b.line_numbers for b in parts]),  # type: ignore[arg-type]
        np.concatenate([b.line_numbers for b in whole]),  # type: ignore[arg-type]
    )


def test_skipped_rows_are_null_and_say_why(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,2\n1\n\n3,4\n1,2,3\n")
    (batch,) = open_table(path, on_bad_row="skip")
    assert batch.frame.rows() == [("1", "2"), (None, None), ("3", "4"), (None, None)]
    assert batch.faults == {
        1: "1 field where the header has 2",
        3: "3 fields where the header has 2",
    }
    assert batch.line_numbers is not None
    assert batch.line_numbers.tolist() == [2, 3, 5, 6]
    assert read_table(path, on_bad_row="skip").rows() == [("1", "2"), ("3", "4")]


def test_skipped_rows_keep_their_places_over_batches_and_odd_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n5",2\n1\n3,4\n1,2,3\n5,6\n')
    batches = list(open_table(path, on_bad_row="skip", batch_rows=2))
    assert [dict(b.faults) for b in batches] == [
        {1: "1 field where the header has 2"},
        {1: "3 fields where the header has 2"},
        {},
    ]


# --- Standard input -------------------------------------------------------------------------


class _Stdin:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    content = b"a,b\n1,2\n3,4\n"
    monkeypatch.setattr(sys, "stdin", _Stdin(gzip.compress(content) if packed else content))
    reader = open_table("-")
    assert (reader.columns, reader.source, reader.bytes_total) == (("a", "b"), "<stdin>", None)
    assert [b.frame.rows() for b in reader] == [[("1", "2"), ("3", "4")]]
    with pytest.raises(TableError) as caught:
        list(reader)
    assert str(caught.value) == "<stdin> can be read only once: save it to a file first"


# --- Parquet, Arrow -------------------------------------------------------------------------


TYPED = pl.DataFrame(
    {
        "i": [1, None, 3],
        "f": [0.5, None, float("nan")],
        "s": ["x", None, "z"],
        "b": [True, None, False],
    }
).with_columns(t=pl.Series([0, 86_400_000_000, None]).cast(pl.Datetime("us")))


@pytest.mark.parametrize(
    ("suffix", "write_method"), [(".parquet", "write_parquet"), (".arrow", "write_ipc")]
)
def test_columnar_files_keep_types(tmp_path: Path, suffix: str, write_method: str) -> None:
    path = tmp_path / f"t{suffix}"
    getattr(TYPED, write_method)(path)
    for name in (path, path.rename(tmp_path / "no-suffix")):
        if not name.exists():
            continue
        reader = open_table(name, batch_rows=2)
        assert reader.columns == tuple(TYPED.columns)
        for _ in range(2):
            batches = list(reader)
            assert [b.first_row for b in batches][:2] == [1, 3]
            assert pl.concat(b.frame for b in batches).equals(TYPED)
            assert reader.bytes_read == reader.bytes_total
            assert batches[0].line_numbers is None


def test_columnar_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    TYPED.clear().write_parquet(path)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path} has 5 columns but no rows: nothing to read"


# --- In memory ------------------------------------------------------------------------------


def in_memory() -> list[Any]:
    pandas = pytest.importorskip("pandas")
    data = {"n": [1.5, None, 3.0], "s": ["x", None, "z"]}
    frame = pl.DataFrame(data)
    records = [{"n": 1.5, "s": "x"}, {"n": None}, {"n": 3, "s": "z"}]
    return [data, frame, frame.lazy(), pandas.DataFrame(data), records, frame.to_arrow()]


@pytest.mark.parametrize("which", range(6))
def test_in_memory_tables(which: int) -> None:
    source = in_memory()[which]
    reader = open_table(source, batch_rows=2)
    assert isinstance(reader, TableReader)
    batches = list(reader)
    assert [b.first_row for b in batches] == [1, 3]
    frame = pl.concat(b.frame for b in batches)
    assert frame.fill_nan(None).rows() == [(1.5, "x"), (None, None), (3.0, "z")]


def test_in_memory_table_without_rows_is_one_empty_batch() -> None:
    (batch,) = open_table(pl.DataFrame({"a": []}))
    assert batch.frame.shape == (0, 1)


def test_every_pandas_dtype_has_a_polars_type() -> None:
    pd = pytest.importorskip("pandas")
    day = pd.Timestamp("2024-02-29 12:00")
    frame = pd.DataFrame(
        {
            "int": [1, 2],
            "Int64": pd.array([2**60 + 1, None], dtype="Int64"),
            "Float64": pd.array([0.5, None], dtype="Float64"),
            "bool": [True, False],
            "boolean": pd.array([True, None], dtype="boolean"),
            "str": pd.Series(["x", None], dtype="str"),
            "category": pd.Categorical(["x", None]),
            "numbers": pd.Categorical([3, None]),
            "naive": [day, pd.NaT],
            "aware": pd.Series([day, pd.NaT]).dt.tz_localize("Europe/Berlin"),
            "delta": pd.to_timedelta([90, None], unit="s"),
            "mixed": [1, "x"],
            "nothing": [None, None],
            7: [1, 2],
        }
    )
    got = read_table(frame)
    assert dict(zip(got.columns, got.dtypes, strict=True)) == {
        "int": pl.Int64,
        "Int64": pl.Int64,
        "Float64": pl.Float64,
        "bool": pl.Boolean,
        "boolean": pl.Boolean,
        "str": pl.String,
        "category": pl.Categorical,
        "numbers": pl.Categorical,
        "naive": pl.Datetime("ns"),
        "aware": pl.Datetime("ns", "UTC"),
        "delta": pl.Duration("ns"),
        "mixed": pl.String,
        "nothing": pl.Null,
        "7": pl.Int64,
    }
    first, second = (dict(zip(got.columns, row, strict=True)) for row in got.rows())
    assert first["Int64"] == 2**60 + 1
    assert first["aware"].isoformat() == "2024-02-29T11:00:00+00:00"
    assert first["mixed"] == "1"
    assert {name for name, value in second.items() if value is None} == {
        *("Int64", "Float64", "boolean", "str", "category", "numbers", "naive", "aware"),
        *("delta", "nothing"),
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            pl.DataFrame({"a": [1], " a": [2]}),
            "<DataFrame>: the header is unusable:\n  'a' names 2 columns: 1, 2\n"
            "Remedy: give every column a name of its own",
        ),
        ({"a": [1, 2], "b": [1]}, "<dict>: columns of unequal length: [1, 2]"),
    ],
)
def test_unusable_in_memory_tables(source: Any, message: str) -> None:
    with pytest.raises(TableError) as caught:
        open_table(source)
    assert str(caught.value) == message


def test_what_is_no_table() -> None:
    with pytest.raises(UsageError) as caught:
        open_table(3)
    assert str(caught.value) == (
        "cannot read a table from int: hand in a path, a DataFrame, an Arrow table, a mapping "
        "of columns or a list of row mappings"
    )
