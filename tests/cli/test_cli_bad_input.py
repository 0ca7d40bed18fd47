"""Bad input to ``anomgan fit``, told before anything heavy is loaded: one exact message each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_model import toy_bundle
from typer.testing import CliRunner

from anomgan_cli.app import app

NUMBERS = [f"{i}.5,{i * 7 % 11}" for i in range(1, 41)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["fit", *arguments], **options)


def _write(*lines, encoding="utf-8"):
    Path("t.csv").write_bytes(("\n".join(["a,b", *lines]) + "\n").encode(encoding))


def _refused(result, message):
    """A clear message, exit code 2, nothing on stdout, no traceback, nothing left behind."""
    assert result.exit_code == 2, result.output
    assert result.stderr == f"Error: {message}\n"
    assert result.stdout == ""
    assert "Traceback" not in result.output
    assert [name for name in os.listdir() if name not in ("t.csv", "d")] == []


def test_missing_file(here):
    _refused(run("absent.csv"), "absent.csv does not exist: check the name and the folder")


def test_empty_file(here):
    Path("t.csv").touch()
    _refused(run("t.csv"), "t.csv is empty: expected a header line with column names, then rows")


def test_header_only(here):
    _write()
    _refused(run("t.csv"), "t.csv has a header (2 columns) but no rows: nothing to read")


def test_a_directory_instead_of_a_file(here):
    Path("d").mkdir()
    _refused(run("d"), "d is a directory, not a table: name one file in it")


def test_text_in_a_numeric_column(here):
    _write(*NUMBERS, "x?,3")
    _refused(
        run("t.csv"),
        "t.csv: unreadable cells:\n  row 41, column 'a': 'x?' is not a number\n"
        "Remedy: fix the cells (a decimal point, no thousands separators), leave them empty if "
        "the value is unknown, or choose among --categorical a --drop a",
    )


def test_infinite_values(here):
    _write(*NUMBERS, "inf,1", "nan,2", "3,-Infinity")
    _refused(
        run("t.csv"),
        "t.csv: unreadable cells:\n  row 41, column 'a': 'inf' is infinite\n"
        "  row 43, column 'b': '-Infinity' is infinite\n"
        "Remedy: fix the cells (a decimal point, no thousands separators), leave them empty if "
        "the value is unknown, or choose among --categorical a --drop a --categorical b --drop b",
    )


def test_ragged_lines(here):
    _write(*NUMBERS, "3", "1,2,3")
    _refused(
        run("t.csv"),
        "t.csv: rows with a wrong number of fields:\n"
        "  row 41 (line 42): 1 field where the header has 2\n"
        "  row 42 (line 43): 3 fields where the header has 2\n"
        "Remedy: fix these lines (put quotes around fields that hold the delimiter), name another "
        "--delimiter, or keep going with --on-bad-row skip",
    )


def test_wrong_encoding(here):
    _write(*NUMBERS, "2,\xfc", encoding="latin-1")
    _refused(
        run("t.csv"),
        "t.csv, line 42: byte 0xFC is not UTF-8 text: pass the file's true encoding, for example "
        "--encoding latin-1",
    )


def test_nothing_to_learn_from(here):
    _write("1,", "1,NA", "1,?")
    result = run("t.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: t.csv: no column is left to learn from:\n")


def test_a_label_column_that_is_not_there(here):
    _write(*NUMBERS)
    _refused(
        run("t.csv", "--label", "y", "--normal", "1"),
        "t.csv: no label column 'y': the columns are 'a', 'b'",
    )


def test_a_normal_value_that_is_not_there(here):
    _write("1,x", "2,y", "3,x")
    _refused(
        run("t.csv", "--label", "b", "--normal", "ok"),
        "t.csv: no row has 'ok' in label column 'b': name the normal value among those found "
        "(with their rows): 'x' (2), 'y' (1)",
    )


def test_half_of_a_label(here):
    _write(*NUMBERS)
    _refused(
        run("t.csv", "--label", "b"),
        "--label b needs --normal VALUE: the value that normal rows have in it",
    )
    _refused(
        run("t.csv", "--normal", "b"),
        "--normal needs --label COLUMN: the column that holds the value",
    )


def test_options_that_name_no_column_are_told_together(here):
    _write(*NUMBERS)
    _refused(
        run("t.csv", "--drop", "zz", "--categorical", "qq"),
        "t.csv: options that do not fit:\n  --drop zz: no such column\n"
        "  --categorical qq: no such column\nRemedy: the columns are 'a', 'b'",
    )


def test_an_existing_model_is_kept(here):
    _write(*NUMBERS)
    toy_bundle("anomgan-model")
    before = Path("anomgan-model/manifest.json").read_bytes()
    result = run("t.csv")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: there is already a model at anomgan-model; --force replaces it, -m puts the new "
        "one elsewhere\n"
    )
    assert Path("anomgan-model/manifest.json").read_bytes() == before


def test_a_place_that_is_no_model_is_kept(here):
    _write(*NUMBERS)
    Path("d").mkdir()
    Path("d/photo").touch()
    _refused(
        run("t.csv", "-m", "d", "--force"),
        "d is a directory with other things in it, not a model; choose another place with -m",
    )
    _refused(run("t.csv", "-m", "t.csv"), "t.csv is a file; choose another place with -m")


def test_an_unwritable_output(here):
    _write(*NUMBERS)
    _refused(
        run("t.csv", "-m", "t.csv/model"),
        f"cannot write the model to t.csv/model: {here / 't.csv'} is not a directory that you may "
        "write to; choose another place with -m",
    )


@pytest.mark.parametrize("rate", ["0", "1", "-0.5", "nan"])
def test_a_rate_that_is_none(here, rate):
    _write(*NUMBERS)
    result = run("t.csv", "--false-alarm-rate", rate)
    assert result.exit_code == 2
    assert "the false-alarm rate must lie between 0 and 1" in result.stderr


@pytest.mark.parametrize("time", ["0", "soon", "-5s", "5 d", "1e9x", "nan"])
def test_a_time_that_is_none(here, time):
    _write(*NUMBERS)
    result = run("t.csv", f"--max-time={time}")
    assert result.exit_code == 2
    assert "is no time" in result.stderr


def test_bad_input_is_told_without_loading_torch(here):
    _write(*NUMBERS, "x?,3")
    code = (
        "import sys\nfrom anomgan_cli.app import app\n"
        "try:\n    app(['fit', 't.csv'])\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False False\n"
