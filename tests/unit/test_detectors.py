"""What every detector of the literature keeps, whatever its paper says."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from far_rays import assert_far_above, assert_never_falls, ray, scores
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomgan import GANDetector, Scorer
from anomgan.bundle import Bundle
from anomgan.detectors.base import Sizes
from anomgan.detectors.registry import DETECTORS
from anomgan.errors import InputError, ModelCorruptError, TrainingInterrupted, UsageError
from anomgan.estimator import detector_class
from anomgan.fitting import FitControl
from anomgan.literature import FACES
from anomgan.persistence import export_scorer
from anomgan.presets import DETECTOR_NAMES
from anomgan.scoring.program import ProgramScore
from anomgan.tables import Batch, Rows
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Sampler, Trainer, TrainingPlan

SHORT: dict[str, Any] = {"n_steps": 20, "batch_rows": 16, "random_state": 0, "device": "cpu"}
SHORTER: dict[str, dict[str, Any]] = {"anogan": {"inversion_steps": 20}}
"""What else makes a fit short, by detector."""
BOXED = ("conditional", "fence-gan", "imputation", "mo-gaal", "so-gaal")

EXPECTED_FAILURES = {
    "check_dataframe_column_names_consistency": (
        "columns are found by name: order does not matter and extra columns are ignored, where "
        "scikit-learn wants an error for either"
    ),
    "check_outliers_train": (
        "wants some of 300 normal rows flagged, where a false-alarm rate of 1 % may flag none"
    ),
    "check_outliers_fit_predict": "as check_outliers_train",
}


def short(name: str, **changes: Any) -> Any:
    return detector_class(name)(**(SHORT | SHORTER.get(name, {}) | changes))


def table(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    load = rng.normal(size=n)
    mode = rng.choice(["a", "b", "c"], size=n)
    rows = pd.DataFrame(
        {"load": load, "heat": 2.0 * load + 0.1 * rng.normal(size=n), "noise": rng.normal(size=n)}
    )
    rows["mode"] = mode
    rows.loc[rows.index[::9], "noise"] = np.nan
    return rows


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def fitted(request: pytest.FixtureRequest) -> Any:
    return short(request.param).fit(table())


@pytest.fixture(scope="module")
def exported(fitted: Any) -> tuple[bytes, Any]:
    """The graph of `fitted`, and how it compares with torch."""
    return export_scorer(fitted.model_, created_at="")[:2]


def test_every_detector_is_registered_and_named() -> None:
    assert ("anomgan", *DETECTORS) == DETECTOR_NAMES
    assert list(FACES) == list(DETECTORS)
    for name, kind in DETECTORS.items():
        assert kind.name == name
        assert kind.summary
        assert kind.__doc__
        assert kind.paper.split(" (")[0].split(",")[0].split()[0] in kind.__doc__
        assert len(kind.summary) < 90


@parametrize_with_checks(
    [short(name) for name in sorted(DETECTORS)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_constructor_is_what_scikit_learn_reads(fitted: Any) -> None:
    kind = type(fitted)
    signature = inspect.signature(kind)
    assert set(signature.parameters) == set(fitted.get_params())
    assert clone(fitted).get_params() == fitted.get_params()
    with pytest.raises(TypeError, match="takes no parameter 'wrong'"):
        kind(wrong=1)
    with pytest.raises(UsageError, match="n_steps is 0"):
        kind(n_steps=0).fit(table())


def test_export_says_what_torch_says(exported: tuple[bytes, Any]) -> None:
    model, parity = exported
    assert parity.p99_relative <= 1e-5
    assert parity.max_relative <= 1e-3
    assert parity.spearman > 0.999999
    assert parity.contribution_gap <= 1e-4
    assert len(model) < 20_000_000


def test_saved_model_scores_the_same_and_loads_exactly(fitted: Any, tmp_path: Path) -> None:
    rows = table(40, seed=1)
    bundle = fitted.save(tmp_path / "model")
    assert bundle.manifest.parameters["detector"] == fitted.kind.name
    ours = fitted.anomaly_score(rows)
    loaded = type(fitted).load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.anomaly_score(rows), ours)
    assert loaded.model_.parameters == fitted.model_.parameters
    assert loaded.health_.verdict == fitted.health_.verdict
    verdicts = Scorer.open(tmp_path / "model").score(rows)
    np.testing.assert_allclose(verdicts.score, ours, rtol=1e-3)
    np.testing.assert_allclose(verdicts.contributions.sum(axis=1), verdicts.score, rtol=1e-4)
    with pytest.raises(UsageError, match=f"'{fitted.kind.name}'"):
        GANDetector.load(tmp_path / "model")


def test_a_row_scores_the_same_in_any_company(fitted: Any, tmp_path: Path) -> None:
    rows = table(70, seed=2)
    together = fitted.anomaly_score(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(fitted.anomaly_score(rows.iloc[order]), together[order])
    np.testing.assert_array_equal(fitted.anomaly_score(rows.iloc[:1]), together[:1])
    fitted.save(tmp_path / "model")
    scorer = Scorer.open(tmp_path / "model")
    graph = scorer.score(rows).score
    np.testing.assert_array_equal(scorer.score(rows.iloc[order]).score, graph[order])
    np.testing.assert_allclose(scorer.score(rows.iloc[:1]).score, graph[:1], rtol=1e-6)


def test_scoring_changes_nothing(fitted: Any) -> None:
    tensors = {k: v.clone() for k, v in fitted.model_.score.tensors().items()}
    networks = {k: v.clone() for k, v in fitted.model_.networks.items()}
    state = torch.get_rng_state()
    first = fitted.anomaly_score(table(30, seed=3))
    np.testing.assert_array_equal(fitted.anomaly_score(table(30, seed=3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in fitted.model_.score.tensors().items():
        assert torch.equal(tensor, tensors[name])
    for name, tensor in fitted.model_.networks.items():
        assert torch.equal(tensor, networks[name])


def test_contributions_are_not_negative_and_sum_to_the_score(fitted: Any) -> None:
    rows = table(30, seed=4)
    rows.loc[0, "mode"] = "never seen"
    parts = fitted.contributions(rows)
    assert parts.shape == (30, 5)
    assert (parts >= 0.0).all()
    np.testing.assert_allclose(parts.sum(axis=1), fitted.anomaly_score(rows), rtol=1e-5)
    assert parts[0, 3] >= 0.99 * np.log(91)  # a state that 90 rows of training did not have


def test_p_values_and_polarity(fitted: Any) -> None:
    rows = table(50, seed=5)
    scores, p_values = fitted.anomaly_score(rows), fitted.p_values(rows)
    assert (scores >= 1.0).all()
    assert np.isfinite(scores).all()
    assert ((p_values > 0.0) & (p_values <= 1.0)).all()
    order = np.argsort(scores)
    assert (np.diff(p_values[order]) <= 0.0).all()
    np.testing.assert_array_equal(fitted.score_samples(rows), -scores)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_same_seed_same_model_another_seed_another(name: str) -> None:
    rows = table(60)
    networks = [short(name, random_state=s).fit(rows).model_.networks for s in (1, 1, 2)]
    assert all(torch.equal(networks[0][k], networks[1][k]) for k in networks[0])
    assert any(not torch.equal(networks[0][k], networks[2][k]) for k in networks[0])


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_interrupted_and_resumed_is_the_same_model(name: str, tmp_path: Path) -> None:
    rows = table(60)
    whole = short(name, n_steps=120).fit(rows)
    asked = iter(range(1000))

    def fit(*, resume: bool, stop: Callable[[], bool] | None) -> Any:
        def checkpoint(fingerprint: str) -> Checkpointer:
            return Checkpointer(tmp_path / "half.ckpt", fingerprint=fingerprint, resume=resume)

        estimator = short(name, n_steps=120)
        control = FitControl(device="cpu", checkpoint=checkpoint, stop_requested=stop)
        estimator.fit_checked(*estimator._learn_schema(rows), control)
        return estimator

    with pytest.raises(TrainingInterrupted):
        fit(resume=False, stop=lambda: next(asked) == 73)
    parts = fit(resume=True, stop=None)
    for key, tensor in whole.model_.networks.items():
        assert torch.equal(tensor, parts.model_.networks[key]), key


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_each_phase_changes_its_own_player_alone(name: str) -> None:
    rows = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    columns = {f"x{i}": (i,) for i in range(5)}
    sizes = Sizes(5, columns)
    detector = DETECTORS[name](n_steps=4, batch_rows=8, **SHORTER.get(name, {})).bound(sizes)
    sampler = Sampler(rows, 1, torch.Generator().manual_seed(1))
    game = detector.game(sizes, sampler, torch.Generator().manual_seed(2))
    owned = [p for own in game.players.values() for p in own]
    assert len(owned) == len({id(p) for p in owned})
    for phase in game.phases:
        trainer = Trainer(
            game.networks,
            players=game.players,
            phases=(phase,),
            sampler=sampler,
            plan=TrainingPlan(4, 8, 1e-3, game.betas, 0.0, 100.0, rates=game.rates),
        )
        before = [p.detach().clone() for p in owned]
        trainer._run_phase(phase)
        changed = {
            id(p) for p, b in zip(owned, before, strict=True) if not torch.equal(p.detach(), b)
        }
        assert changed, phase.name
        assert changed <= {id(p) for p in game.players[phase.player]}, phase.name


def test_unknown_detectors_are_told() -> None:
    with pytest.raises(UsageError, match="choose one of anomgan, "):
        detector_class("gan")


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_bad_parameters_are_input_errors(name: str) -> None:
    with pytest.raises(InputError, match=r"n_steps is 0.*batch_rows is 1"):
        DETECTORS[name](n_steps=0, batch_rows=1)


@pytest.mark.parametrize(
    ("n_rows", "n_steps", "batch_rows"),
    [
        (1, 100, 32),
        (1000, 100, 32),
        (2000, 100, 64),  # twice the rows: batches twice as large
        (4000, 100, 128),
        (8000, 200, 128),  # batches grow four times at most, then there are more steps
        (12_000, 300, 128),
        (10**9, 300, 128),  # 12 times the rows in all, at most
    ],
)
def test_large_tables_are_seen_as_often(n_rows: int, n_steps: int, batch_rows: int) -> None:
    plan = DETECTORS["alad"](n_steps=100, batch_rows=32, plan_rows=1000).grown(n_rows)
    assert (plan.n_steps, plan.batch_rows) == (n_steps, batch_rows)
    assert plan.grown(n_rows) == plan  # what a model stores is a plan for its own table


def test_a_plan_never_grows_without_plan_rows() -> None:
    plan = DETECTORS["egbad"](n_steps=100, batch_rows=32, plan_rows=0)
    assert plan.grown(10**9) == plan


def test_a_fit_trains_on_the_grown_plan() -> None:
    """90 of 120 rows train, twice as many as the plan is meant for."""
    fitted = short("alad", n_steps=10, plan_rows=45).fit(table())
    given = short("alad", n_steps=10, batch_rows=32, plan_rows=0).fit(table())
    assert fitted.model_.parameters == given.model_.parameters
    np.testing.assert_array_equal(fitted.anomaly_score(table()), given.anomaly_score(table()))


# --- What one or the other got wrong, or might ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "score_by"),
    [("alad", "logits"), ("alad", "l1"), ("alad", "l2"), ("egbad", "cross-e"), ("egbad", "fm")],
)
def test_every_way_to_score_is_exported(name: str, score_by: str) -> None:
    _, parity, _ = export_scorer(short(name, score_by=score_by).fit(table()).model_, created_at="")
    assert parity.p99_relative <= 1e-5
    assert parity.max_relative <= 1e-3


def sheet(n: int, seed: int) -> np.ndarray:
    """Rows near a curved two-dimensional sheet in six columns."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(-1.5, 1.5, size=(2, n))
    rows = np.stack([u, v, u + v, u - v, u * v, u**2], axis=1)
    return rows + 0.05 * rng.normal(size=rows.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DETECTORS)))
def test_rows_off_the_sheet_score_higher(name: str) -> None:
    """Far rows tell little: these are within every column's range."""
    normal, new = sheet(400, 0), sheet(300, 1)
    rng = np.random.default_rng(2)
    # Not one far row: every value is one that the column has.
    broken = np.stack([column[rng.permutation(len(new))] for column in new.T], axis=1)
    detector = detector_class(name)(n_steps=400, random_state=0, device="cpu").fit(normal)
    y = np.repeat([0, 1], len(new))
    assert roc_auc_score(y, detector.anomaly_score(np.concatenate([new, broken]))) > 0.7


def test_rows_at_the_end_of_the_world_have_finite_scores(fitted: Any) -> None:
    rows = table(6, seed=7)
    rows.loc[:, "load"] = [1e300, -1e300, 1e30, 1e6, np.nan, 0.0]
    scores = fitted.anomaly_score(rows)
    assert np.isfinite(scores).all()
    assert (fitted.contributions(rows) >= 0.0).all()


def _plain(fitted: Any, rows: pd.DataFrame) -> Rows:
    return fitted.model_.schema.rows(Batch(pl.from_pandas(rows), 1, "rows"))


def test_huge_cells_score_above_everything(fitted: Any, exported: tuple[bytes, Any]) -> None:
    rows = _plain(fitted, table())
    assert_far_above(fitted.model_, exported[0], rows.numeric, rows.categorical)


def test_scores_of_boxed_networks_fall_along_no_ray(
    fitted: Any, exported: tuple[bytes, Any]
) -> None:
    """The others' far scores are their papers': finite and high, but not in order."""
    if fitted.kind.name not in BOXED:
        assert "box" not in getattr(fitted.model_.score, "networks", {})
        return
    rows = _plain(fitted, table())
    v = len(fitted.model_.encoder.value_columns)
    steps = [0.0, *np.geomspace(1e-3, 1e7, 60), 1e300]
    for i, signs in enumerate([*np.eye(v), *-np.eye(v), np.ones(v), -np.ones(v)]):
        numeric = ray(fitted.model_, rows.numeric[i], signs, steps)
        texts = np.repeat(rows.categorical[i : i + 1], len(steps), axis=0)
        assert_never_falls(scores(fitted.model_, exported[0], numeric, texts))


def test_the_rate_holds_by_group_too(tmp_path: Path) -> None:
    rows = table(400)
    detector = short("alad", calibrate_by="mode", false_alarm_rate=0.1).fit(rows)
    assert detector.group_thresholds_
    detector.save(tmp_path / "model")
    np.testing.assert_array_equal(
        type(detector).load(tmp_path / "model").p_values(rows), detector.p_values(rows)
    )


def test_numbers_of_numpy_are_numbers() -> None:
    detector = short("alad", n_steps=np.int64(3), learning_rate=np.float32(0.001)).fit(table(40))
    assert type(detector.model_.parameters.to_dict()["n_steps"]) is int


def test_a_stage_that_never_ran_fails_the_training() -> None:
    with pytest.raises(InputError, match="both stages need some"):
        DETECTORS["f-anogan"](n_steps=20, gan_share=0.99)
    rows = table(60)
    detector = detector_class("f-anogan")(
        n_steps=100_000, batch_rows=16, random_state=0, device="cpu", max_time=1.0
    )
    detector.fit(rows)
    ran = {name.split(".")[0] for record in detector.model_.record.history for name in record}
    assert ("encoder" in ran) == (detector.health_.verdict != "failed")


def test_time_after_training_is_reckoned_with() -> None:
    rows = np.random.default_rng(0).normal(size=(2500, 6))
    began = time.monotonic()
    detector = detector_class("anogan")(
        max_time=6.0, inversion_steps=150, n_steps=100_000, random_state=0, device="cpu"
    )
    detector.fit(rows)
    assert time.monotonic() - began < 12.0
    assert detector.model_.record.stopped_by_deadline


def _changed(model: Path, **changes: Any) -> None:
    """Change the stored scoring facts, checksums too."""
    bundle = Bundle.open(model)
    files = {name: bundle.read(name) for name in bundle.names if name != "manifest.json"}
    scoring = json.loads(files["scoring.json"])
    scoring["settings"] |= changes
    files["scoring.json"] = json.dumps(scoring).encode()
    manifest = replace(bundle.manifest, files={})
    Bundle.save(model, files=files, manifest=manifest, overwrite=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"activations": []},
        {"activations": None},
        {"activations": {"generator": "gelu", "encoder": "leaky_relu", "d_xx": "leaky_relu"}},
        {"activations": {"generator": "relu", "encoder": "leaky_relu"}},
        {"activations": {"nothing": "relu"}},
        {"unit": 0.0},
        {"unit": -1.0},
        {"unit": "nan"},
        {"kernel_width": 0.0},
    ],
)
def test_damaged_models_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    detector = short("alad").fit(table(40))
    detector.save(tmp_path / "model")
    _changed(tmp_path / "model", **changes)
    with pytest.raises(ModelCorruptError, match="do not fit each other") as caught:
        type(detector).load(tmp_path / "model")
    assert str(tmp_path / "model") in str(caught.value)
    assert "fit the model again" in str(caught.value)


@pytest.mark.parametrize("part", ["score.generator.0.weight", "score.encoder.1.bias"])
def test_damaged_networks_are_refused(part: str, tmp_path: Path) -> None:
    detector = short("alad").fit(table(40))
    tensors = detector.model_.score.tensors()
    del tensors[part.removeprefix("score.")]
    with pytest.raises(ModelCorruptError, match="do not fit each other"):
        ProgramScore.from_tensors(
            tensors,
            formula=detector.model_.parameters,
            n_columns=4,
            settings=detector.model_.score.settings_dict(),
        )


def test_another_detectors_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    prints = []
    for name in ("alad", "egbad"):

        def keep(fingerprint: str) -> Any:
            prints.append(fingerprint)
            raise TrainingInterrupted("seen")

        control = FitControl(device="cpu", checkpoint=keep)
        estimator = short(name)
        schema, rows = estimator._learn_schema(table(40))
        with pytest.raises(TrainingInterrupted, match="seen"):
            estimator.fit_checked(schema, rows, control)
    assert prints[0] != prints[1]
