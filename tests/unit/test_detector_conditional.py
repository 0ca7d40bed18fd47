"""The conditional GAN: contexts, their mismatches, and values scored in their context."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle_conditional
import pandas as pd
import pytest
import torch
from detector_checks import (
    correlated,
    far_above_all,
    idle_parameters,
    lists,
    moved_by,
    parts,
    tiny_game,
    tiny_network,
)
from sklearn.metrics import roc_auc_score

from anomgan import GANDetector
from anomgan.detectors.base import Sizes
from anomgan.detectors.conditional import Conditional
from anomgan.errors import UsageError
from anomgan.estimator import detector_class
from anomgan.nets.arithmetic import FrozenNetwork

SIZES = Sizes(5, {"a": (0,), "b": (1, 4), "none": (), "c": (2,), "d": (3,)})


def shifts(n: int, seed: int) -> pd.DataFrame:
    """A machine's load by shift and outside temperature, and six columns beside the point."""
    rng = np.random.default_rng(seed)
    shift = rng.choice(["day", "evening", "night"], size=n, p=[0.4, 0.3, 0.3])
    usual = pd.Series({"day": 10.0, "evening": 6.0, "night": 2.0})[shift].to_numpy()
    outside, shared = rng.uniform(-1.0, 1.0, n), rng.normal(size=n)
    table = pd.DataFrame({"shift": shift, "outside": outside})
    table["load"] = usual + 2.0 * outside + rng.normal(size=n)
    for j in range(6):
        table[f"n{j}"] = 0.7 * shared + 0.7 * rng.normal(size=n)
    return table


def wrong_loads(n: int, seed: int) -> pd.DataFrame:
    """Rows with the load of another shift: each column by itself is as in normal rows."""
    table = shifts(3 * n, seed)
    other = np.random.default_rng(seed).permutation(len(table))
    weather = 2.0 * table["outside"].to_numpy()
    wrong = table.assign(load=(table["load"].to_numpy() - weather)[other] + weather)
    return wrong[table["shift"].to_numpy()[other] != table["shift"].to_numpy()].iloc[:n]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("context", ["", "x0,x3"])
def test_rows_thrown_far_away_score_above_every_training_row(seed: int, context: str) -> None:
    assert far_above_all("conditional", seed, context=context)


@pytest.mark.parametrize("phase", ["discriminator", "generator", "encoder"])
def test_each_phase_changes_its_own_network_and_no_other(phase: str) -> None:
    assert moved_by(Conditional(latent_dim=4, context=("x1",)), phase) == {phase}


def test_values_that_are_wrong_in_their_context_are_found_better_than_without_context() -> None:
    normal, new = shifts(500, 0), pd.concat([shifts(300, 1), wrong_loads(150, 2)])
    labels = np.repeat([0, 1], [300, 150])
    by_context = detector_class("conditional")(
        context=("shift", "outside"), n_steps=400, random_state=0
    ).fit(normal)
    flagship = GANDetector(n_steps=200, random_state=0).fit(normal)
    ours = roc_auc_score(labels, by_context.anomaly_score(new))
    theirs = roc_auc_score(labels, flagship.anomaly_score(new))
    assert ours > 0.93, (ours, theirs)
    assert ours > theirs + 0.07, (ours, theirs)
    shares = by_context.contributions(new)
    assert not shares[:, :2].any()  # of the context
    largest = shares[labels == 1][:, 2:-1].argmax(axis=1)
    assert np.mean(largest == 0) > 0.6


def test_the_score_is_errors_in_context_and_what_the_discriminator_believes() -> None:
    scored, given, k = (0, 2), (1, 3), 2
    networks = {
        "encoder": tiny_network((4, 5, k), seed=0),
        "generator": tiny_network((k + 2, 4, 2), seed=1),
        "judge": tiny_network((4, 3, 1), seed=2),
    }
    nets = {name: lists(network) for name, network in networks.items()}
    low, high = np.array([-1.0, -0.5, -2.0, -1.5]), np.array([1.0, 0.5, 2.0, 1.5])
    spread = np.array([0.5, 2.0])
    networks["box"] = FrozenNetwork.numbers(np.stack([low, high]))
    networks["spread"] = FrozenNetwork.numbers(spread.reshape(1, -1))
    rows = (1.5 * np.random.default_rng(1).normal(size=(12, 4))).astype(np.float32)
    detector = replace(Conditional(), scored=scored, given=given)
    by_feature, whole = parts(detector, networks, rows)
    for row, found, part in zip(rows.tolist(), by_feature, whole, strict=True):
        errors, belief = oracle_conditional.score(nets, low, high, spread, scored, given, 10.0, row)
        np.testing.assert_allclose(found, errors, rtol=1e-3, atol=1e-5)
        assert part == pytest.approx(belief, rel=1e-4)


def test_the_context_finds_its_features() -> None:
    bound = Conditional(context="b, c").bound(SIZES)
    assert bound.context == ("b", "c")
    assert (bound.given, bound.scored) == ((1, 2, 4), (0, 3))
    nothing = Conditional().bound(SIZES)
    assert (nothing.given, nothing.scored) == ((), (0, 1, 2, 3, 4))
    assert Conditional(**json.loads(json.dumps(bound.to_dict()))) == bound


def test_a_context_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'shift', 'e'.*its columns are a, b, none, c, d"):
        Conditional(context=("shift", "a", "e")).bound(SIZES)
    with pytest.raises(UsageError, match=r"leave out at least one"):
        Conditional(context="a,b,c,d").bound(SIZES)
    with pytest.raises(UsageError, match=r"'z'.*x0, x1, x2, x3, x4"):
        detector_class("conditional")(context=("z",)).fit(correlated())


def test_mismatched_rows_have_values_of_another_row_in_their_own_context() -> None:
    seen = []
    detector, game, _ = tiny_game(Conditional(context="x1", batch_rows=6))
    game.networks.discriminator.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].detach())
    )
    losses = game.phases[0].loss()
    assert set(losses) == {"real", "made", "smoothness", "mismatched"}
    real, _, _, torn = seen
    assert torch.equal(torn[:, :, 1], real[:, :, 1])
    others = list(detector.scored)
    assert torch.equal(torn[:, 1:, others], real[:, :-1, others])
    _, game, _ = tiny_game(Conditional(batch_rows=6))
    assert set(game.phases[0].loss()) == {"real", "made", "smoothness"}


def test_a_saved_model_scores_the_same_and_keeps_its_context(tmp_path: Path) -> None:
    kind = detector_class("conditional")
    table = shifts(150, 0)
    detector = kind(context="shift", n_steps=20, random_state=0).fit(table)
    detector.save(tmp_path / "model")
    again = kind.load(tmp_path / "model")
    assert again.get_params()["context"] == ("shift",)
    assert np.array_equal(again.anomaly_score(table), detector.anomaly_score(table))


CHANGES = [
    {"context": "x2"},
    {"mismatch_weight": 0.0},
    {"discriminator_weight": 0.0},
    {"cycle_weight": 0.0},
    {"gradient_penalty": 0.0},
]


def test_every_parameter_has_an_effect() -> None:
    assert idle_parameters("conditional", CHANGES, context="x1") == []


def test_faults_are_raised_together() -> None:
    with pytest.raises(UsageError, match=r"mismatch_weight is -1.*cycle_weight is -2"):
        Conditional(mismatch_weight=-1.0, cycle_weight=-2.0)
