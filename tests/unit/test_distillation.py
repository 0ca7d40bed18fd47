"""The student of a score: what it learns, what calibrates it, and the graph that is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from anomgan import GANDetector, Scorer
from anomgan import distillation as module
from anomgan.bundle import Bundle
from anomgan.distillation import distil
from anomgan.errors import ModelCorruptError, UsageError
from anomgan.estimator import detector_class
from anomgan.export import run_scorer
from anomgan.fitting import FittedModel
from anomgan.groups import GroupedCalibrator
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.nets.batched import LEAK
from anomgan.persistence import export_fast, export_scorer, load_fitted
from anomgan.scoring.frozen import FLOOR
from anomgan.scoring.program import TorchArithmetic
from anomgan.scoring.student import NEAREST, Student, log_distance
from anomgan.tables.readers import Batch
from anomgan_datasets import clean_split, load
from anomgan_datasets.splits import Split

QUICK = {"n_steps": 400, "batch_rows": 128}
SHORT = {"created_at": "now", "n_steps": 600}


@pytest.fixture(scope="module", autouse=True)
def few_lessons():
    """Fewer lessons than in use: quick, and enough for everything but the last point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LESSONS", 20_000)
        patch.setattr(module, "_SHARED", 5_000)
        yield


@pytest.fixture(scope="module")
def split(data_dir: Path) -> Split:
    dataset = load("6_cardio")
    return clean_split(dataset.X.to_numpy(float), dataset.y, 0)


@pytest.fixture(scope="module")
def fitted(split: Split) -> FittedModel:
    return GANDetector(n_steps=60, random_state=0, device="cpu").fit(split.X_train).model_


@pytest.fixture(scope="module")
def graph(fitted: FittedModel) -> bytes:
    return export_fast(fitted, **SHORT)[0]


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def test_it_ranks_new_rows_nearly_as_the_score_does(
    graph: bytes, fitted: FittedModel, split: Split
) -> None:
    score, *_ = _session(graph).run(["score"], {"numeric": split.X_test})
    features = torch.from_numpy(fitted.encoder.transform(_rows(split.X_test)).features)
    full = fitted.score.scores(features, torch.zeros(len(features), fitted.score.n_columns))
    by_fast, by_full = (roc_auc_score(split.y_test, s) for s in (score, full.numpy()))
    assert by_fast > by_full - 0.03
    assert spearmanr(score, full.numpy()).statistic > 0.85


def _rows(values: np.ndarray):
    from anomgan.tables import Rows

    return Rows(values, np.empty((len(values), 0), dtype=object), None, 1)


def test_the_graph_is_a_scorer_like_any_other(graph: bytes, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "fast.onnx"
    path.write_bytes(graph)
    verdicts = Scorer.open(path, providers="cpu").score(split.X_test)
    np.testing.assert_allclose(verdicts.contributions.sum(axis=1), verdicts.score, rtol=1e-5)
    assert (verdicts.contributions >= 0.0).all()
    assert (verdicts.score >= FLOOR).all()
    session = _session(graph)
    alone = [session.run(["score"], {"numeric": row[None]})[0][0] for row in split.X_test[:50]]
    assert (np.array(alone) == verdicts.score[:50]).all()


def test_held_out_rows_calibrate_it_and_nothing_was_learnt_from_them(
    fitted: FittedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = fitted.held_out
    assert held_out is not None
    seen = []
    lessons = module._lessons
    monkeypatch.setattr(module, "_lessons", lambda *a: seen.append(a[0]) or lessons(*a))
    found = distil(fitted.score, held_out, n_steps=2)
    scores = found.score.scores(held_out.features, held_out.surprise)
    assert (found.scores == scores.numpy()).all()
    (teacher,) = seen
    gaps = torch.cdist(held_out.features.double(), teacher.memory_rows.double()).min(dim=1).values
    assert float(gaps.median()) > 0.1
    n_held_out, n_known = len(held_out.features), fitted.score.memory_counts.sum()
    assert float(teacher.memory_counts.sum()) == float(n_known) - n_held_out
    # An oracle without the function under test: leaving a row out is the same for the score.
    kept = fitted.score.scores(held_out.features, held_out.surprise, held_out.own)
    assert (teacher.scores(held_out.features, held_out.surprise) >= kept - 1e-3).all()


def test_its_rate_holds_on_new_normal_rows(graph: bytes, split: Split) -> None:
    normal = split.X_test[split.y_test == 0]
    (p_values,) = _session(graph).run(["p_value"], {"numeric": normal})
    for rate in (0.05, 0.1, 0.2):
        spread = 4.0 * np.sqrt(rate * (1.0 - rate) * (1.0 / len(normal) + 1.0 / 207))
        assert abs((p_values <= rate).mean() - rate) < spread


def test_far_rows_score_higher_the_farther_they_are(graph: bytes, split: Split) -> None:
    session = _session(graph)
    (known,) = session.run(["score"], {"numeric": split.X_train})
    steps = np.array([20.0, 30.0, 100.0, 1e4])
    direction = np.random.default_rng(0).normal(size=split.X_train.shape[1])
    rows = split.X_train.mean(axis=0) + steps[:, None] * direction * split.X_train.std(axis=0)
    (far,) = session.run(["score"], {"numeric": rows})
    assert (np.diff(far) > 0.0).all()
    assert far[0] > known.max()
    (extreme,) = session.run(["score"], {"numeric": np.full((1, rows.shape[1]), 1e300)})
    assert np.isfinite(extreme).all()
    assert extreme[0] > far[-2]


def test_the_same_seed_gives_the_same_bytes(fitted: FittedModel, graph: bytes) -> None:
    assert export_fast(fitted, **SHORT)[0] == graph


def test_another_seed_gives_another_student(fitted: FittedModel) -> None:
    assert fitted.held_out is not None
    a, b = (distil(fitted.score, fitted.held_out, seed=s, **QUICK).scores for s in (0, 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize(("enough", "centres"), [(-1.0, {4}), (2.0, {4, 64})])
def test_it_takes_more_centres_where_few_do_not_agree(
    enough: float, centres: set[int], fitted: FittedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CENTRES", (4, 64))
    monkeypatch.setattr(module, "_AGREEMENT", enough)
    tried = {}
    student = module._student

    def watched(school, plan, most):
        tried[most] = student(school, plan, most)
        assert torch.cdist(school.judges, torch.from_numpy(school.known)).min() > 0.0
        return tried[most]

    monkeypatch.setattr(module, "_student", watched)
    assert fitted.held_out is not None
    found = distil(fitted.score, fitted.held_out, **QUICK)
    assert set(tried) == centres
    assert found.facts["centres"] in centres
    assert any(found.score is one for one in tried.values())


def test_what_it_loses_is_in_the_metadata(fitted: FittedModel, graph: bytes) -> None:
    metadata = _session(graph).get_modelmeta().custom_metadata_map
    facts = json.loads(metadata["anomgan.fast"])
    assert set(facts) == {"rank_correlation", "auroc_full", "auroc_fast", "centres"}
    assert 0.6 < facts["rank_correlation"] < 1.0
    assert abs(facts["auroc_fast"] - facts["auroc_full"]) < 0.06
    assert metadata["anomgan.detector"] == "anomgan"


def test_it_learns_who_is_guilty(fitted: FittedModel, graph: bytes, split: Split) -> None:
    """A value far out is held against its own column."""
    rows = split.X_train[:60].copy()
    guilty = np.arange(60) % rows.shape[1]
    rows[np.arange(60), guilty] += 6.0 * split.X_train.std(axis=0)[guilty]
    (shares,) = _session(graph).run(["contributions"], {"numeric": rows})
    assert (shares[:, :-1].argmax(axis=1) == guilty).mean() > 0.3  # by chance: 0.05


def test_the_distance_is_that_to_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    centres, rows = rng.normal(size=(7, 3)), rng.normal(size=(20, 3))
    norms = np.square(centres).sum(axis=1).astype(np.float32)
    layer = FrozenNetwork((2.0 * centres.T.astype(np.float32).copy(),), (-norms,))
    ones = np.ones((3, 1), dtype=np.float32)
    found = log_distance(TorchArithmetic(), layer, torch.from_numpy(rows).float(), ones)
    nearest = np.square(rows[:, None] - centres).sum(axis=2).min(axis=1)
    expected = np.log(nearest + NEAREST)
    np.testing.assert_allclose(found.numpy()[:, 0], expected, atol=1e-4)


def test_the_formula_by_hand() -> None:
    """One feature; net: log share = 1 whatever it is told; box [-1, 1]; growth 2."""

    def numbers(*values: float) -> np.ndarray:
        return np.array(values, dtype=np.float32)

    networks = {
        "box": FrozenNetwork.numbers(np.array([[-1.0], [1.0]])),
        "centres": FrozenNetwork((numbers(0.0).reshape(1, 1),), (numbers(0.0),)),
        "student": FrozenNetwork(
            (np.zeros((2, 4), np.float32), np.zeros((4, 1), np.float32)),
            (np.zeros(4, np.float32), numbers(1.0)),
        ),
    }
    rows = torch.tensor([[0.0], [1.0], [3.0], [-2.0]])
    parts = Student(growth=2.0).score(TorchArithmetic(), networks, rows)
    assert parts.whole is None
    assert parts.weighted is not None
    beyond, weights = parts.weighted
    np.testing.assert_allclose(parts.by_feature[:, 0].numpy(), np.e, rtol=1e-6)
    found = beyond.numpy() * weights
    np.testing.assert_allclose(found[:, 0], 2.0 * np.array([0.0, 0.0, 4.0, 1.0]), rtol=1e-6)


def test_the_formula_in_an_uneven_box_far_from_zero() -> None:
    """Units of the box change nothing but the last digits: float64, feature by feature."""
    rng = np.random.default_rng(0)
    low = np.array([3.0, -70.0, 5.0])
    high = np.array([9.0, -40.0, 5.0 + 1e-3])  # the last side has no width to speak of
    centres = rng.uniform(low, high, size=(6, 3))
    sizes = ((4, 5), (5, 3))
    weights = [rng.normal(scale=0.3, size=size).astype(np.float32) for size in sizes]
    biases = [rng.normal(scale=0.3, size=size[1]).astype(np.float32) for size in sizes]
    columns = np.ascontiguousarray(2.0 * centres.T, dtype=np.float32)
    norms = np.square(centres).sum(axis=1).astype(np.float32)
    networks = {
        "box": FrozenNetwork.numbers(np.stack([low, high])),
        "centres": FrozenNetwork((columns,), (-norms,)),
        "student": FrozenNetwork(tuple(weights), tuple(biases)),
    }
    rows = rng.uniform(low - 4.0, high + 4.0, size=(50, 3)).astype(np.float32)
    parts = Student(growth=0.7).score(TorchArithmetic(), networks, torch.from_numpy(rows))
    # The narrow side counts as one of 2e-3 around the same middle.
    middle, half = (low + high) / 2.0, np.maximum((high - low) / 2.0, 1e-3)
    near = np.clip(rows.astype(np.float64), middle - half, middle + half)
    distance = np.square(near[:, None] - centres).sum(axis=2).min(axis=1) + NEAREST
    told = np.concatenate([near, np.log(distance)[:, None]], axis=1)
    hidden = told @ weights[0] + biases[0]
    logs = np.where(hidden > 0.0, hidden, LEAK * hidden) @ weights[1] + biases[1]
    assert parts.by_feature is not None
    assert parts.weighted is not None
    np.testing.assert_allclose(parts.by_feature.numpy(), np.exp(logs), rtol=1e-3)
    beyond = parts.weighted[0].numpy() * parts.weighted[1]
    np.testing.assert_allclose(beyond, 0.7 * np.square(rows - near), rtol=1e-3, atol=1e-4)
    assert (beyond > 0.1).any(axis=0).all()


def test_far_out_each_column_gets_what_its_own_features_add() -> None:
    """Also where a column has several features: its share and the score are those of torch."""
    rng = np.random.default_rng(0)
    site = rng.choice(["north", "south", "west", "east"], size=400)
    table = pd.DataFrame({"load": rng.normal(size=400), "site": site, "heat": rng.normal(size=400)})
    fitted = GANDetector(n_steps=20, random_state=0).fit(table).model_
    assert fitted.held_out is not None
    student = replace(fitted, score=distil(fitted.score, fitted.held_out, **QUICK).score)
    far = table.head(30).assign(heat=50.0 + np.arange(30.0))
    rows = fitted.schema.rows(Batch(pl.from_pandas(far), 1, "far"))
    told, told_shares = student.score_rows(rows)
    graph, _, _ = export_scorer(student, created_at="now")
    feed = {"numeric": rows.numeric, "categorical": rows.categorical}
    score, shares = _session(graph).run(["score", "contributions"], feed)
    np.testing.assert_allclose(score, told, rtol=1e-5)
    np.testing.assert_allclose(shares, told_shares, rtol=1e-4, atol=1e-3)
    heat = fitted.schema.feature_names.index("heat")
    assert (shares.argmax(axis=1) == heat).all()
    assert (shares[:, heat] > 0.9 * score).all()


@pytest.mark.parametrize("name", ["width", "n_steps", "batch_rows"])
def test_sizes_below_one_are_refused(fitted: FittedModel, name: str) -> None:
    assert fitted.held_out is not None
    with pytest.raises(UsageError, match=f"{name} is 0, it must be at least 1"):
        distil(fitted.score, fitted.held_out, **{name: 0})


@pytest.mark.parametrize("name", ["egbad", "imputation"])
def test_detectors_of_the_literature_have_students_too(
    name: str, split: Split, tmp_path: Path
) -> None:
    detector = detector_class(name)(n_steps=30, batch_rows=32, random_state=0)
    detector.fit(split.X_train).save(tmp_path / "m")
    fitted = load_fitted(tmp_path / "m")
    graph, parity, _ = export_fast(fitted, **SHORT)
    assert parity.p99_relative <= 1e-5
    (score,) = _session(graph).run(["score"], {"numeric": split.X_test})
    full = detector.anomaly_score(split.X_test)
    assert spearmanr(score, full).statistic > 0.8


@pytest.mark.parametrize("name", ["anomgan", "egbad"])
def test_no_teacher_keeps_a_row_that_calibrates(
    name: str, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = detector_class(name)(n_steps=5, random_state=0).fit(split.X_train).model_
    shown = []
    school = module._school
    monkeypatch.setattr(module, "_school", lambda *a: shown.append(a[0]) or school(*a))
    distil(fitted.score, fitted.held_out, n_steps=2)
    (teacher,) = shown
    calibrating = {row.tobytes() for row in fitted.held_out.features.numpy()}
    learnt = split.X_train.shape[0] - len(fitted.held_out.features)
    kept = {row.tobytes() for row in teacher.memory_rows.numpy()}
    assert 0.9 * learnt < len(kept) <= learnt
    assert not kept & calibrating


def test_two_known_rows_are_enough_not_to_crash() -> None:
    rows = np.zeros((20, 1))
    for place in (0, 1):
        rows[:] = 0.0
        rows[place] = 1.0
        fitted = GANDetector(n_steps=3, random_state=0).fit(rows).model_
        graph, _, facts = export_fast(fitted, created_at="now", n_steps=2)
        assert np.isfinite(_session(graph).run(["score"], {"numeric": rows})[0]).all()
        assert facts["centres"] in (1.0, 2.0)


def _mixed(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    site = rng.choice(["north", "south"], size=n)
    load = rng.normal(size=n) * np.where(site == "north", 1.0, 4.0)
    load[::17] = np.nan
    return pd.DataFrame({"site": site, "load": load, "heat": 2.0 * load + rng.normal(size=n)})


def test_groups_keep_their_own_rates_after_saving_and_loading(tmp_path: Path) -> None:
    detector = GANDetector(n_steps=20, random_state=0, calibrate_by="site", false_alarm_rate=0.1)
    # Some 300 rows calibrate each group: the rate that they give strays by 0.017.
    detector.fit(_mixed(3000, 0)).save(tmp_path / "m")
    fitted = load_fitted(tmp_path / "m")
    assert isinstance(fitted.calibrator, GroupedCalibrator)
    graph, parity, _ = export_fast(fitted, **SHORT)
    assert parity.p99_relative <= 1e-5
    (tmp_path / "fast.onnx").write_bytes(graph)
    scorer = Scorer.open(tmp_path / "fast.onnx")
    assert set(scorer.calibration["groups"]) == {"north", "south"}
    new = _mixed(2000, 1)
    flagged = scorer.score(new).is_anomaly
    for site in ("north", "south"):
        assert flagged[new["site"] == site].mean() == pytest.approx(0.1, abs=0.06)
    strange = new.head(1).assign(site="east")
    assert scorer.score(strange).score[0] > scorer.score(new.head(1)).score[0]


def test_crossed_calibration_has_no_rows_to_calibrate_a_student_on(split: Split) -> None:
    detector = GANDetector(n_steps=10, random_state=0, calibration="cross").fit(split.X_train)
    assert detector.model_.held_out is None
    with pytest.raises(UsageError, match="fit it again, with calibration 'split'"):
        export_fast(detector.model_, **SHORT)


def test_rows_that_are_not_of_the_model_are_refused(fitted: FittedModel, tmp_path: Path) -> None:
    from safetensors.torch import save

    from anomgan.persistence import save_fitted

    save_fitted(fitted, tmp_path / "m", overwrite=False, source="rows")
    read = load_fitted(tmp_path / "m").held_out
    assert read is not None
    assert fitted.held_out is not None
    assert torch.equal(read.features, fitted.held_out.features)
    assert torch.equal(read.own, fitted.held_out.own)
    bundle = Bundle.open(tmp_path / "m")
    files = {name: bundle.read(name) for name in bundle.names}
    own = torch.arange(len(read.features))
    for wrong in (
        {"own": own + 100_000},
        {"own": own.int()},
        {"features": read.features.double()},
        {"features": read.features[:, :2].clone()},
    ):
        parts = {"features": read.features, "surprise": read.surprise, "own": own} | wrong
        files["held-out.safetensors"] = save(parts)
        Bundle.save(tmp_path / "m", files=files, manifest=bundle.manifest, overwrite=True)
        with pytest.raises(ModelCorruptError, match=r"held-out\.safetensors are not of this"):
            load_fitted(tmp_path / "m")
    files["held-out.safetensors"] = save({"features": read.features})
    Bundle.save(tmp_path / "m", files=files, manifest=bundle.manifest, overwrite=True)
    with pytest.raises(ModelCorruptError, match="is damaged"):
        load_fitted(tmp_path / "m")
    del files["held-out.safetensors"]
    Bundle.save(tmp_path / "m", files=files, manifest=bundle.manifest, overwrite=True)
    assert load_fitted(tmp_path / "m").held_out is None


def test_a_model_whose_known_rows_all_calibrate_is_refused(fitted: FittedModel) -> None:
    own = fitted.held_out.own
    few = replace(
        fitted.score,
        memory_rows=fitted.score.memory_rows[own],
        memory_counts=torch.ones(len(own)),
    )
    held_out = replace(fitted.held_out, own=torch.arange(len(own)))
    with pytest.raises(UsageError, match="none is left for a student to learn from"):
        distil(few, held_out)


def test_rows_that_are_centres_are_at_no_distance_however_many_columns() -> None:
    """Where squared norms are large, rounding alone put known rows up to half a unit away."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 8)) @ rng.normal(size=(8, 400)) + 0.3 * rng.normal(size=(700, 400))
    fitted = GANDetector(n_steps=20, random_state=0, device="cpu").fit(rows).model_
    model, parity, facts = export_fast(fitted, created_at="now", n_steps=200)
    assert facts["centres"] > 400.0  # known rows themselves
    assert parity.p99_relative < 1e-5
    found = run_scorer(model, _rows(rows[:300]))["score"].astype(float)
    moved = rows[:300] * (1.0 + 1e-7)  # less than what float32 keeps of a cell
    again = run_scorer(model, _rows(moved))["score"]
    assert np.quantile(np.abs(again / found - 1.0), 0.99) < 1e-4
