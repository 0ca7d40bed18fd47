"""Fits whose generators fail on the way: what is left of them, and what the model says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomgan import GANDetector
from anomgan.bundle import Bundle
from anomgan.detectors.alad import ALAD
from anomgan.detectors.anomgan import FlagshipGame
from anomgan.detectors.base import Game
from anomgan.flagship import _selection
from anomgan.learning import generator_judge, torch_seed
from anomgan.literature import FACES
from anomgan.nets.batched import BatchedMLP
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.presets import FlagshipParameters
from anomgan.published import _first_kept
from anomgan.training.loop import Phase

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4)) @ RNG.normal(size=(4, 4))


def zero(generator: BatchedMLP, member: int) -> None:
    for parameter in generator.parameters():
        parameter[member] = 0.0


def flagship(**options: Any) -> GANDetector:
    narrow = {"generator_width": 24, "discriminator_width": 24, "batch_rows": 64}
    return GANDetector(n_steps=400, random_state=0, device="cpu", **narrow, **options).fit(X)


@pytest.mark.parametrize("options", [{}, {"spectral_norm": True, "initialisation": "xavier"}])
def test_a_collapsed_member_of_a_fit_recovers_and_the_model_says_so(
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = flagship(**options).model_
    phases = FlagshipGame.phases

    def held(game: FlagshipGame) -> tuple[Phase, ...]:
        def after() -> None:
            if game.sampler.done < 0.24:
                zero(game.networks.generator, 0)

        *others, generator = phases(game)
        return (*others, replace(generator, after=after))

    monkeypatch.setattr(FlagshipGame, "phases", held)
    detector = flagship(**options)
    model = detector.model_
    assert "member 1 has collapsed at step 100" in caplog.text
    assert model.health.verdict == plain.health.verdict == "healthy"
    assert model.health.reasons == ()
    assert model.health.facts["restarts"] == 1.0
    assert model.health.facts["coverage"] > 0.6
    assert (plain.record.n_restarts, model.record.n_restarts) == (0, 1)
    # The other member saw the same rows and the same noise.
    for name, tensor in model.networks.items():
        assert torch.equal(tensor[1], plain.networks[name][1])
    detector.save(tmp_path / "model")
    training = Bundle.open(tmp_path / "model").manifest.training
    assert training["restarts"] == 1
    assert training["weights_from_step"] == [400, 400]


def test_a_generator_that_falls_late_is_left_with_earlier_averages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    game_of = ALAD.game

    def falling(detector: ALAD, sizes: Any, sampler: Any, draws: torch.Generator) -> Game:
        game = game_of(detector, sizes, sampler, draws)

        def after() -> None:
            if sampler.done > 0.7:
                zero(game.networks.generator, 0)  # type: ignore[arg-type]

        *others, last = game.phases
        return replace(game, phases=(*others, replace(last, after=after)))

    monkeypatch.setattr(ALAD, "game", falling)
    model = FACES["alad"](n_steps=400, random_state=0, device="cpu").fit(X).model_
    (step,) = model.record.weights_from_step
    assert 120 <= step < 300
    assert f"member 1 has got worse since step {step}" in caplog.text
    assert model.health.facts["weights_from_step"] == step
    assert model.health.facts["coverage"] > 0.5
    assert model.facts["weights_from_step"] == [step]
    assert model.facts["steps"] == 400


def test_nothing_is_judged_where_no_generator_gives_normal_rows() -> None:
    model = FACES["so-gaal"](n_steps=60, random_state=0, device="cpu").fit(X).model_
    assert model.record.weights_from_step == [60]
    assert "coverage" not in model.health.facts


def test_averages_count_from_well_within_the_last_stage() -> None:
    def game(*starts: float) -> Game:
        phases = [Phase(f"p{i}", "a", dict, start=start) for i, start in enumerate(starts)]
        return Game(nn.Module(), {}, tuple(phases))

    assert _first_kept(game(0.0, 0.0)) == pytest.approx(0.3)
    assert _first_kept(game(0.0, 0.5)) == pytest.approx(0.65)


def test_tables_in_order_are_judged_by_all_of_their_rows() -> None:
    """Eight machines one after the other: a generator of the first alone has collapsed."""
    rng = torch.Generator().manual_seed(0)
    machines = 10.0 * torch.randn((8, 3), generator=rng)

    def rows_of(machine: torch.Tensor) -> torch.Tensor:
        return machines[machine] + 0.3 * torch.randn((len(machine), 3), generator=rng)

    calibrating = rows_of(torch.arange(8).repeat_interleave(250))
    healthy = rows_of(torch.randint(8, (128,), generator=rng))
    collapsed = rows_of(torch.zeros(128, dtype=torch.long))
    judge = generator_judge([calibrating] * 2, lambda: torch.stack([healthy, collapsed]))
    assert judge is not None
    qualities = judge.measure()
    assert qualities[0] > 0.8
    assert qualities[1] < 0.2


@pytest.mark.parametrize("scheme", ["xavier", "normal"])
def test_a_fresh_member_is_initialised_as_the_first_ones_were(scheme: str) -> None:
    parameters = FlagshipParameters(initialisation=scheme, spectral_norm=True)
    sizes = TabularSizes(2, 4, 3, 8, 8, 7)
    unseen = [torch.randn(40, 4, generator=torch.Generator().manual_seed(0))] * 2
    device = torch.device("cpu")
    selection = _selection(unseen, lambda: torch.stack(unseen), sizes, parameters, 5, device)
    assert selection is not None
    assert selection.fresh is not None
    draws = torch.Generator().manual_seed(torch_seed(5, 1, 0))
    first = TabularNetworks(sizes, generator=draws, scheme=scheme, spectral_norm=True)
    for fresh, parameter in zip(selection.fresh(0, 1), first.parameters(), strict=True):
        assert torch.equal(fresh, parameter)
