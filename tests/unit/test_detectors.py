"""What every detector of the literature keeps, whatever its paper says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomgan import GANDetector, Scorer
from anomgan.detectors.base import Sizes
from anomgan.detectors.registry import DETECTORS
from anomgan.errors import InputError, TrainingInterrupted, UsageError
from anomgan.estimator import detector_class, fit_table
from anomgan.literature import FACES
from anomgan.persistence import export_scorer
from anomgan.presets import DETECTOR_NAMES
from anomgan.training.loop import Sampler, Trainer, TrainingPlan

SHORT: dict[str, Any] = {"n_steps": 20, "batch_rows": 16, "random_state": 0, "device": "cpu"}
SHORTER: dict[str, dict[str, Any]] = {"anogan": {"inversion_steps": 20}}
"""What else makes a fit short, by detector."""

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


def test_export_says_what_torch_says(fitted: Any) -> None:
    model, parity, _ = export_scorer(fitted.model_, created_at="")
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
    import polars as pl

    from anomgan.tables import SchemaOptions

    frame = pl.from_pandas(table(60).drop(columns="noise"))
    parameters = SHORT | SHORTER.get(name, {}) | {"n_steps": 120}
    arguments: dict[str, Any] = {
        "options": SchemaOptions(),
        "detector": name,
        "parameters": parameters,
        "source": "normal.csv",
    }
    fit_table(frame, output=tmp_path / "whole", **arguments)

    def stop(step: int, n_steps: int, facts: Any) -> None:
        if step >= 60:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        fit_table(frame, output=tmp_path / "parts", progress=stop, **arguments)
    fit_table(frame, output=tmp_path / "parts", resume=True, **arguments)
    whole, parts = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "parts"))
    assert whole == parts


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
