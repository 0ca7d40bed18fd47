"""Tables that nobody would wish for, through the command line: they work, or are told off.

Every table is fitted with few steps and scored again, with its columns kept. A refusal is one
message with exit code 2 and leaves nothing behind; a model gives every row a finite score.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from anomgan.serving import Scorer
from anomgan.serving.writers import restored
from anomgan.tables import Batch, Schema, SchemaOptions
from anomgan.tables.encoding import MAX_CATEGORIES, FeatureEncoder
from anomgan_cli.app import app

SHORT = ("--set", "n_steps=20", "--set", "n_members=2")
N = 40
NUMBERS = np.random.default_rng(0).normal(size=(N, 3)).round(4).tolist()


def table(*rows, names=(), newline="\n"):
    """Text of a table; cells are quoted where they have to be."""
    text = io.StringIO(newline="")
    names = names or [f"x{i}" for i in range(len(rows[0]))]
    csv.writer(text, lineterminator=newline).writerows([names, *rows])
    return text.getvalue()


def column(make):
    """A table of a column made for each row number, and one of plain numbers."""
    return table(*([make(i), NUMBERS[i % N][0]] for i in range(N)))


def dates(i):
    zone = ("Z", "+05:30", "-08:00")[i % 3]
    return f"{1850 + 7 * i}-{1 + i % 12:02d}-{1 + i % 28:02d}T{i % 24:02d}:00:00{zone}"


ACCEPTED = {
    "byte order mark, CRLF": b"\xef\xbb\xbf" + table(*NUMBERS, newline="\r\n").encode(),
    "UTF-16": table(*NUMBERS, names=("é", "b", "c")).encode("utf-16"),
    "quotes, commas, line breaks": table(
        *([row[0], f'say "{i % 3}",\nok'] for i, row in enumerate(NUMBERS)), names=("a", 'b "q", c')
    ),
    "patterns as names": table(*NUMBERS, names=("*", "^.*$", "x[0]")),
    "names of the output": table(*NUMBERS, names=("score", "input_score", "p_value")),
    "control characters as names": table(*NUMBERS, names=("a\x07", "\x1b[31m", "\u202eevil")),
    "formulas": table(*(["=A1+1", "@x", r[0]] for r in NUMBERS[1:]), ["+1+1", "y", -1.5]),
    "extreme numbers": column(lambda i: 1.7e308 * (-1) ** i if i % 9 == 0 else NUMBERS[i][1]),
    "nothing but extreme numbers": column(lambda i: 1e308 * (-1) ** i),
    "subnormal numbers": column(lambda i: 5e-324 * (i % 7)),
    "negative zeros": column(lambda i: -0.0 if i % 3 else i % 4),
    "integers beyond 2**53": column(lambda i: 2**53 + i % 5),
    "integers beyond 2**64": column(lambda i: 2**64 + i * i * 10**6),
    "old dates with time zones": column(dates),
    "the first and the last year": column(lambda i: f"{(1, 9999)[i % 2]:04d}-01-{1 + i % 28:02d}"),
    "all rows equal but one": table(*[[1, 2, "x"]] * N, [1, 3, "x"]),
    "fewer rows than columns": table(*np.random.default_rng(1).normal(size=(8, 20)).tolist()),
    "one column": table(*(row[:1] for row in NUMBERS)),
    "one column of texts": table(*(["abc"[i % 3]] for i in range(N))),
    "four rows": table(*NUMBERS[:4]),
    "a column that is hardly ever filled": column(lambda i: 1.5 if i in (3, 4) else ""),
    "a cell of ten megabytes": column(lambda i: "x" * (10**7 if i == 7 else 1 + i % 3)),
}

REFUSED = {
    "ragged": ("a,b\n1,2\n3\n", "rows with a wrong number of fields"),
    "binary": (np.random.default_rng(0).bytes(5000), "NUL byte, so this is no UTF-8 text"),
    "two encodings": (
        table(*[["é"]] * 9).encode() + "é\n".encode("latin-1"),
        "line 11: byte 0xE9 is not UTF-8 text",
    ),
    "repeated and empty names": ("a,,a\n1,2,3\n", "the header is unusable"),
    "all rows equal": (table(*[[1, 2, "x"]] * N), "no column is left to learn from"),
    "one row": (table(NUMBERS[0]), "1 row cannot be learnt from: at least 4 normal rows"),
    "a quoted cell of ten megabytes with a line break": (
        column(lambda i: "x\n" + "x" * (10**7 if i == 7 else 1)),
        "field larger than field limit (131072)",
    ),
    "20 000 columns": (
        table(*[["1"] * 20_000] * 2),
        "t.csv has 20,000 columns, and a model reads at most 10,000",
    ),
    "2 001 columns": (
        table(*[[i % 3] * 2001 for i in range(6)]),
        "2,001 columns are too many for the detector anomgan",
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def _written(content):
    Path("t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_is_learnt_and_every_row_has_a_score(here, name):
    _written(ACCEPTED[name])
    fit = run("fit", "t.csv", *SHORT)
    assert fit.exit_code == 0, fit.output
    score = run("score", "t.csv", "-o", "out.csv", "--keep-columns", "--top-features", "2")
    assert score.exit_code == 0, score.output
    assert not any(ord(c) < 32 and c not in "\n\t" for c in fit.stderr + score.stderr)
    found = pl.read_csv("out.csv", infer_schema=False)
    assert found.columns[:4] == ["row", "score", "p_value", "is_anomaly"]
    scores, p_values = (found[name].cast(pl.Float64).to_numpy() for name in ("score", "p_value"))
    assert np.isfinite(scores).all()
    assert ((p_values > 0.0) & (p_values <= 1.0)).all()
    cells = [cell for row in found.iter_rows() for cell in row if cell]
    for cell in (*found.columns, *cells):
        if cell[:1] in tuple("=+-@\t\r"):
            float(cell)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_nothing_is_left_behind(here, name):
    content, message = REFUSED[name]
    _written(content)
    result = run("fit", "t.csv", *SHORT)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Remedy: " in result.stderr or ": " in result.stderr
    assert len(result.stderr) < 20_000
    assert os.listdir() == ["t.csv"]


def test_a_long_text_is_no_category_even_if_asked_for(here):
    _written(ACCEPTED["a cell of ten megabytes"])
    result = run("fit", "t.csv", *SHORT, "--categorical", "x0")
    assert result.exit_code == 2, result.output
    assert result.stderr == (
        "Error: t.csv: unreadable cells:\n  row 8, column 'x0': a text of 10,000,000 characters is "
        "no category (at most 1,000)\nRemedy: fix the cells (a decimal point, no thousands "
        "separators), leave them empty if the value is unknown, or choose among --drop x0\n"
    )


def test_formulas_are_safe_in_the_output_and_can_be_read_back(here):
    cells = ["=cmd|' /C calc'!A0", "@SUM(1)", "+1-1", "-1.5", "'=x", "plain"]
    _written(table(*([cells[i % 6], row[0]] for i, row in enumerate(NUMBERS)), names=("=t", "n")))
    assert run("fit", "t.csv", *SHORT).exit_code == 0
    assert run("score", "t.csv", "-o", "out.csv", "--keep-columns").exit_code == 0
    raw = pl.read_csv("out.csv", infer_schema=False)
    assert raw["'=t"][:6].to_list() == [
        *("'=cmd|' /C calc'!A0", "'@SUM(1)", "'+1-1", "-1.5", "''=x", "plain")
    ]
    assert restored(raw)["=t"][:6].to_list() == cells


def test_a_scorer_ignores_a_hundred_thousand_columns_more(here, machine_model, machine_files):
    """What a model does not know costs reading time and nothing else."""
    wide = pl.read_csv(machine_files[1], infer_schema=False).head(1)
    extra = pl.DataFrame([pl.Series(f"extra{i}", ["1"]) for i in range(100_000)])
    wide.hstack(extra).write_csv("t.csv")
    result = run("score", "t.csv", "-m", str(machine_model), "-o", "out.csv")
    assert result.exit_code == 0, result.output
    plain = Scorer.open(machine_model, providers="cpu").score(wide)
    np.testing.assert_allclose(pl.read_csv("out.csv")["score"], plain.score, rtol=1e-6)


def test_a_million_categories_share_the_features_there_are():
    """Forced in: by itself, a column of texts that nearly never repeat is set aside."""
    frame = pl.DataFrame({"c": pl.int_range(10**6, eager=True).cast(pl.String) + "k"})
    schema = Schema.infer(frame, SchemaOptions(categorical=("c",)))
    encoder = FeatureEncoder.fit(schema, schema.rows(Batch(frame, 1, "t")))
    assert encoder.n_features == MAX_CATEGORIES + 1
    assert len(encoder.tables[0].features) < MAX_CATEGORIES + 5  # and not a row for each of them
    encoded = encoder.transform(schema.rows(Batch(frame.head(9), 1, "t")))
    assert np.isfinite(encoded.features).all()
    assert not encoded.surprise.any()


# --- Any row at all -------------------------------------------------------------------------

ANY = (
    st.none()
    | st.text(max_size=8)
    | st.floats()
    | st.integers()
    | st.booleans()
    | st.datetimes()
    | st.sampled_from(["1e999", "-0", "nan", "9" * 400, "0001-01-01", "\x00", "\udc80", "=1", "é"])
)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_row_with_the_right_columns_is_scored_or_skipped_with_a_reason(scorer, data):
    names = scorer.schema.feature_names
    n = data.draw(st.integers(1, 4))
    rows = [{name: data.draw(ANY) for name in names} for _ in range(n)]
    verdicts = scorer.score(rows, on_bad_row="skip")
    assert len(verdicts) == n
    read = ~np.isnan(verdicts.score)
    assert np.isfinite(verdicts.score[read]).all()
    assert np.isfinite(verdicts.contributions[read]).all()
    assert not verdicts.is_anomaly[~read].any()


@pytest.fixture(scope="module")
def scorer(machine_model):
    return Scorer.open(machine_model, providers="cpu")
