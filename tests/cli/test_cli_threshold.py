"""``anomgan threshold``."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan.calibration import Calibrator
from anomgan.serving import Scorer
from anomgan_cli.app import app


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model", tail=True)
    return tmp_path


@pytest.fixture
def labelled(here):
    """200 rows of which 40 have a pressure that is more or less odd."""
    frame = toy_table(200, seed=5)
    y = np.zeros(200, dtype=int)
    y[::5] = 1
    odd = np.random.default_rng(0).normal(0.0, 25.0, 200)
    frame = frame.with_columns(pl.Series("pressure", frame["pressure"] + odd * y), y=pl.Series(y))
    frame.write_csv("labelled.csv")
    return frame, y.astype(bool)


def run(*arguments):
    return CliRunner().invoke(app, ["threshold", *arguments])


def stored():
    return {p.name: p.read_bytes() for p in sorted(Path("anomgan-model").iterdir())}


def test_the_present_decision(here):
    shown = run()
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == ""
    lines = [line.strip().split(maxsplit=2) for line in shown.stdout.splitlines()]
    assert shown.stdout.startswith("anomgan-model flags about 1 in 100 normal rows\n")
    assert ["false-alarm", "rate", "0.01"] in lines
    assert ["calibration", "rows", "400 held-out normal rows"] in lines
    assert any("extrapolated by an extreme-value tail" in " ".join(line) for line in lines)
    content = json.loads(run("--json").stdout)
    assert content["false_alarm_rate"] == 0.01
    assert content["n_calibration"] == 400
    assert content["resolution"] == 1 / 401
    assert (content["has_tail"], content["extrapolated"]) == (True, False)


def test_a_rate_is_stored_and_told(here):
    before = json.loads(run("--json").stdout)
    done = run("--false-alarm-rate", "0.001")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    after = json.loads(run("--json").stdout)
    assert after["false_alarm_rate"] == 0.001
    assert after["extrapolated"]
    assert done.stderr == (
        f"anomgan-model now flags about 1 in 1 000 normal rows: scores of at least "
        f"{after['threshold']:.4g}, a false-alarm rate of 0.001. Before: "
        f"{before['threshold']:.4g} at 0.01.\n"
        "Note: 400 calibration rows count rates down to 0.0025; below that the threshold is "
        "extrapolated.\n"
    )
    assert Scorer.open("anomgan-model", providers="cpu").false_alarm_rate == 0.001
    inspected = CliRunner().invoke(app, ["inspect", "--json"]).stdout
    assert json.loads(inspected)["calibration"]["false_alarm_rate"] == 0.001
    assert "as the present rate is" in run().stdout


def test_json_of_a_change_and_a_dry_run(here):
    before = stored()
    done = run("--false-alarm-rate", "0.05", "--dry-run", "--json")
    assert stored() == before
    content = json.loads(done.stdout)
    assert content["former"]["false_alarm_rate"] == 0.01
    assert content["new"]["false_alarm_rate"] == 0.05
    assert content["new"]["threshold"] < content["former"]["threshold"]
    assert (content["stored"], content["choice"]) == (False, None)
    assert "would flag about 1 in 20 normal rows" in done.stderr
    assert done.stderr.endswith("Nothing was stored (--dry-run).\n")
    assert run("--false-alarm-rate", "0.05", "--quiet").output == ""
    assert json.loads(run("--json").stdout)["false_alarm_rate"] == 0.05


@pytest.mark.parametrize("target", ["precision=0.9", "recall=0.5", "f1"])
def test_a_rate_from_labels(labelled, target):
    frame, y = labelled
    done = run("--from-labels", "labelled.csv", "--label", "y", "--target", target, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    choice = content["choice"]
    scorer = Scorer.open("anomgan-model", providers="cpu")
    verdicts = scorer.score(frame)
    flags = verdicts.is_anomaly
    assert content["stored"]
    assert scorer.false_alarm_rate == choice["false_alarm_rate"]
    assert (flags & y).sum() == choice["true_positives"]
    assert (flags & ~y).sum() == choice["false_positives"]
    assert choice["precision"]["value"] == (flags & y).sum() / flags.sum()
    assert choice["recall"]["value"] == (flags & y).sum() / y.sum()
    assert choice["chosen_and_judged_on_the_same_rows"] is True
    if target != "f1":
        name, least = target.split("=")
        assert choice[name]["value"] >= float(least)
    low, high = choice["false_alarm_rate_interval"]
    assert low <= choice["false_alarm_rate"] <= high
    assert "these figures are optimistic, because the threshold was chosen on the same rows" in (
        done.stderr
    )
    words = [line.split() for line in done.stderr.splitlines()]
    assert any(line[:2] == ["normal", "rows"] for line in words)


def test_a_rate_from_labels_can_be_tried(labelled):
    before = stored()
    arguments = ["--from-labels", "labelled.csv", "--label", "y", "--target", "f1"]
    tried = run(*arguments, "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert tried.stdout == ""
    assert stored() == before
    assert run(*arguments, "-q").output == ""
    assert stored() != before


def test_labels_of_words(labelled):
    frame, y = labelled
    words = np.where(y, "worn", "ok")
    frame.with_columns(y=pl.Series(words)).write_csv("words.csv")
    arguments = ["--from-labels", "words.csv", "--label", "y", "--target", "recall=0.5"]
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "which values of 'y' are normal? Name them with --normal VALUE; there are ok, worn" in (
        refused.stderr
    )
    assert run(*arguments, "--normal", "ok").exit_code == 0


def test_a_target_out_of_reach_names_the_best(labelled):
    frame, y = labelled
    before = stored()
    swapped = frame.with_columns(y=pl.Series((~y).astype(int)))
    swapped.write_csv("swapped.csv")
    done = run("--from-labels", "swapped.csv", "--label", "y", "--target", "precision=0.99")
    assert done.exit_code == 2
    assert "no rate reaches precision=0.99 on these rows: the best precision is 0." in done.stderr
    assert "at a rate of" in done.stderr
    assert stored() == before


def test_a_missing_label_is_an_error(labelled):
    frame, _ = labelled
    cells = [str(v) for v in frame["y"]]
    cells[6] = ""
    frame.with_columns(y=pl.Series(cells)).write_csv("gap.csv")
    done = run("--from-labels", "gap.csv", "--label", "y", "--target", "f1")
    assert done.exit_code == 2
    assert "gap.csv: row 7 (line 8) has no label in column 'y'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--false-alarm-rate", "2"], "must lie between 0 and 1, got 2"),
        (["--dry-run"], "--dry-run has nothing to try"),
        (["--label", "y"], "--label is for --from-labels TABLE"),
        (["--target", "f1", "--normal", "0"], "--normal is for --from-labels TABLE; --target is"),
        (["--from-labels", "labelled.csv", "--target", "f1"], "needs --label COLUMN"),
        (["--from-labels", "labelled.csv", "--label", "y"], "needs --target: precision=0.9"),
        (
            ["--from-labels", "labelled.csv", "--false-alarm-rate", "0.1"],
            "--false-alarm-rate and --from-labels both give a rate",
        ),
        (
            ["--from-labels", "labelled.csv", "--label", "y", "--target", "f2"],
            "--target f2: precision=0.9, recall=0.9",
        ),
        (
            ["--from-labels", "labelled.csv", "--label", "why", "--target", "f1"],
            "no label column 'why'",
        ),
        (
            ["--from-labels", "labelled.csv", "--label", "mode", "--target", "f1"],
            "'mode'",
        ),
        (["-m", "absent"], "absent does not exist"),
    ],
)
def test_bad_usage(labelled, arguments, message):
    before = stored()
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert stored() == before


def test_a_rate_below_the_resolution_without_a_tail(here):
    toy_bundle("few", tail=False)
    assert "no rate: no tail could be fitted" in run("-m", "few").stdout
    done = run("-m", "few", "--false-alarm-rate", "0.001")
    assert done.exit_code == 2
    assert "0.001" in done.stderr


def test_neither_showing_nor_changing_takes_torch(labelled):
    code = (
        "import sys\nfrom anomgan_cli.app import app\ntry:\n    app({0!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print([m for m in {1!r} if m in sys.modules], file=sys.stderr)\n"
    )

    def imported(arguments, packages):
        done = subprocess.run(
            *([sys.executable, "-c", code.format(["threshold", *arguments], packages)],),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stderr.splitlines()[-1]

    heavy = ("torch", "pandas", "sklearn", "onnx", "onnxruntime", "scipy")
    assert imported(["--help"], (*heavy, "numpy", "polars")) == "[]"
    assert imported(["--json"], heavy) == "[]"
    assert imported(["--false-alarm-rate", "0.1"], ("torch", "sklearn", "pandas")) == "[]"
    from_labels = ["--from-labels", "labelled.csv", "--label", "y", "--target", "f1"]
    assert imported(from_labels, ("torch",)) == "[]"


def test_the_chosen_rate_flags_the_same_rows_in_both_precisions(labelled):
    """The graph compares float32 p-values, the calibrator float64 ones."""
    from anomgan.bundle import Bundle

    frame, _ = labelled
    run("--from-labels", "labelled.csv", "--label", "y", "--target", "recall=0.6")
    scorer = Scorer.open("anomgan-model", providers="cpu")
    calibrator = Calibrator.from_arrays(Bundle.open("anomgan-model").arrays("calibration.npz"))
    verdicts = scorer.score(frame)
    np.testing.assert_array_equal(
        verdicts.is_anomaly, verdicts.score >= np.float32(calibrator.threshold())
    )
