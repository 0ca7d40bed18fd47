"""`anomgan benchmark accuracy`: suites, a file of one's own, and what goes wrong."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from anomgan_cli.app import app


def _call(*arguments: str):
    return CliRunner().invoke(app, ["benchmark", "accuracy", *arguments])


def _results(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Numbers with a gap, texts with a gap, a row number, and a label; 160 normal rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with (tmp_path / "my.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "x", "y", "colour", "fault"])
        for i in range(200):
            x, y = rng.normal(size=2) + (6.0 if i >= 160 else 0.0)
            colour = "red" if i >= 160 else rng.choice(["blue", "green", ""])
            writer.writerow([i, "" if i == 7 else f"{x:.4f}", f"{y:.4f}", colour, int(i >= 160)])
    return tmp_path / "my.csv"


def test_a_file_of_ones_own(labelled: Path) -> None:
    arguments = ["my.csv", "--label", "fault", "--seeds", "0,1", "--set", "n_steps=20"]
    done = _call(*arguments, "--methods", "anomgan,knn1,iforest", "-o", "r.csv")
    assert done.exit_code == 0, done.output
    rows = _results(Path("r.csv"))
    assert len(rows) == 6
    assert {(r["suite"], r["set"], r["protocol"], r["rows"]) for r in rows} == {
        ("file", "my.csv", "clean", "80")
    }
    assert {r["method"] for r in rows} == {"anomgan(n_steps=20)", "knn1", "iforest"}
    assert all(float(r["auroc"]) > 0.95 and r["error"] == "" for r in rows)
    assert done.stdout.startswith("method")
    assert "6/6 my.csv clean seed 1 iforest" in done.stderr
    again = _call(*arguments, "--methods", "anomgan,knn1,iforest", "-o", "r.csv", "--quiet")
    assert _results(Path("r.csv")) == rows
    assert again.stdout == done.stdout
    assert "6/6" not in again.stderr


def test_one_small_set_of_a_suite(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    arguments = ["--sets", "45_wine", "--seeds", "0", "--set", "n_steps=20", "--markdown"]
    done = _call(*arguments, "--protocol", "clean", "--protocol", "published", "-o", str(out))
    assert done.exit_code == 0, done.output
    rows = _results(out)
    assert [(r["protocol"], r["rows"]) for r in rows] == [("clean", "60")] * 6 + [
        ("published", rows[-1]["rows"])
    ] * 6
    assert int(rows[-1]["rows"]) > 400  # resampled to 1 000
    assert "adbench, protocol `clean`, 1 sets; lead" in done.stdout
    assert "| anomgan(n_steps=20) |" in done.stdout


def test_false_alarms_of_others_may_be_left_out(labelled: Path) -> None:
    arguments = ["my.csv", "--label", "fault", "--seeds", "0", "--methods", "iforest"]
    done = _call(*arguments, "--no-false-alarms", "-o", "r.csv")
    assert done.exit_code == 0, done.output
    (row,) = _results(Path("r.csv"))
    assert row["false_alarm_rate"] == ""
    assert float(row["auroc"]) > 0.95


def test_a_raw_table(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    done = _call("--suite", "tables", "--sets", "ai4i2020", "--methods", "iforest", "--seeds", "0",
                 "-o", str(out))  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = _results(out)
    assert (row["protocol"], row["error"]) == ("table", "")
    assert float(row["auroc"]) > 0.6


def test_a_failed_run_is_told_and_kept(labelled: Path) -> None:
    done = _call("my.csv", "--label", "fault", "--seeds", "0", "--methods", "anomgan,knn1",
                 "--set", "n_steps=0", "-o", "r.csv")  # fmt: skip
    assert done.exit_code == 1
    assert "Failed: my.csv seed 0 anomgan(n_steps=0)" in done.stderr
    failed, good = _results(Path("r.csv"))
    assert "n_steps" in failed["error"]
    assert failed["auroc"] == ""
    assert float(good["auroc"]) > 0.95


def test_labels_of_words_need_normal(labelled: Path) -> None:
    Path("words.csv").write_text("x,kind\n" + "".join(f"{i}.5,ok\n{i}.25,bad\n" for i in range(9)))
    done = _call("words.csv", "--label", "kind")
    assert done.exit_code == 2
    assert "which values of 'kind' are normal? Name them with --normal VALUE" in done.stderr
    done = _call(
        "words.csv", "--label", "kind", "--normal", "ok", "--methods", "knn1", "--seeds", "3"
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my.csv"], "my.csv needs --label COLUMN"),
        (["-", "--label", "fault"], "give a file, not -"),
        (["my.csv", "--label", "faults"], "my.csv has no column 'faults' (--label); it has id, x"),
        (["my.csv", "--label", "fault", "--normal", "7"], "7"),
        (["my.csv", "--label", "fault", "--normal", "0", "--normal", "1"], "every row is normal"),
        (["my.csv", "--label", "fault", "--split-seed", "1"], "not both"),
        (["my.csv", "--label", "fault", "--contamination", "0.1"], "not both"),
        (["--suite", "embedded", "--contamination", "0.7"], "shares from 0 to 0.5 are expected"),
        (["--suite", "embedded", "--contamination", "much"], "shares from 0 to 0.5 are expected"),
        (["my.csv", "--label", "fault", "--suite", "embedded"], "not both"),
        (["--label", "fault"], "are for a TABLE of your own"),
        (["--suite", "embedded", "--seeds", "0,x"], "--seeds 0,x: whole numbers"),
        (["--suite", "embedded", "--set", "n_steps"], "--set n_steps: KEY=VALUE is expected"),
        (["--suite", "embedded", "--set", "steps=1"], "anomgan has no parameter 'steps'"),
        (["--suite", "embedded", "--methods", "knn7"], "unknown method 'knn7'"),
        (["--suite", "embedded", "--sets", "tea"], "no set tea in embedded"),
    ],
)
def test_bad_usage(labelled: Path, arguments: list[str], message: str) -> None:
    done = _call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("benchmark-accuracy.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGINT, "2"), (signal.SIGTERM, "2"), (signal.SIGKILL, "1")]
)
def test_stopped_from_outside_it_goes_on(labelled: Path, number: signal.Signals, jobs: str) -> None:
    arguments = ["my.csv", "--label", "fault", "--seeds", ",".join(map(str, range(40))),
                 "--methods", "iforest", "-o", "r.csv", "-j", jobs]  # fmt: skip
    command = [sys.executable, "-m", "anomgan_cli", "benchmark", "accuracy", *arguments]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script starts with the interrupt ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        for _ in range(3):
            assert "AUROC" in process.stderr.readline()
        process.send_signal(number)
        said = process.stderr.read()
    code = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert process.returncode == code
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert "the same command goes on from there" in said
    kept = Path("r.csv").read_text()
    n_kept = len(_results(Path("r.csv")))
    assert 3 <= n_kept < 40
    done = _call(*arguments[:-1], "1")
    assert done.exit_code == 0
    assert f"{n_kept + 1}/40" in done.stderr
    assert Path("r.csv").read_text().startswith(kept)
    assert sorted(int(r["seed"]) for r in _results(Path("r.csv"))) == list(range(40))


def test_lists_may_be_given_with_commas_or_by_repeating_the_option() -> None:
    from anomgan_cli.commands.benchmark_accuracy import _split

    assert _split(["knn1,lof", "iforest", "knn1"]) == ["knn1", "lof", "iforest"]
    assert _split(None) == []
