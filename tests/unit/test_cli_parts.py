"""Durations, file names, numbers and progress of the command line."""

import io
import subprocess
import sys
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner

from anomgan_cli.app import app
from anomgan_cli.commands.score import default_output
from anomgan_cli.main import COMMANDS, application, main
from anomgan_cli.options import parse_duration
from anomgan_cli.render import count, scoring_progress, training_progress


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("5m", 300), ("1h", 3600), (" 1.5 min ", 90), (".5", 0.5)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "0", "5d", "1m30s", "inf", "١"])
def test_what_is_no_duration(text):
    with pytest.raises(typer.BadParameter, match="is no time: give seconds"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("table", "fmt", "name"),
    [
        ("new.csv", None, "new.scores.csv"),
        ("a/b/new.v2.csv.gz", None, "new.v2.scores.csv"),
        ("new", None, "new.scores.csv"),
        ("new.parquet", "parquet", "new.scores.parquet"),
        ("-", "jsonl", "-"),
    ],
)
def test_default_outputs(table, fmt, name):
    assert default_output(table, fmt) == name


def test_counts():
    assert [count(n, "row") for n in (0, 1, 2, 12345)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "12 345 rows",
    ]


class _Terminal(io.StringIO):
    def isatty(self):
        return True


class _Reader:
    bytes_total, bytes_read = 100, 40


@pytest.mark.parametrize("total", [100, None])
def test_progress_is_shown_on_a_terminal_and_nowhere_else(monkeypatch, total):
    reader = _Reader()
    reader.bytes_total = total
    for stream, shown in ((_Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with scoring_progress(reader, quiet=False) as advance:
            assert (advance is not None) == shown
            if advance:
                advance(12_345)
        with training_progress(quiet=False) as advance:
            assert (advance is not None) == shown
            if advance:
                advance(10, 500, {"step": 10, "discriminator.grading": 0.51239, "health": "ok"})
        with training_progress(quiet=True) as advance:
            assert advance is None
        assert ("Scored 12 345 rows" in stream.getvalue()) == shown
        assert ("10/500" in stream.getvalue()) == shown
        assert ("d.grading 0.5124  health ok" in stream.getvalue()) == shown


def test_the_library_log_does_not_repeat_what_commands_say():
    code = "import logging; from anomgan_cli.app import app; app(['export', '-m', 'x', '--quiet'], "
    code += "standalone_mode=False)\n"
    code = f"try:\n    {code}except BaseException: pass\n"
    code += "logging.getLogger('anomgan.estimator').warning('training: degraded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "does not exist" in done.stderr
    assert "degraded" not in done.stderr


def test_help_says_where_scores_go_by_default():
    result = CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "160"})
    assert "[default: (TABLE.scores.csv)]" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["--version"], 0, "anomgan "), (["detectors"], 0, "ganomaly"), (["score", "--nope"], 2, "")],
)
def test_a_process_ends_with_its_command(words: list[str], code: int, said: str) -> None:
    """All is said, the code is the command's, and nothing is torn down."""
    program = (
        "import atexit, sys\nfrom anomgan_cli.main import main\n"
        "atexit.register(print, 'torn down')\nsys.argv = ['anomgan', *sys.argv[1:]]\nmain()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert said in ended.stdout
    assert "torn down" not in ended.stdout
    assert ended.stderr if code else not ended.stderr


def test_within_another_process_the_command_only_raises(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, patch.object(sys, "argv", ["anomgan", "--version"]):
        main()
    assert not end.value.code
    assert capsys.readouterr().out.startswith("anomgan ")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), COMMANDS),
        (("--help",), COMMANDS),
        (("scor",), COMMANDS),
        (("score", "fit"), ("score",)),
        (("benchmark", "speed"), ("benchmark",)),
    ],
)
def test_only_the_command_that_is_asked_for_is_loaded(
    words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    code = (
        "import sys\nfrom anomgan_cli.main import application\n"
        "from typer.main import get_command\n"
        "group = get_command(application(sys.argv[1:]))\nprint(*group.commands)\n"
        "there = [m for m in sys.modules if m.startswith('anomgan_cli.commands.')]\n"
        "print(*(m.rpartition('.')[2] for m in there))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    commands, modules = (line.split() for line in done.stdout.splitlines())
    assert tuple(commands) == names
    more = {"benchmark_accuracy", "benchmark_speed"} if "benchmark" in names else set()
    assert set(modules) == {*names, *more}


def test_a_command_alone_tells_its_usage_as_among_others() -> None:
    runner = CliRunner()
    for words in (["score", "--help"], ["score", "--nope"], ["benchmark", "accuracy", "--help"]):
        alone, among = (runner.invoke(a, words) for a in (application(words), app))
        assert (alone.exit_code, alone.output) == (among.exit_code, among.output)
        assert "Usage:" in alone.output
