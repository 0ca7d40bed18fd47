"""What steadies the flagship's game: every piece alone, and the models that come of it."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from tiny_flagship import tiny_game, tiny_plan
from torch import Tensor

from anomgan import GANDetector, Scorer
from anomgan.detectors.anomgan import FlagshipGame, GameWeights, Stabilisers
from anomgan.errors import TrainingInterrupted, UsageError
from anomgan.fitting import FitControl
from anomgan.nets.initialisation import INITIALISERS
from anomgan.nets.spectral import SpectralHead
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.persistence import export_scorer
from anomgan.presets import (
    INITIALISATIONS,
    OBJECTIVE_NAMES,
    SMOOTHED_OBJECTIVES,
    FlagshipParameters,
)
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Trainer
from anomgan.training.noise import InstanceNoise
from anomgan.training.objectives import OBJECTIVES, SMOOTHED
from anomgan.training.unrolling import MAX_UNROLLED_STEPS

M = 2
NOISY = Stabilisers(noise=InstanceNoise(0.5))
ALL: dict[str, Any] = {
    "objective": "non-saturating",
    "discriminator_steps": 2,
    "discriminator_rate": 0.5,
    "unrolled_steps": 2,
    "instance_noise": 0.2,
    "label_smoothing": 0.1,
    "feature_matching": 0.5,
    "initialisation": "xavier",
    "spectral_norm": True,
}
SHORT: dict[str, Any] = {
    "batch_rows": 16,
    "generator_width": 8,
    "discriminator_width": 8,
    "random_state": 0,
    "device": "cpu",
}


def rows(n: int = 80, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) @ np.random.default_rng(7).normal(size=(3, 3))


def losses(game: FlagshipGame, phase: str) -> dict[str, float]:
    """Losses of a phase, by the same draws whichever game is asked."""
    game.sampler.rng.manual_seed(11)
    return {k: float(v.detach()) for k, v in getattr(game, f"{phase}_losses")().items()}


# --- Repeated updates, and who is moved -----------------------------------------------------


def test_discriminator_and_penalty_are_repeated_the_generator_is_not() -> None:
    phases = tiny_game(stabilisers=Stabilisers(discriminator_steps=3)).phases()
    assert {p.name: p.repeats for p in phases} == {"discriminator": 3, "penalty": 3, "generator": 1}
    assert [p.repeats for p in tiny_game().phases()] == [1, 1, 1]


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize(
    ("phase", "moved"),
    [("discriminator", {"discriminator"}), ("generator", {"generator", "encoder"})],
)
def test_phases_still_change_their_own_networks_only(
    phase: str, moved: set[str], spectral_norm: bool
) -> None:
    game = tiny_game(
        weights=GameWeights(features=0.5),
        stabilisers=Stabilisers(2, 2, 0.1, InstanceNoise(0.1)),
        spectral_norm=spectral_norm,
    )
    before = {k: v.clone() for k, v in game.networks.state_dict().items()}
    Trainer(
        game.networks,
        players=game.players(),
        phases=[p for p in game.phases() if p.name == phase],
        sampler=game.sampler,
        plan=tiny_plan(5),
    ).run()
    after = game.networks.state_dict()
    assert {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])} == moved


# --- Instance noise -------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["discriminator", "penalty", "generator"])
def test_noise_is_on_what_the_critic_is_shown_and_on_nothing_else(phase: str) -> None:
    plain, noisy = losses(tiny_game(), phase), losses(tiny_game(stabilisers=NOISY), phase)
    differ = {name for name in plain if plain[name] != noisy[name]}
    assert differ == ({"r1r2"} if phase == "penalty" else {"adversarial"})


@pytest.mark.parametrize("phase", ["discriminator", "penalty", "generator"])
def test_noise_is_gone_at_the_end(phase: str) -> None:
    game = tiny_game(stabilisers=NOISY)
    game.sampler.done = 1.0
    assert losses(game, phase) == losses(tiny_game(), phase)


# --- Unrolling ------------------------------------------------------------------------------


def generator_gradient(game: FlagshipGame) -> Tensor:
    """Gradient of the adversarial loss for the generator's first weights."""
    game.networks.zero_grad(set_to_none=True)
    game.sampler.rng.manual_seed(11)
    game.generator_losses()["adversarial"].backward()  # type: ignore[no-untyped-call]
    gradient = game.networks.generator.layers[0].weight.grad
    assert isinstance(gradient, Tensor)
    return gradient


def test_one_unrolled_step_is_a_gradient_step_of_the_critic() -> None:
    rate = 0.7
    game = tiny_game(stabilisers=Stabilisers(unrolled_steps=1, unrolled_rate=rate))
    real, fake, critic = batch(game)
    loss = game.objective.discriminator_loss(critic(real), critic(fake))
    weights = list(game.networks.discriminator.parameters())
    moved = copy.deepcopy(game)
    with torch.no_grad():
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(
            moved.networks.discriminator.parameters(), gradients, strict=True
        ):
            weight -= rate * gradient
    ahead = moved.networks.critic
    expected = float(game.objective.generator_loss(ahead(real), ahead(fake)).detach())
    assert losses(game, "generator")["adversarial"] == pytest.approx(expected, rel=1e-5)


def batch(game: FlagshipGame) -> tuple[Tensor, Tensor, Any]:
    """The rows of a generator's phase, and the critic."""
    game.sampler.rng.manual_seed(11)
    real = game.sampler.rows(game.n_pairs)
    latents = game.sampler.normal(game.n_pairs, game.networks.sizes.latent_dim)
    return real, game.networks.generator(latents).detach(), game.networks.critic


def test_unrolled_gradient_is_that_of_differences() -> None:
    """Only a numerical derivative of the whole loss holds the critic's answer for sure."""
    game = tiny_game(stabilisers=Stabilisers(unrolled_steps=3, unrolled_rate=0.5))
    game.networks.double()
    game.sampler.data = game.sampler.data.double()
    weight = game.networks.generator.layers[0].weight
    normal = game.sampler.normal
    game.sampler.normal = lambda *shape: normal(*shape).double()  # type: ignore[method-assign]
    found = generator_gradient(game)[0, 0, 0]
    step, values = 1e-6, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight[0, 0, 0] += sign * step
        values.append(losses(game, "generator")["adversarial"])
        with torch.no_grad():
            weight[0, 0, 0] -= sign * step
    assert float(found) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_unrolling_changes_the_adversarial_loss_alone() -> None:
    plain = losses(tiny_game(), "generator")
    ahead = losses(tiny_game(stabilisers=Stabilisers(unrolled_steps=2)), "generator")
    assert {name for name in plain if plain[name] != ahead[name]} == {"adversarial"}


# --- Feature matching -----------------------------------------------------------------------


def test_feature_matching_is_the_distance_of_mean_hidden_activations() -> None:
    game = tiny_game(weights=GameWeights(features=2.5))
    real, fake, _ = batch(game)
    hidden = game.networks.discriminator.hidden
    gap = hidden(real).mean(dim=1) - hidden(fake).mean(dim=1)
    expected = 2.5 * float(gap.square().sum().detach())
    found = losses(game, "generator")
    assert found.pop("features") == pytest.approx(expected, rel=1e-5)
    assert found == losses(tiny_game(), "generator")


def test_feature_matching_has_a_gradient_for_the_generator() -> None:
    game = tiny_game(weights=GameWeights(features=1.0))
    game.networks.discriminator.requires_grad_(False)
    game.generator_losses()["features"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in game.networks.generator.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in game.networks.encoder.parameters())


# --- Spectral normalisation -----------------------------------------------------------------


def head(n_out: int = 4) -> SpectralHead:
    rng = torch.Generator().manual_seed(3)
    return SpectralHead(M, 6, n_out, generator=rng, gain=5.0)


def test_first_output_has_slope_one_and_the_others_are_as_they_were() -> None:
    layer = head()
    acting = layer(torch.eye(6).expand(M, -1, -1)) - layer.bias
    torch.testing.assert_close(acting[..., 0].norm(dim=1), torch.ones(M))
    torch.testing.assert_close(acting[..., 1:], layer.weight[..., 1:])
    torch.testing.assert_close(acting, layer.frozen_weight())
    assert not layer.frozen_weight().requires_grad


def test_a_head_of_zeros_stays_one_and_has_a_finite_gradient() -> None:
    layer = head()
    with torch.no_grad():
        layer.weight.zero_()
    layer(torch.ones(M, 2, 6)).sum().backward()
    assert not layer.frozen_weight().any()
    assert layer.weight.grad is not None
    assert bool(torch.isfinite(layer.weight.grad).all())


def test_trained_critic_is_one_lipschitz_whatever_the_weights_of_its_heads() -> None:
    game = tiny_game(spectral_norm=True)
    Trainer(
        game.networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=tiny_plan(300, learning_rate=1e-2, ema_half_life_samples=1.0),
    ).run()

    def steepest(values: Tensor) -> float:
        (gradient,) = torch.autograd.grad(values.sum(), x, retain_graph=True)
        return float(gradient.norm(dim=2).max())

    x = torch.randn((M, 300, 2), generator=torch.Generator().manual_seed(1), requires_grad=True)
    critic, grades = game.networks.critic(x), game.networks.noise_logits(x)[..., 1]
    assert 0.02 < steepest(critic) <= 1.02
    with torch.no_grad():
        game.networks.discriminator.layers[-1].weight.mul_(100.0)
    torch.testing.assert_close(game.networks.critic(x), critic)
    steeper = game.networks.noise_logits(x)[..., 1]
    assert steepest(steeper) == pytest.approx(100.0 * steepest(grades), rel=1e-3)


def test_frozen_score_reads_the_normalised_discriminator() -> None:
    X = rows()
    model = GANDetector(**SHORT, n_steps=30, spectral_norm=True).fit(X).model_
    sizes = TabularSizes(2, 3, model.parameters.latent_dim, 8, 8, 7)  # type: ignore[arg-type]
    networks = TabularNetworks(sizes, generator=torch.Generator(), spectral_norm=True)
    networks.load_state_dict(model.networks)
    frozen = model.score.discriminator  # type: ignore[union-attr]
    weights, biases = networks.discriminator.frozen()
    for ours, theirs in zip(frozen.matrices[:-1], weights[:-1], strict=True):
        torch.testing.assert_close(torch.linalg.matrix_norm(ours, ord=2), torch.ones(2))
        torch.testing.assert_close(ours, theirs)
    x = torch.randn((2, 9, 3), generator=torch.Generator().manual_seed(1))
    hidden = frozen.activations(x)[-2]
    torch.testing.assert_close(
        hidden @ weights[-1] + biases[-1], networks.discriminator(x).detach(), rtol=1e-2, atol=1e-2
    )


# --- Names that presets knows without torch -------------------------------------------------


def test_names_of_presets_are_those_of_the_pieces() -> None:
    assert tuple(INITIALISERS) == INITIALISATIONS
    assert tuple(SMOOTHED) == SMOOTHED_OBJECTIVES
    assert set(OBJECTIVES) == set(OBJECTIVE_NAMES)
    smoothed = {n for n, k in OBJECTIVES.items() if "smoothing" in inspect.signature(k).parameters}
    assert set(SMOOTHED) == smoothed
    assert all(OBJECTIVES[name] is kind for name, kind in SMOOTHED.items())
    assert FlagshipParameters(unrolled_steps=MAX_UNROLLED_STEPS).unrolled_steps == 10


# --- Whole models ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steadied() -> GANDetector:
    return GANDetector(**SHORT | ALL, n_steps=60).fit(rows())


def test_a_model_with_everything_is_exported_stored_and_loaded(
    steadied: GANDetector, tmp_path: Path
) -> None:
    new = rows(40, seed=1)
    parity = export_scorer(steadied.model_, created_at="")[1]
    assert parity.max_relative <= 1e-3
    stored = steadied.save(tmp_path / "model").manifest.parameters
    assert {name: stored[name] for name in ALL} == ALL
    loaded = GANDetector.load(tmp_path / "model")
    assert {name: getattr(loaded, name) for name in ALL} == ALL
    named = pd.DataFrame(new, columns=loaded.feature_names_in_)
    np.testing.assert_array_equal(loaded.anomaly_score(named), steadied.anomaly_score(new))
    graph = Scorer.open(tmp_path / "model").score(new).score
    np.testing.assert_allclose(graph, steadied.anomaly_score(new), rtol=1e-3)


def test_the_graph_has_no_node_more(steadied: GANDetector) -> None:
    plain = GANDetector(**SHORT, n_steps=10).fit(rows())
    kinds = [
        sorted(n.op_type for n in onnx.load_model_from_string(data).graph.node)
        for data in (export_scorer(d.model_, created_at="")[0] for d in (steadied, plain))
    ]
    assert kinds[0] == kinds[1]


def test_models_saved_before_there_were_stabilisers_load(tmp_path: Path) -> None:
    plain = GANDetector(**SHORT, n_steps=10).fit(rows())
    plain.save(tmp_path / "model")
    manifest = tmp_path / "model" / "manifest.json"
    stored = json.loads(manifest.read_text())
    for name in set(ALL) - {"objective"}:
        del stored["parameters"][name]
    manifest.write_text(json.dumps(stored))
    loaded = GANDetector.load(tmp_path / "model")
    assert loaded.model_.parameters == plain.model_.parameters


def test_a_resumed_fit_with_everything_is_the_same_model(tmp_path: Path) -> None:
    asked = iter(range(1000))

    def fit(*, resume: bool, stop_at: int | None) -> GANDetector:
        def checkpoint(fingerprint: str) -> Checkpointer:
            return Checkpointer(tmp_path / "half.ckpt", fingerprint=fingerprint, resume=resume)

        estimator = GANDetector(**SHORT | ALL, n_steps=120)
        control = FitControl(
            device="cpu",
            checkpoint=checkpoint,
            stop_requested=None if stop_at is None else lambda: next(asked) == stop_at,
        )
        estimator.fit_checked(*estimator._learn_schema(rows()), control)
        return estimator

    whole = GANDetector(**SHORT | ALL, n_steps=120).fit(rows())
    with pytest.raises(TrainingInterrupted):
        fit(resume=False, stop_at=73)
    parts = fit(resume=True, stop_at=None)
    for key, tensor in whole.model_.networks.items():
        assert torch.equal(tensor, parts.model_.networks[key]), key


@pytest.mark.parametrize("name", ["instance_noise", "discriminator_rate", "learning_rate"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), np.float64("inf")])
def test_endless_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is (inf|nan), it must be finite"):
        FlagshipParameters(**{name: value})


def test_truth_values_of_numpy_are_taken_and_stored_as_plain_ones() -> None:
    stored = FlagshipParameters(spectral_norm=np.True_).to_dict()
    assert stored["spectral_norm"] is True
    with pytest.raises(UsageError, match=r"n_steps is np\.True_, it must be a whole number"):
        FlagshipParameters(n_steps=np.True_)


def test_an_unknown_objective_is_not_said_to_have_no_labels() -> None:
    with pytest.raises(UsageError, match="'nope' is not known"):
        GANDetector(**SHORT, objective="nope", label_smoothing=0.1).fit(rows())
