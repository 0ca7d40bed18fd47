"""``anomgan score`` as people and scripts use it."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan_cli.app import app

ANOMGAN = [sys.executable, "-c", "from anomgan_cli.app import app; app()"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    table = toy_table(300, seed=1).with_columns(
        pressure=pl.when(pl.int_range(300) == 17).then(500.0).otherwise("pressure"),
    )
    table.write_csv("new.csv")
    return tmp_path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["score", *arguments], **options)


def files():
    return sorted(p.name for p in Path().iterdir() if p.name != "anomgan-model")


def test_a_table_needs_no_other_argument(here):
    result = run("new.csv")
    assert result.exit_code == 0, result.output
    assert files() == ["new.csv", "new.scores.csv"]
    frame = pl.read_csv("new.scores.csv")
    assert frame.columns == ["row", "part_id", "score", "p_value", "is_anomaly"]
    assert frame.height == 300
    assert frame["is_anomaly"].sum() == 3
    assert result.stdout == ""
    assert "3 anomalies in 300 rows at a false-alarm rate of 0.01" in result.stderr
    assert "row 18 (P1-00017)" in result.stderr
    assert "pressure = 500 (100 %, training maximum " in result.stderr
    assert "Scores: new.scores.csv (" in result.stderr
    assert " on CPU" in result.stderr


def test_the_scores_go_where_asked_in_the_format_asked(here):
    for arguments, written, read in [
        (["-o", "a.parquet"], "a.parquet", pl.read_parquet),
        (["--format", "jsonl"], "new.scores.jsonl", pl.read_ndjson),
        (["-o", "b.txt", "--format", "parquet"], "b.txt", pl.read_parquet),
        (["--output", "c.csv"], "c.csv", pl.read_csv),
    ]:
        assert run("new.csv", *arguments, "--quiet").exit_code == 0
        assert read(written).height == 300


def test_stdout_is_data_and_stderr_is_talk(here):
    result = run("new.csv", "-o", "-")
    assert pl.read_csv(io.StringIO(result.stdout)).height == 300
    assert "Scores: standard output" in result.stderr
    assert files() == ["new.csv"]
    quiet = run("new.csv", "-o", "-", "--quiet")
    assert quiet.stdout == result.stdout
    assert quiet.stderr == ""


def test_stdin_goes_to_stdout(here):
    result = run("-", input=Path("new.csv").read_bytes())
    assert pl.read_csv(io.StringIO(result.stdout)).height == 300
    parquet = subprocess.run(
        [*ANOMGAN, "score", "-", "--format", "parquet", "-q"],
        input=Path("new.csv").read_bytes(),
        capture_output=True,
        check=True,
    )
    assert pl.read_parquet(io.BytesIO(parquet.stdout)).height == 300


def test_the_default_output_is_named_after_the_table(here):
    (here / "data").mkdir()
    with gzip.open("data/Log.v2.csv.gz", "wb") as file:
        file.write(Path("new.csv").read_bytes())
    assert run("data/Log.v2.csv.gz").exit_code == 0
    assert files() == ["Log.v2.scores.csv", "data", "new.csv"]


def test_columns_and_reasons_on_request(here):
    result = run("new.csv", "--keep-columns", "--top-features", "2", "-o", "o.csv")
    assert result.exit_code == 0
    frame = pl.read_csv("o.csv")
    assert frame.columns == [
        *("row", "part_id", "score", "p_value", "is_anomaly", "reason"),
        *("pressure", "mode", "speed", "plant"),
    ]
    assert frame["reason"][17].startswith("pressure = 500 (100 %")
    assert run("new.csv", "--top-features", "-1").exit_code == 2


def test_the_rate_decides_and_anomalies_can_fail_the_command(here):
    assert run("new.csv", "--fail-on-anomaly").exit_code == 3
    assert run("new.csv", "--fail-on-anomaly", "--false-alarm-rate", "0.0025").exit_code == 3
    few = pl.read_csv("new.scores.csv")["is_anomaly"].sum()
    assert run("new.csv", "--false-alarm-rate", "0.2").exit_code == 0
    assert few < 3 < pl.read_csv("new.scores.csv")["is_anomaly"].sum()
    toy_table(50).head(20).write_csv("calm.csv")
    assert run("calm.csv", "--fail-on-anomaly").exit_code == 0
    refused = run("new.csv", "--false-alarm-rate", "0.0001")
    assert refused.exit_code == 2
    assert "needs 9999 calibration rows and the model has 400" in refused.stderr


def test_extra_columns_are_named_in_one_line(here):
    pl.read_csv("new.csv").with_columns(label=pl.lit("ok"), b=1).write_csv("new.csv")
    result = run("new.csv")
    assert result.exit_code == 0
    assert "Ignored columns that the model does not know: label, b\n" in result.stderr


def test_bad_rows_stop_or_are_kept_with_the_reason(here):
    lines = Path("new.csv").read_text().splitlines()
    lines[4] = "P1-3,97 bar,run,4.2,north"
    Path("new.csv").write_text("\n".join(lines) + "\n")
    stopped = run("new.csv")
    assert stopped.exit_code == 2
    assert files() == ["new.csv"]
    assert "row 4" in stopped.stderr
    assert "'97 bar'" in stopped.stderr
    assert "--on-bad-row skip" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    result = run("new.csv", "--on-bad-row", "skip")
    assert result.exit_code == 0
    assert "1 row could not be read, hence no score:\n  row 4 (line 5), column" in result.stderr
    frame = pl.read_csv("new.scores.csv")
    assert frame.height == 300
    assert frame["score"].is_null().to_list().index(True) == 3
    assert "97 bar" in frame["reason"][3]


def test_delimiter_and_encoding_can_be_told(here):
    table = toy_table(30).with_columns(mode=pl.lit("süß"))
    Path("l.csv").write_bytes(table.write_csv(separator="|").encode("latin-1"))
    assert run("l.csv").exit_code == 2
    result = run("l.csv", "--encoding", "latin-1", "--delimiter", "|", "--top-features", "1")
    assert result.exit_code == 0
    assert "mode = 'süß'" in pl.read_csv("l.scores.csv")["reason"][0]


def test_a_bare_scorer_is_a_model_too(here):
    os.rename("anomgan-model/scorer.onnx", "s.onnx")
    assert run("new.csv", "-m", "s.onnx").exit_code == 0


def test_a_processor_that_is_not_there_is_said(here):
    from anomgan.serving.providers import cuda_unusable_reason

    if cuda_unusable_reason() is None:
        pytest.skip("CUDA is usable here")
    result = run("new.csv", "--provider", "cuda")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: CUDA cannot be used: ")
    assert files() == ["new.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.csv"], "Error: absent.csv does not exist: check the name and the folder\n"),
        (["new.csv", "-m", "m"], "Error: m does not exist; make a model with `anomgan fit normal"),
        (
            ["new.csv", "-m", "new.csv"],
            "Error: new.csv is no scorer that anomgan would have written: it is no ONNX model",
        ),
        (["new.csv", "-o", "."], "Error: . is a directory; name a file with -o\n"),
        (
            ["new.csv", "-o", "no/o.csv"],
            "Error: cannot write no/o.csv: No such file or directory; ",
        ),
        (["new.csv", "-o", "new.csv"], "Error: new.csv is the table itself; name another output"),
        (["."], "Error: . is a directory, not a table: name one file in it\n"),
        (["new.csv", "--delimiter", "ab"], "Error: "),
        (["new.csv", "--encoding", "utf-9"], "Error: unknown encoding 'utf-9': use a name such"),
    ],
)
def test_what_cannot_be_done_is_one_clear_message(here, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(message)
    assert result.stdout == ""
    assert files() == ["new.csv"]


def test_a_missing_column_is_named(here):
    pl.read_csv("new.csv").drop("speed").write_csv("short.csv")
    result = run("short.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: short.csv: missing columns:\n  column 'speed' is missi")
    assert files() == ["new.csv", "short.csv"]


def test_an_altered_model_is_refused(here):
    with open("anomgan-model/scorer.onnx", "ab") as file:
        file.write(b"x")
    result = run("new.csv")
    assert result.exit_code == 2
    assert "the file was replaced; restore it or fit again" in result.stderr


def test_wrong_usage_exits_with_two(here):
    for arguments in ([], ["new.csv", "--format", "xlsx"], ["new.csv", "--no-such-option"]):
        assert run(*arguments).exit_code == 2


def test_faults_of_our_own_are_called_so(here, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("anomgan.serving.files.score_table", broken)
    result = run("new.csv")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: unexpected ZeroDivisionError: oops\nThis is a fault of anomgan. Please report it "
        "with the output of the same command and --debug.\n"
    )
    debug = run("new.csv", "--debug")
    assert debug.exit_code == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert "unexpected ZeroDivisionError" in debug.stderr


def _until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, b"Interrupted: nothing partial was left behind."),
        (signal.SIGTERM, 143, b""),
    ],
)
def test_an_interrupt_leaves_nothing_behind(here, number, code, said):
    process = subprocess.Popen(
        [*ANOMGAN, "score", "-", "-o", "o.csv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs the tests in the background has them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdin.write(Path("new.csv").read_bytes())
    process.stdin.flush()
    time.sleep(0.2)
    process.stdin.write(Path("new.csv").read_bytes().split(b"\n", 1)[1] * 2_000)
    process.stdin.flush()
    _until(lambda: any(name.startswith(".o.csv.") for name in os.listdir()))
    process.send_signal(number)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == code
    assert said in talk
    assert b"Traceback" not in talk
    assert files() == ["new.csv"]


def test_a_closed_pipe_is_no_error_message(here):
    pl.concat([pl.read_csv("new.csv")] * 500).write_csv("long.csv")
    process = subprocess.Popen(
        [*ANOMGAN, "score", "long.csv", "-o", "-", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    talk = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert talk == b""


def test_the_scores_of_a_spreadsheet_cannot_run(here):
    pl.read_csv("new.csv").with_columns(part_id=pl.lit("=1+1")).write_csv("new.csv")
    run("new.csv", "--keep-columns")
    assert set(pl.read_csv("new.scores.csv")["part_id"]) == {"'=1+1"}
    run("new.csv", "--format", "jsonl")
    first = Path("new.scores.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["part_id"] == "=1+1"
