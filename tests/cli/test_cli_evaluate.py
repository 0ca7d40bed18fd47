"""``anomgan evaluate`` as people and scripts use it: a trained model and labelled rows on disk."""

import io
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan_cli.app import app


@pytest.fixture(scope="module")
def labelled(machine_files, tmp_path_factory):
    """100 normal rows, then 100 faulty ones, labelled as people label."""
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    state = ["ok"] * 100 + ["broken"] * 60 + ["worn"] * 40
    path = tmp_path_factory.mktemp("labelled") / "labelled.csv"
    frame.with_columns(state=pl.Series(state)).write_csv(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], **options)


def result_of(*arguments, **options):
    result = run(*arguments, "--json", **options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def evaluated(labelled, machine_model):
    return result_of(labelled, "--label", "state", "--normal", "ok", "-m", machine_model)


@pytest.fixture(scope="module")
def scored(labelled, machine_model, tmp_path_factory):
    """What `anomgan score` says of the same rows, and their labels."""
    output = tmp_path_factory.mktemp("scored") / "scores.parquet"
    arguments = ["score", str(labelled), "-m", str(machine_model), "-o", str(output), "-q"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return pl.read_parquet(output), np.repeat([False, True], 100)


def test_rankings_are_those_of_scikit_learn_to_the_last_digit(evaluated, scored):
    frame, labels = scored
    scores = frame["score"].to_numpy().astype(np.float64)
    found = {name: e["value"] for name, e in evaluated["detectors"]["anomgan"].items()}
    assert found["auroc"] == roc_auc_score(labels, scores)
    assert found["average_precision"] == average_precision_score(labels, scores)
    assert found["partial_auroc_0.01"] == roc_auc_score(labels, scores, max_fpr=0.01)
    assert found["partial_auroc_0.1"] == roc_auc_score(labels, scores, max_fpr=0.1)
    false, true, _ = roc_curve(labels, scores)
    assert found["recall_at_0.01"] == true[false <= 0.01].max()
    best = evaluated["best_f1"]
    flags = scores >= best["threshold"]
    assert best["f1"] == pytest.approx(f1_score(labels, flags), abs=1e-15)
    assert all(f1_score(labels, scores >= t) <= best["f1"] + 1e-15 for t in np.unique(scores))
    top = np.argsort(-scores)[:10]
    assert found["precision_at_10"] == pytest.approx(labels[top].mean())


def test_the_decision_is_the_one_that_score_takes(evaluated, scored):
    frame, labels = scored
    flags = frame["is_anomaly"].to_numpy()
    decision = evaluated["decision"]
    assert decision["false_alarm_rate"] == 0.01
    assert decision["precision"]["value"] == precision_score(labels, flags)
    assert decision["recall"]["value"] == recall_score(labels, flags)
    assert decision["f1"] == pytest.approx(f1_score(labels, flags), abs=1e-15)
    counts = [decision[k] for k in ("true_positives", "false_positives")]
    assert counts == [int((flags & labels).sum()), int((flags & ~labels).sum())]
    realised = decision["realised_false_alarm_rate"]
    assert realised["value"] == flags[~labels].mean()
    exact = binomtest(counts[1], 100).proportion_ci(0.95, method="exact")
    assert (realised["low"], realised["high"]) == (exact.low, exact.high)
    scores = frame["score"].to_numpy()
    assert scores[flags].min() >= decision["threshold"] > scores[~flags].max()


def test_p_values_are_judged_at_every_rate(evaluated, scored):
    frame, labels = scored
    normal = frame["p_value"].to_numpy()[~labels]
    for point in evaluated["calibration"]:
        assert (
            point["realised"]["value"] == (normal <= np.float32(point["false_alarm_rate"])).mean()
        )
    by_rate = {point["false_alarm_rate"]: point for point in evaluated["calibration"]}
    assert by_rate[0.001]["expected_band"] is None  # 100 calibration rows do not resolve it
    low, high = by_rate[0.1]["expected_band"]
    assert 0.0 <= low < 0.1 < high < 0.3


def test_baselines_stand_beside_and_the_sentence_names_the_winner(evaluated):
    assert list(evaluated["detectors"]) == ["anomgan", "iforest", "knn1"]
    aurocs = {d: m["auroc"]["value"] for d, m in evaluated["detectors"].items()}
    for other in ("iforest", "knn1"):
        assert evaluated["auroc_leads"][other]["value"] == aurocs["anomgan"] - aurocs[other]
    best = max(("iforest", "knn1"), key=aurocs.get)
    name = {"iforest": "IsolationForest", "knn1": "1-NN distance"}[best]
    assert name in evaluated["verdict"]
    wins = aurocs[best] > aurocs["anomgan"]
    assert evaluated["verdict"].startswith(name if wins else "anomgan")


def test_1_nn_learns_from_the_rows_that_the_model_keeps(labelled, machine_model, evaluated):
    from anomgan.bundle import Bundle
    from anomgan.evaluation.known import KnownRows
    from anomgan.tables import Schema, read_table
    from anomgan.tables.readers import Batch

    bundle = Bundle.open(machine_model)
    known = KnownRows.of(bundle)
    assert known.counts.sum() == 500
    rows = Schema.from_dict(bundle.manifest.schema).rows(Batch(read_table(labelled), 1, "x"))
    x = known.encoder.transform(rows).features.astype(np.float64)
    nearest = [np.min(np.linalg.norm(known.rows - row, axis=1)) for row in x]
    found = evaluated["detectors"]["knn1"]["auroc"]["value"]
    assert found == pytest.approx(roc_auc_score(np.repeat([0, 1], 100), nearest), abs=1e-6)


def test_people_read_a_table_and_a_sentence(labelled, machine_model):
    result = run(labelled, "--label", "state", "--normal", "ok", "-m", machine_model)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert f"{labelled}: 200 rows, 100 anomalies (50 %)" in text
    for wanted in (
        "AUROC",
        "average precision",
        "IsolationForest",
        "1-NN distance",
        "precision at 10",
    ):
        assert wanted in text
    assert "At a false-alarm rate of 0.01 (score from " in text
    assert "ranks these rows" in text
    assert "1000 bootstrap draws" in text


def test_another_rate_and_stdin(labelled, machine_model):
    arguments = ["--label", "state", "--normal", "ok", "-m", machine_model]
    found = result_of(
        "-", *arguments, "--false-alarm-rate", "0.1", "--no-baselines", input=labelled.read_bytes()
    )
    assert found["decision"]["false_alarm_rate"] == 0.1
    assert list(found["detectors"]) == ["anomgan"]
    assert found["verdict"] == ""
    again = result_of(labelled, *arguments, "--false-alarm-rate", "0.1", "--no-baselines")
    assert found["detectors"] == again["detectors"]


def test_a_bare_scorer_is_judged_without_baselines(labelled, machine_model):
    scorer = machine_model / "scorer.onnx"
    result = run(labelled, "--label", "state", "--normal", "ok", "-m", scorer, "--json")
    assert result.exit_code == 0, result.output
    assert "keeps no rows" in result.stderr
    found = json.loads(result.stdout)
    assert list(found["detectors"]) == ["anomgan"]
    assert found["decision"]["threshold"] is None


def test_what_the_labels_must_be(labelled, machine_model, here):
    for arguments, message in [
        (["--label", "stat", "--normal", "ok"], "no label column 'stat' (did you mean 'state'?)"),
        (["--label", "state"], "which values of 'state' are normal? Name them with --normal"),
        (["--label", "state", "--normal", "fine"], "no row has 'fine' in label column 'state'"),
    ]:
        result = run(labelled, *arguments, "-m", machine_model)
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " "), result.stderr
    frame = pl.read_csv(labelled, infer_schema=False)
    frame.head(100).write_csv("normal.csv")
    result = run("normal.csv", "--label", "state", "--normal", "ok", "-m", machine_model)
    assert result.exit_code == 2
    assert "every row is normal" in result.stderr
    feature = json.loads((machine_model / "manifest.json").read_bytes())["schema"]["columns"][0]
    result = run(labelled, "--label", feature["name"], "--normal", "ok", "-m", machine_model)
    assert result.exit_code == 2
    assert "reads" in result.stderr
    assert "--label" in result.stderr


def test_unreadable_rows_are_left_out_and_counted(here):
    toy_bundle("anomgan-model")
    frame = toy_table(60, seed=1).with_columns(
        pl.col("pressure").cast(pl.String),
        y=pl.Series([0] * 40 + [1] * 20),
    )
    pressure = frame["pressure"].to_list()
    pressure[3], pressure[45] = "broken", "500"
    frame.with_columns(pressure=pl.Series(pressure)).write_csv("new.csv")
    assert run("new.csv", "--label", "y", "--no-baselines").exit_code == 2
    found = result_of("new.csv", "--label", "y", "--no-baselines", "--on-bad-row", "skip")
    assert (found["n_rows"], found["n_anomalies"], found["n_unreadable"]) == (59, 20, 1)
    assert any("row 4" in note and "broken" in note for note in found["notes"])


def test_a_row_cut_short_may_lack_its_label(here):
    toy_bundle("anomgan-model")
    frame = toy_table(60, seed=1).with_columns(y=pl.Series([0] * 40 + [1] * 20))
    text = io.BytesIO()
    frame.write_csv(text)
    lines = text.getvalue().decode().splitlines()
    lines[5] = "P1-00004,1.0,idle,3.0,north,0,one too many"
    (here / "new.csv").write_text("\n".join(lines) + "\n")
    arguments = ["new.csv", "--label", "y", "--no-baselines", "--on-bad-row", "skip"]
    found = result_of(*arguments)
    assert (found["n_rows"], found["n_unreadable"]) == (59, 1)
    lines[9] = lines[9].rpartition(",")[0] + ","
    (here / "new.csv").write_text("\n".join(lines) + "\n")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "row 9 (line 10) has no label in column 'y'" in result.stderr.replace("\n", " ")


def test_a_model_without_known_rows_says_what_to_do(here):
    toy_bundle("anomgan-model")  # of no torch model: it keeps no rows
    toy_table(60, seed=1).with_columns(y=pl.Series([0] * 40 + [1] * 20)).write_csv("new.csv")
    result = run("new.csv", "--label", "y")
    assert result.exit_code == 2
    assert "--no-baselines" in result.stderr


def test_it_needs_no_torch(labelled, machine_model):
    code = (
        "import sys\nfrom anomgan_cli.app import app\ntry:\n app(sys.argv[1:])\n"
        "except SystemExit as end:\n assert not end.code\n"
        "finally:\n print('torch' in sys.modules, 'onnx' in sys.modules, file=sys.stderr)"
    )
    arguments = [labelled, "--label", "state", "--normal", "ok", "-m", machine_model]
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "False False"
