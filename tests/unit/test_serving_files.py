"""Score files: columns, formats, formula injection, atomic outputs, reasons."""

import contextlib
import csv
import io
import json
import os
import stat
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_model import toy_bundle, toy_table

from anomgan.errors import OutputError, SchemaError, UsageError
from anomgan.serving import Scorer, Verdicts
from anomgan.serving.files import score_table
from anomgan.serving.outputs import AtomicFile
from anomgan.serving.reasons import describe_rows
from anomgan.serving.writers import format_of, neutralised, open_writer, restored
from anomgan.tables.readers import Batch, open_table
from anomgan.tables.schema import Schema


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model"
    toy_bundle(path)
    return Scorer.open(path)


@pytest.fixture
def new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = toy_table(300, seed=1).with_columns(
        pressure=pl.when(pl.int_range(300) == 17).then(500.0).otherwise("pressure"),
    )
    table.write_csv("new.csv")
    return table


def _read(path, fmt):
    if fmt == "csv":
        return pl.read_csv(path)
    return pl.read_parquet(path) if fmt == "parquet" else pl.read_ndjson(path)


@pytest.mark.parametrize("fmt", ["csv", "parquet", "jsonl"])
def test_the_file_holds_the_scores_in_order(scorer, new, fmt):
    summary = score_table(scorer, open_table("new.csv", batch_rows=64), "out", fmt=fmt)
    frame = _read("out", fmt)
    assert frame.columns == ["row", "part_id", "score", "p_value", "is_anomaly"]
    expected = scorer.score(new)
    assert frame["row"].to_list() == list(range(1, 301))
    assert frame["part_id"].to_list() == new["part_id"].to_list()
    np.testing.assert_allclose(frame["score"], expected.score, rtol=1e-6)
    np.testing.assert_allclose(frame["p_value"], expected.p_value, rtol=1e-6)
    np.testing.assert_array_equal(frame["is_anomaly"], expected.is_anomaly)
    assert (summary.n_rows, summary.n_anomalies) == (300, int(expected.is_anomaly.sum()))
    assert summary.top[0].row == 18
    assert summary.top[0].identifier == "P1-00017"
    assert "pressure = 500" in summary.top[0].reason
    assert [t.score for t in summary.top] == sorted((t.score for t in summary.top), reverse=True)
    largest = np.sort(expected.score)[::-1][:5]
    np.testing.assert_array_equal([t.score for t in summary.top], largest)
    assert sorted(os.listdir()) == ["new.csv", "out"]


def test_columns_can_be_kept_and_do_not_clash(scorer, new):
    new.with_columns(score=pl.lit("A"), reason=pl.lit("b")).write_csv("new.csv")
    summary = score_table(scorer, open_table("new.csv"), "out", keep_columns=True, top_features=1)
    frame = pl.read_csv("out")
    assert frame.columns == [
        *("row", "part_id", "score", "p_value", "is_anomaly", "reason"),
        *("pressure", "mode", "speed", "plant", "input_score", "input_reason"),
    ]
    assert frame["input_score"][0] == "A"
    assert summary.extra_columns == ("score", "reason")


def test_a_table_without_the_identifier_has_no_such_column(scorer, new):
    score_table(scorer, open_table(new.drop("part_id")), "out")
    assert pl.read_csv("out").columns == ["row", "score", "p_value", "is_anomaly"]


def test_bad_rows_keep_their_place_with_the_reason(scorer, new):
    lines = Path("new.csv").read_text().splitlines()
    lines[3] = "P,1 bar,run,1,north"
    lines[5] = "too,few"
    with open("new.csv", "w") as file:
        file.write("\n".join(lines) + "\n")
    with pytest.raises(Exception, match="row 5"):
        score_table(scorer, open_table("new.csv"), "out")
    assert os.listdir() == ["new.csv"]
    summary = score_table(
        *(scorer, open_table("new.csv", on_bad_row="skip"), "out"), on_bad_row="skip"
    )
    assert (summary.n_rows, summary.n_unreadable, len(summary.faults)) == (300, 2, 2)
    frame = pl.read_csv("out")
    assert frame.columns[-1] == "reason"
    assert frame["score"].is_null().to_list()[:6] == [False, False, True, False, True, False]
    assert frame["is_anomaly"].null_count() == frame["p_value"].null_count() == 2
    assert "1 bar" in frame["reason"][2]
    assert "2" in frame["reason"][4]
    assert frame["reason"].null_count() == 298
    raw = Path("out").read_text().splitlines()
    assert raw[3].startswith("3,P,,,,")


def test_the_table_itself_is_not_overwritten(scorer, new):
    os.symlink("new.csv", "alias.csv")
    for output in ("new.csv", "alias.csv", "./new.csv"):
        with pytest.raises(UsageError, match="is the table itself; name another output with -o"):
            score_table(scorer, open_table("new.csv"), output)


def test_an_error_in_the_middle_leaves_nothing_and_keeps_what_was_there(scorer, new):
    Path("out").write_text("before")
    with open("new.csv", "a") as file:
        file.write("P,abc,run,1,north\n")
    with pytest.raises(SchemaError, match="abc"):
        score_table(scorer, open_table("new.csv", batch_rows=16), "out")
    assert sorted(os.listdir()) == ["new.csv", "out"]
    assert Path("out").read_text() == "before"


def test_progress_counts_rows(scorer, new):
    seen = []
    score_table(scorer, open_table("new.csv", batch_rows=128), "out", progress=seen.append)
    assert seen == [128, 256, 300]


# Formula injection


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+A1", "'+A1"),
        ("-cmd", "'-cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("-5", "-5"),
        ("+5.25e-3", "+5.25e-3"),
        ("-.5", "-.5"),
        ("-inf", "-inf"),
        ("-nan", "-nan"),
        ("-5+cmd|' /C calc'!A0", "'-5+cmd|' /C calc'!A0"),
        ("-5\n=1", "'-5\n=1"),
        ("-1,5", "-1,5"),
        ("-1.234,50", "-1.234,50"),
        (" -1.5 ", " -1.5 "),
        (" =1+1", "' =1+1"),
        ("\n@x", "'\n@x"),
        ("\uff1dcmd()", "'\uff1dcmd()"),
        ("'=1+1", "''=1+1"),
        ("'plain", "'plain"),
        ("plain", "plain"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_formulas_are_neutralised_and_numbers_left_alone(cell, expected):
    frame = neutralised(pl.DataFrame({"a": [cell], "n": [-1.5]}))
    assert frame["a"].to_list() == [expected]
    assert frame["n"].to_list() == [-1.5]


HOSTILE = st.text(alphabet="=+-@\t\r\n0159.eEaf' \uff1d", max_size=6)


@given(HOSTILE)
def test_no_cell_begins_like_a_formula_unless_it_is_a_number(cell):
    safe = neutralised(pl.DataFrame({"a": [cell]}))["a"][0]
    if safe[:1] in ("\t", "\r") or safe.lstrip()[:1] in tuple("=+-@\uff1d"):
        float(safe)
        assert "\n" not in safe
    assert safe in (cell, "'" + cell)


@given(st.lists(HOSTILE, min_size=1), HOSTILE.filter(bool))
def test_what_was_neutralised_can_be_read_back(cells, name):
    frame = pl.DataFrame([pl.Series(name, cells), pl.Series("number", [-1.5] * len(cells))])
    text = io.StringIO(neutralised(frame).write_csv(), newline="")
    (header, *records) = csv.reader(text)
    read = pl.DataFrame([list(column) for column in zip(*records, strict=True)], schema=header)
    back = restored(read)
    assert back.columns == frame.columns
    assert back[name].to_list() == cells
    assert back["number"].to_list() == ["-1.5"] * len(cells)
    assert restored(neutralised(frame)).equals(frame)


def test_names_that_are_patterns_or_formulas_stay_apart(scorer, new):
    """In an expression of Polars, a column called "*" would stand for all of them."""
    hostile = {"*": "=x", "^.*$": "b", "=a": "c", "'=a": "d", "-1.5": "e"}
    new.with_columns(**{k: pl.lit(v) for k, v in hostile.items()}).write_csv("new.csv")
    score_table(scorer, open_table("new.csv"), "out.csv", keep_columns=True)
    frame = pl.read_csv("out.csv")
    assert frame.columns[-5:] == ["*", "^.*$", "'=a", "''=a", "-1.5"]
    assert frame.row(0)[-5:] == ("'=x", "b", "c", "d", "e")
    assert restored(frame).columns[-5:] == list(hostile)
    assert restored(frame).row(0)[-5:] == tuple(hostile.values())


def test_headers_and_kept_cells_are_neutralised_in_csv_only(scorer, new):
    new.with_columns(pl.lit("=HYPERLINK()").alias("@x"), part_id=pl.lit("=1")).write_csv("new.csv")
    score_table(scorer, open_table("new.csv"), "out.csv", keep_columns=True)
    frame = pl.read_csv("out.csv")
    assert frame["'@x"][0] == "'=HYPERLINK()"
    score_table(scorer, open_table("new.csv"), "out.jsonl", fmt="jsonl", keep_columns=True)
    assert json.loads(Path("out.jsonl").read_text().splitlines()[0])["@x"] == "=HYPERLINK()"


# Outputs


def test_formats_follow_the_name_unless_asked_for():
    assert format_of("a.csv") == format_of("-") == format_of("a") == "csv"
    assert format_of("a.PARQUET") == "parquet"
    assert format_of("a.jsonl") == "jsonl"
    assert format_of("a.jsonl", "csv") == "csv"
    with pytest.raises(UsageError, match="must be one of csv, parquet, jsonl, got 'xlsx'"):
        format_of("a", "xlsx")


def test_an_output_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "o"
    target.write_text("before")
    with contextlib.suppress(KeyboardInterrupt), AtomicFile(target) as file:
        file.write(b"partial")
        assert target.read_text() == "before"
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["o"]
    assert target.read_text() == "before"
    with AtomicFile(target) as file:
        file.write(b"after")
    assert target.read_text() == "after"
    (tmp_path / "plain").write_text("x")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_are_followed_and_pipes_written_directly(tmp_path):
    (tmp_path / "link").symlink_to("real")
    with AtomicFile(tmp_path / "link") as file:
        file.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
    with AtomicFile("/dev/null") as file:
        file.write(b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_outputs_that_cannot_be_written_are_said(tmp_path):
    for path, reason in [
        (tmp_path, "is a directory; name a file with -o"),
        (tmp_path / "absent" / "o", "No such file or directory; choose another place with -o"),
        (tmp_path / ("x" * 300), "File name too long; choose another place with -o"),
    ]:
        with pytest.raises(OutputError, match=reason), AtomicFile(path):
            pass
    with pytest.raises(OutputError, match="No space left"), AtomicFile("/dev/full") as file:
        file.write(b"x" * 100_000)


def test_standard_output_is_data(capfdbinary):
    with AtomicFile("-") as file:
        file.write(b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff"


def test_parquet_is_put_together_from_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("anomgan.serving.writers._PART_ROWS", 100)
    with open_writer(str(tmp_path / "o.parquet"), "parquet") as writer:
        for i in range(7):
            writer.write(pl.DataFrame({"a": range(i * 64, i * 64 + 64), "t": ["x"] * 64}))
    assert pl.read_parquet(tmp_path / "o.parquet")["a"].to_list() == list(range(448))
    assert os.listdir(tmp_path) == ["o.parquet"]


def test_nested_columns_do_not_fit_into_csv(tmp_path):
    nested = pl.DataFrame({"tags": [["a", "b"]]})
    message = r"column 'tags' \(List\(String\)\) does not fit into CSV"
    with pytest.raises(UsageError, match=message), open_writer(str(tmp_path / "o"), "csv") as w:
        w.write(nested)
    assert os.listdir(tmp_path) == []
    with open_writer(str(tmp_path / "o"), "jsonl") as writer:
        writer.write(nested)
    assert json.loads((tmp_path / "o").read_text()) == {"tags": ["a", "b"]}


def test_not_a_number_is_null_in_json_lines(tmp_path):
    with open_writer(str(tmp_path / "o"), "jsonl") as writer:
        writer.write(pl.DataFrame({"a": [float("nan"), 1.0, float("inf")]}))
    values = [json.loads(line)["a"] for line in (tmp_path / "o").read_text().splitlines()]
    assert values == [None, 1.0, None]


# Reasons


def test_reasons_name_the_largest_contributions_with_their_values(scorer):
    table = pl.read_csv(
        io.StringIO(
            "pressure,mode,speed\n500,run,5\n100,turbo,5\n,run,5\n100,,100\n100,run,\n-900,run,6\n"
        )
    )
    batch = Batch(table, 1, "<t>")
    rows = scorer.schema.rows(batch)
    reasons = describe_rows(scorer.schema, rows, scorer.score(rows), top=2)
    highest = scorer.schema.columns[0].maximum
    assert reasons[0] == f"pressure = 500 (100 %, training maximum {highest:g})"
    assert reasons[1].startswith("mode = 'turbo' (89 %, never seen in training); ")
    assert reasons[3].startswith("speed = 100 (100 %, training maximum ")
    assert reasons[5].startswith("pressure = -900 (100 %, training minimum ")
    every = describe_rows(scorer.schema, rows, scorer.score(rows), top=9)
    assert "mode is missing" not in every[3]  # its share is below one per cent
    one = describe_rows(scorer.schema, rows, scorer.score(rows), top=9, positions=[1])
    assert one == [every[1]]


def test_reasons_write_every_kind_of_cell():
    frame = pl.DataFrame(
        {
            "when": pl.Series(["2024-01-01 00:00:00", "2024-01-02 12:00:00"] * 20),
            "open": ["true", "false"] * 20,
            "mode": ["a", "b", "b", None] * 10,
            "load": [1.0, 2.0] * 20,
        }
    )
    schema = Schema.infer(frame)
    rows = schema.rows(
        Batch(
            pl.DataFrame(
                {
                    "when": ["2025-06-01 08:30:00", None],
                    "open": ["true", "false"],
                    "mode": [None, "z" * 60],
                    "load": ["1", None],
                }
            ),
            1,
            "<t>",
        )
    )
    verdicts = Verdicts(
        score=np.full(2, 4, np.float32),
        p_value=np.full(2, 0.5, np.float32),
        is_anomaly=np.zeros(2, np.bool_),
        contributions=np.tile(np.array([1.5, 1.2, 0.8, 0.5, 0.0], np.float32), (2, 1)),
        feature_names=(*schema.feature_names, "discriminator"),
        false_alarm_rate=0.01,
    )
    first, second = describe_rows(schema, rows, verdicts, top=4)
    assert first == (
        "when = 2025-06-01 08:30:00 (38 %, training maximum 2024-01-02 12:00:00); "
        "open = true (30 %); mode is missing (20 %); load = 1 (12 %)"
    )
    assert second == (
        "when is missing (38 %, never missing in training); open = false (30 %); "
        f"mode = '{'z' * 40}…' (20 %, never seen in training); "
        "load is missing (12 %, never missing in training)"
    )


@pytest.mark.parametrize("fmt", ["csv", "parquet", "jsonl"])
def test_kept_columns_never_share_a_name(scorer, new, fmt):
    table = new.with_columns(score=pl.lit(7), input_score=pl.lit(8), input_row=pl.lit(9))
    score_table(scorer, open_table(table), "out", fmt=fmt, keep_columns=True)
    frame = _read("out", fmt)
    assert frame["input_score"][0] == 8
    assert frame["input_input_score"][0] == 7
    assert frame["input_row"][0] == 9


@pytest.mark.parametrize(
    ("column", "fmt"),
    [
        (pl.lit([1, 2]), "csv"),
        (pl.duration(seconds=3), "csv"),
        (pl.lit(b"x"), "csv"),
        (pl.lit(b"x"), "jsonl"),
        (pl.struct(a=pl.lit(b"x")), "jsonl"),
    ],
)
def test_a_column_that_the_format_cannot_hold_is_named(scorer, new, column, fmt):
    table = new.with_columns(odd=column)
    with pytest.raises(UsageError, match=r"^column 'odd' \(.*\) does not fit into "):
        score_table(scorer, open_table(table), "out", fmt=fmt, keep_columns=True)
    assert not Path("out").exists()


def test_rows_that_could_not_be_read_are_told_by_number(scorer, new):
    text = pl.col("pressure").cast(pl.String)
    raw = new.with_columns(
        pl.when(pl.int_range(300) == 99).then(pl.lit("97 bar")).otherwise(text).alias("pressure")
    )
    reader = open_table(raw, batch_rows=64)
    summary = score_table(scorer, reader, "out", on_bad_row="skip")
    assert summary.faults == ("row 100, column 'pressure': '97 bar' is not a number",)
