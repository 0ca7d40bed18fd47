"""Bad input: every message in full, so that a change of wording is a decision."""

from __future__ import annotations

import gzip
import os
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from anomgan.errors import InputError, SchemaError, TableError, UsageError
from anomgan.tables import (
    Batch,
    ColumnKind,
    Schema,
    SchemaOptions,
    csv_blocks,
    keep_normal,
    open_table,
    read_table,
)
from anomgan.tables.cells import describe_bad_cell

GOOD = "age,job\n" + "".join(f"{20 + i % 7},{'ab'[i % 2]}\n" for i in range(40))
CELL_REMEDY = (
    "fix the cells (a decimal point, no thousands separators), leave them empty if the value "
    "is unknown, or "
)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name files as they were given: short relative names keep them readable."""
    monkeypatch.chdir(tmp_path)


def message_of(error: type[InputError], content: str | bytes, name: str = "t.csv") -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error) as caught:
        Schema.infer(read_table(name), source=name)
    return str(caught.value)


def unfit(schema: Schema, frame: pl.DataFrame, **numbers: int) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        schema.rows(Batch(frame, numbers.get("first_row", 1), "new.csv"))
    return caught.value


# --- Files ----------------------------------------------------------------------------------


def test_missing_file() -> None:
    with pytest.raises(TableError, match=r"^absent\.csv does not exist: check the name and the"):
        open_table("absent.csv")


def test_missing_file_with_a_likely_name_beside_it() -> None:
    Path("normal.csv").write_text(GOOD)
    with pytest.raises(TableError) as caught:
        open_table("norml.csv")
    assert str(caught.value) == "norml.csv does not exist: did you mean 'normal.csv'?"


def test_missing_folder() -> None:
    with pytest.raises(TableError) as caught:
        open_table("no/such/file.csv")
    assert str(caught.value) == "no/such/file.csv does not exist: check the name and the folder"


def test_directory() -> None:
    Path("tables").mkdir()
    with pytest.raises(TableError) as caught:
        open_table("tables")
    assert str(caught.value) == "tables is a directory, not a table: name one file in it"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe() -> None:
    os.mkfifo("pipe")
    with pytest.raises(TableError) as caught:
        open_table("pipe")
    assert str(caught.value) == (
        "pipe is a pipe or a device, which cannot be read twice: name '-' instead and send it to "
        "standard input, as in '- < pipe'"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_file_without_permission() -> None:
    Path("t.csv").write_text(GOOD)
    Path("t.csv").chmod(0)
    with pytest.raises(TableError) as caught:
        open_table("t.csv")
    assert str(caught.value) == "t.csv cannot be read: permission denied"


@pytest.mark.parametrize(
    "content", [b"", b"\n \n\r\n", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf"]
)
def test_empty_file(content: bytes) -> None:
    assert message_of(TableError, content) == (
        "t.csv is empty: expected a header line with column names, then rows"
    )


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\r\n\r\n", '"a",b\n\n \n'])
def test_header_only(content: str) -> None:
    assert message_of(TableError, content) == (
        "t.csv has a header (2 columns) but no rows: nothing to read"
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04rest", "a zip archive or a spreadsheet (.xlsx, .ods)"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel file (.xls)"),
    ],
)
def test_files_of_another_kind(content: bytes, what: str) -> None:
    assert message_of(TableError, content) == (
        f"t.csv is {what}, not a table: export it as CSV or Parquet"
    )


def test_parquet_in_name_only() -> None:
    assert message_of(TableError, GOOD, "t.parquet") == (
        "t.parquet is not a Parquet file, whatever its name says: write it again"
    )


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_damaged_columnar_file(name: str) -> None:
    frame = pl.DataFrame({"a": np.arange(1000)})
    frame.write_parquet(name) if name == "t.parquet" else frame.write_ipc(name)
    content = Path(name).read_bytes()
    message = message_of(TableError, content[: len(content) // 2], name)
    assert re.fullmatch(rf"{re.escape(name)} cannot be read \(.+\): write the file again", message)


def test_a_columnar_file_at_which_polars_panics() -> None:
    """Found by tests/acceptance/fuzz.py: the exception is none of polars' own, and no Exception."""
    footer = (
        b"\x15\x02\x19<H\x04root\x15\x04\x00\x15\n%\x02\x18\x08pressure\x00\x15\x0c%\x02\x18\x04te%"
        b"\x00\x00\x16\x08\x19\x1c\x19,&\x01\x1c\x15\n\x19\x06\x19\x18\x08pressure\x15\x00\x16\x08"
        b"\x16\x01\x16\x01&\t<6\x00(\x08\xcd\xcc\xcc<Y\xf2U@\x00\x00\x16>\x00&\x03\x1c\x15\x0c\x195"
        b"\x00\x06\x10\x19\x18\x04site\x15\x00\x16\x08\x16\x01\x16\x01&\x02&\x02\x1c\x05orth\x00\x00"
        b"\x162\x00\x16\x02\x14\x00\x00\x19\x0cA\xe8\x01"
        b"AAAEAAAA8v///xQAAAAEAAEAAAAKAAsACAAKAAQA+P///wwAAAAIAAgAAAAEAAIAAAA0AAAABAAAAMD///8cAAAAEAAA"
        b"AAgAAAABFAAAAAAAAPz///8EAAQABAAAAHNpdGUAAAAA7P///zAAAAAgAAAAGAAAAAEDAAAQABIABAAQABEACAAAAAwA"
        b"AAAAAPr///8CAAYABgAEAAgAAABwcmVzc3VyZQA=\x00\x18\x00\x00"
    )
    content = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    message = message_of(TableError, content, "t.parquet")
    assert message.startswith("t.parquet cannot be read (")
    assert message.endswith("): write the file again")


def test_damaged_gzip() -> None:
    whole = gzip.compress("".join(f"{i},{i * i}\n" for i in range(9999)).encode())
    assert message_of(TableError, whole[:-2000], "t.csv.gz") == (
        "t.csv.gz: damaged gzip data (Compressed file ended before the end-of-stream marker was "
        "reached): copy or download the file again"
    )


# --- Headers, records, bytes ----------------------------------------------------------------


def test_repeated_and_empty_names_are_told_together() -> None:
    assert message_of(TableError, "a,b,a,\n1,2,3,4\n") == (
        "t.csv: the header is unusable:\n"
        "  column 4 has no name\n"
        "  'a' names 2 columns: 1, 3\n"
        "Remedy: give every column a name of its own; if the file has no header line, put one "
        "in front"
    )


def test_no_header() -> None:
    assert message_of(TableError, "0.5,-1\n0.25,-2\n") == (
        "t.csv: the header is unusable:\n"
        "  it holds only numbers: '0.5', '-1'\n"
        "Remedy: give every column a name of its own; if the file has no header line, put one "
        "in front"
    )


RAGGED = "a,b,c\n1,2,3\n1,2\n\n1,2,3,4\n" + "5\n" * 5 + "1,2,3\n"
RAGGED_MESSAGE = (
    "t.csv: rows with a wrong number of fields:\n"
    "  row 2 (line 3): 2 fields where the header has 3\n"
    "  row 3 (line 5): 4 fields where the header has 3\n"
    "  row 4 (line 6): 1 field where the header has 3\n"
    "  row 5 (line 7): 1 field where the header has 3\n"
    "  row 6 (line 8): 1 field where the header has 3\n"
    "  and 2 more\n"
    "Remedy: fix these lines (put quotes around fields that hold the delimiter), name another "
    "--delimiter, or keep going with --on-bad-row skip"
)


def test_ragged_lines() -> None:
    assert message_of(TableError, RAGGED) == RAGGED_MESSAGE


def test_ragged_lines_after_an_odd_quote() -> None:
    assert message_of(TableError, RAGGED.replace("1,2,3\n", '1,2",3\n', 1)) == RAGGED_MESSAGE


def test_all_ragged_faults_are_kept() -> None:
    Path("t.csv").write_text(RAGGED)
    with pytest.raises(TableError) as caught:
        read_table("t.csv")
    assert len(caught.value.faults) == 7
    assert caught.value.faults[-1] == "row 8 (line 10): 1 field where the header has 3"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a,b\nx,1\ncafé,2\n", 3),
        ("é,b\nx,1\n", 1),
        ('a,b\n"x\ny",1\ncafé,2\n', 4),
        ('a,b\n5" pipe,1\ncafé,2\n', 3),
        ("a,b\nx,1\ncafé,2", 3),
    ],
)
def test_wrong_encoding(content: str, line: int) -> None:
    assert message_of(TableError, content.encode("latin-1")) == (
        f"t.csv, line {line}: byte 0xE9 is not UTF-8 text: pass the file's true encoding, for "
        "example --encoding latin-1"
    )


def test_wrong_encoding_far_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", 100)
    content = ("a,b\n" + "é,1\n" * 90_000).encode() + "é,2\n".encode("latin-1")
    assert message_of(TableError, content).startswith("t.csv, line 90002: byte 0xE9 is not UTF-8")


def test_utf16_without_a_mark() -> None:
    assert message_of(TableError, "a,b\n1,2\n".encode("utf-16-le")) == (
        "t.csv, line 1: holds a NUL byte, so this is no UTF-8 text: pass --encoding utf-16 if it "
        "is text in UTF-16, or export the table as CSV"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_an_encoding_with_a_mark_for_text_without_one(encoding: str) -> None:
    Path("t.csv").write_text(GOOD)
    with pytest.raises(TableError, match=rf"^t\.csv: not {encoding} text \(.*\): pass the file's"):
        open_table("t.csv", encoding=encoding)


def test_a_line_that_never_ends_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of gzip may hold a gigabyte of one line."""
    monkeypatch.setattr(csv_blocks, "_MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", 1 << 16)
    endless = ["x" * 60_000_000, '"' + "x\n" * 30_000_000, '"x\n",' * 8_000_000]
    for text in endless:
        Path("t.csv.gz").write_bytes(gzip.compress(f"a,b\n1,2\n{text}".encode(), 1))
        tracemalloc.start()
        with pytest.raises(
            TableError, match=r"^t\.csv\.gz, line \d+: (a record with more|the rec)"
        ):
            read_table("t.csv.gz")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 40_000_000


def test_wrong_encoding_asked_for() -> None:
    Path("t.csv").write_bytes("a,b\né,1\n".encode())
    with pytest.raises(TableError) as caught:
        open_table("t.csv", encoding="ascii")
    assert str(caught.value) == (
        "t.csv: not ascii text (ordinal not in range(128)): pass the file's true encoding with "
        "--encoding"
    )


@pytest.mark.parametrize("encoding", ["latin-99", "rot13", "base64", "a\0b"])
def test_unknown_encoding(encoding: str) -> None:
    Path("t.csv").write_text(GOOD)
    with pytest.raises(UsageError) as caught:
        open_table("t.csv", encoding=encoding)
    assert str(caught.value) == (
        f"unknown encoding {encoding!r}: use a name such as utf-8, latin-1, cp1252 or utf-16"
    )


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "é"])
def test_impossible_delimiter(delimiter: str) -> None:
    Path("t.csv").write_text(GOOD)
    with pytest.raises(UsageError) as caught:
        open_table("t.csv", delimiter=delimiter)
    assert str(caught.value) == (
        f"delimiter {delimiter!r} is not one ASCII character: use ',', ';', '|' or 'tab'"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [('a,b\n1,2\n3,"x\n4,5\n', 3), ('a,b\n5" pipe,2\n1,2\n3,"x\n4,5\n', 4), ('a,b\n1,"x', 2)],
)
def test_quote_that_is_never_closed(content: str, line: int) -> None:
    assert message_of(TableError, content) == (
        f"t.csv, line {line}: the record that starts here cannot be read (it never ends): is a "
        "quote never closed?"
    )


@pytest.mark.parametrize("content", ["a,b\n1,2\n3,x\ry\n", 'a,b\n5",2\n3,"x"\ry\n'])
def test_carriage_return_inside_of_a_line(content: str) -> None:
    assert message_of(TableError, content) == (
        "t.csv, line 3: a carriage return stands inside of the line: end every line in the same "
        "way, or put quotes around the field"
    )


def test_quote_that_is_never_closed_in_a_long_file() -> None:
    content = 'a,b\n1,"x\n' + "4,5\n" * 100_000
    assert message_of(TableError, content) == (
        "t.csv, line 2: the record that starts here cannot be read (field larger than field "
        "limit (131072)): is a quote never closed?"
    )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_rows": 0}, "batch_rows is 0: it must be at least 1"),
        ({"on_bad_row": "drop"}, "on_bad_row is 'drop': use 'error' or 'skip'"),
    ],
)
def test_options_of_the_reader(keywords: dict[str, object], message: str) -> None:
    Path("t.csv").write_text(GOOD)
    with pytest.raises(UsageError) as caught:
        open_table("t.csv", **keywords)  # type: ignore[arg-type]
    assert str(caught.value) == message


# --- Training tables ------------------------------------------------------------------------


def test_no_rows_in_memory() -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.infer(pl.DataFrame({"a": []}), source="<DataFrame>")
    assert str(caught.value) == "<DataFrame> has no rows: a schema needs at least one"


def test_one_row_has_a_schema() -> None:
    """How many rows are too few is for `fit` to say."""
    Path("t.csv").write_text("age,job,x\n20,a,\n")
    schema = Schema.infer(read_table("t.csv"))
    assert schema.feature_names == ("age", "job")
    assert schema.n_rows == 1


def test_all_missing_column_is_set_aside() -> None:
    Path("t.csv").write_text("a,b\n" + "".join(f"{i % 5},{' ?'[i % 2]}\n" for i in range(9)))
    (aside,) = Schema.infer(read_table("t.csv")).set_aside
    assert (aside.name, aside.reason) == ("b", "all missing")
    assert aside.detail == "column 'b' has no value in any row"


def test_nothing_left_to_learn_from() -> None:
    rows = "".join(f"{i},7,NA\n" for i in range(30))
    assert message_of(SchemaError, "id,same,void\n" + rows) == (
        "t.csv: no column is left to learn from:\n"
        "  column 'id' looks like a row identifier (whole numbers, all different, under the name "
        "of one); use it as a feature with --numeric id\n"
        "  column 'same' has one value, '7', in every row; use it as a feature with --numeric "
        "same\n"
        "  column 'void' has no value in any row\n"
        "Remedy: keep at least one column that varies from row to row"
    )


def numbers_with(*wrong: str) -> str:
    return "x,y z\n" + "".join(f"{i % 17}.5,{i % 5}\n" for i in range(99)) + "".join(wrong)


def test_text_in_a_numeric_column() -> None:
    assert message_of(SchemaError, numbers_with("1,2\n", "abc,1\n", "2,x\n", "n.a.,3\n")) == (
        "t.csv: unreadable cells:\n"
        "  row 101, column 'x': 'abc' is not a number\n"
        "  row 102, column 'y z': 'x' is not a number\n"
        "  row 103, column 'x': 'n.a.' is not a number\n"
        f"Remedy: {CELL_REMEDY}choose among --categorical x --drop x --categorical 'y z' "
        "--drop 'y z'"
    )


@pytest.mark.parametrize("wrong", ["inf", "-Infinity", " +INF ", "1e999"])
def test_infinite_values(wrong: str) -> None:
    assert message_of(SchemaError, numbers_with(f"{wrong},1\n")) == (
        f"t.csv: unreadable cells:\n  row 100, column 'x': {wrong!r} is infinite\n"
        f"Remedy: {CELL_REMEDY}choose among --categorical x --drop x"
    )


def test_infinite_values_in_memory() -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.infer(pl.DataFrame({"x": [1.0, np.inf, np.nan, -np.inf]}), source="<DataFrame>")
    assert str(caught.value) == (
        "<DataFrame>: unreadable cells:\n"
        "  row 2, column 'x': 'inf' is infinite\n"
        "  row 4, column 'x': '-inf' is infinite\n"
        f"Remedy: {CELL_REMEDY}choose among --categorical x --drop x"
    )


def test_nan_is_missing_and_no_fault() -> None:
    Path("t.csv").write_text(numbers_with("NaN,1\n", "nan,2\n", "-nan,3\n", ",4\n"))
    (x, _) = Schema.infer(read_table("t.csv")).columns
    assert x.n_missing == 4


@pytest.mark.parametrize("cell", ["1,5", "1.234,5", "1,234,567.5", "12 345", "1'234"])
def test_decimal_commas_and_thousands_separators(cell: str) -> None:
    rows = "".join(f'"{cell}",{i % 5}\n' for i in range(25))
    assert message_of(SchemaError, "x,y\n" + rows).startswith(
        "t.csv: unreadable cells:\n"
        f"  row 1, column 'x': {cell!r} is not a number (thousands separator or decimal comma)\n"
    )


def test_dates_of_which_few_are_none() -> None:
    days = [f"{1 + i % 12}/{1 + i % 28}/2024" for i in range(60)] + ["2/30/2024", "soon"]
    assert message_of(SchemaError, "day,x\n" + "".join(f"{day},1\n" for day in days)) == (
        "t.csv: unreadable cells:\n"
        "  row 61, column 'day': '2/30/2024' is not a date written as M/D/Y\n"
        "  row 62, column 'day': 'soon' is not a date written as M/D/Y\n"
        f"Remedy: {CELL_REMEDY}choose among --categorical day --drop day"
    )


def test_nested_columns() -> None:
    frame = pl.DataFrame({"a": [[1], [2]], "b": [1.0, 2.0]})
    with pytest.raises(SchemaError) as caught:
        Schema.infer(frame, source="t.parquet")
    assert str(caught.value) == (
        "t.parquet: unreadable cells:\n"
        "  column 'a': its cells are List(Int64), not single values\n"
        f"Remedy: {CELL_REMEDY}choose among --drop a"
    )


def test_options_that_name_no_column_or_contradict_each_other() -> None:
    frame = pl.DataFrame({"Age": [1.0, 2.0], "job": ["a", "b"]})
    options = SchemaOptions(
        drop=("age", "job"), categorical=("job",), numeric=("q",), id_column="w", label="e"
    )
    with pytest.raises(UsageError) as caught:
        Schema.infer(frame, options, source="t.csv")
    assert str(caught.value) == (
        "t.csv: options that do not fit:\n"
        "  --drop age: no such column (did you mean 'Age'?)\n"
        "  --numeric q: no such column\n"
        "  --id-column w: no such column\n"
        "  --label e: no such column\n"
        "  --drop job and --categorical job contradict each other\n"
        "Remedy: the columns are 'Age', 'job'"
    )


# --- Labels ---------------------------------------------------------------------------------


def test_label_column_that_is_not_there() -> None:
    with pytest.raises(UsageError) as caught:
        keep_normal(pl.DataFrame({"a": [1], "Class": [0]}), "class", ["0"], source="t.csv")
    assert str(caught.value) == (
        "t.csv: no label column 'class' (did you mean 'Class'?): the columns are 'a', 'Class'"
    )


def test_normal_value_that_no_row_has() -> None:
    frame = pl.DataFrame({"y": [" ok", "ok", "bad", None]})
    with pytest.raises(UsageError) as caught:
        keep_normal(frame, "y", ["fine", "OK"], source="t.csv")
    assert str(caught.value) == (
        "t.csv: no row has 'fine' or 'OK' in label column 'y': name the normal value among those "
        "found (with their rows): 'ok' (2), 'bad' (1)"
    )


# --- Rows to score --------------------------------------------------------------------------


@pytest.fixture
def schema() -> Schema:
    Path("t.csv").write_text(
        "age,job,ok,day\n"
        + "".join(
            f"{20 + i % 7}.5,{'ab'[i % 2]},{i % 3 == 0},2024-01-{1 + i % 28}\n" for i in range(60)
        )
    )
    return Schema.infer(read_table("t.csv"))


def test_missing_columns_and_bad_cells_are_told_together(schema: Schema) -> None:
    frame = pl.DataFrame({"Age": ["1"], "ok": ["maybe"], "day": ["30.02.2024"]})
    error = unfit(schema, frame, first_row=17)
    assert str(error) == (
        "new.csv: missing columns and unreadable cells:\n"
        "  column 'age' is missing (did you mean 'Age'?)\n"
        "  column 'job' is missing\n"
        "  row 17, column 'ok': 'maybe' is not true or false\n"
        "  row 17, column 'day': '30.02.2024' is not a date written as Y-M-D\n"
        "Remedy: the table needs every column the model was trained on; it has 'Age', 'ok', "
        "'day'; fix the cells (a decimal point, no thousands separators), leave them empty if the "
        "value is unknown, or keep going with --on-bad-row skip"
    )
    assert len(error.faults) == 4


def test_bad_cells_name_row_and_line(schema: Schema) -> None:
    Path("new.csv").write_text(
        'day,age,ok,job\n2024-01-01,21,true,"a\nb"\n2024-01-02,abc,false,c\n,inf,,\n'
    )
    (batch,) = open_table("new.csv")
    with pytest.raises(SchemaError) as caught:
        schema.rows(batch)
    assert str(caught.value) == (
        "new.csv: unreadable cells:\n"
        "  row 2 (line 4), column 'age': 'abc' is not a number\n"
        "  row 3 (line 5), column 'age': 'inf' is infinite\n"
        f"Remedy: {CELL_REMEDY}keep going with --on-bad-row skip"
    )


def test_many_bad_cells_are_counted(schema: Schema) -> None:
    frame = pl.DataFrame({"age": ["x" * 99] * 8, "job": "a", "ok": "T", "day": "2024-01-01"})
    error = unfit(schema, frame)
    lines = str(error).splitlines()
    assert lines[1] == "  row 1, column 'age': '" + "x" * 37 + "...' is not a number"
    assert lines[6] == "  and 3 more"
    assert len(error.faults) == 8


def test_dates_where_numbers_belong(schema: Schema) -> None:
    frame = pl.DataFrame({"age": ["2024-01-01"], "job": "a", "ok": "T", "day": "2024-01-01"})
    typed = frame.with_columns(pl.col("age").str.to_date())
    assert "row 1, column 'age': '2024-01-01' is not a number" in str(unfit(schema, typed))


def test_nested_cells_where_text_belongs(schema: Schema) -> None:
    frame = pl.DataFrame({"age": [1.0], "job": [["a"]], "ok": [True], "day": ["2024-01-01"]})
    assert str(unfit(schema, frame)) == (
        "new.csv: column 'job' holds List(String), not single values: turn its cells into text"
    )


def test_many_bad_cells_are_told_at_once() -> None:
    frame = pl.DataFrame({"a": [f"{i},5" for i in range(40_000)]})
    began = time.monotonic()
    with pytest.raises(SchemaError, match="and 39,995 more") as caught:
        Schema.infer(frame)
    assert len(caught.value.faults) == 40_000
    assert time.monotonic() - began < 5.0  # it was ten seconds with a Polars call a cell


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-1e999", "is infinite"),
        (".5e+400", "is infinite"),
        ("+Inf", "is infinite"),
        ("1_0e400", "is not a number"),
        ("\u0661e999", "is not a number"),
        ("1'000.5", "is not a number (thousands separator or decimal comma)"),
    ],
)
def test_what_is_wrong_with_a_number(text: str, what: str) -> None:
    assert describe_bad_cell(text, ColumnKind.NUMERIC) == f"{text!r} {what}"
