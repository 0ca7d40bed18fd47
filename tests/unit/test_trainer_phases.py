"""Phases that repeat, have a window or a projection, and players with rates of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import oracle_training
import pytest
import torch
from tiny_flagship import tiny_game, tiny_plan
from torch import Tensor, nn

from anomgan.errors import TrainingInterrupted, UsageError
from anomgan.nets.batched import BatchedMLP
from anomgan.nets.spectral import SpectralLinear
from anomgan.training import loop
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Phase, Sampler, Trainer
from anomgan.training.noise import InstanceNoise
from anomgan.training.objectives import Wasserstein
from anomgan.training.penalties import clip_weights


class Pair(nn.Module):
    """One number for each of two players."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0]))
        self.b = nn.Parameter(torch.tensor([-2.0]))


class Watched:
    """A trainer of two quadratic phases, first for a and second for b, that notes its updates."""

    def __init__(self, first: Mapping[str, Any], second: Mapping[str, Any], **plan: Any) -> None:
        self.networks = Pair()
        self.seen: list[tuple[int, str]] = []
        self.draws: list[float] = []
        self.cost = 0.0
        self.now = 1000.0
        self.trainer = Trainer(
            self.networks,
            players={"a": [self.networks.a], "b": [self.networks.b]},
            phases=[
                Phase("first", "a", lambda: self.loss("first"), **first),
                Phase("second", "b", lambda: self.loss("second"), **second),
            ],
            sampler=Sampler(torch.zeros(2, 2), 1, torch.Generator().manual_seed(0)),
            plan=tiny_plan(**plan),
        )

    def loss(self, name: str) -> dict[str, Tensor]:
        self.now += self.cost
        self.seen.append((self.trainer._step, name))
        self.draws.append(float(self.trainer.sampler.normal(1)))
        own = self.networks.a if name == "first" else self.networks.b
        return {"x": (own - self.draws[-1]).square().sum()}

    def steps(self, name: str) -> list[int]:
        return [step for step, seen in self.seen if seen == name]

    def rate(self, player: str) -> float:
        return float(self.trainer.optimizers[player].param_groups[0]["lr"])


# --- Repeats --------------------------------------------------------------------------------


def test_a_phase_repeats_with_new_draws_before_the_next_one() -> None:
    watched = Watched({"repeats": 3}, {}, n_steps=4)
    record = watched.trainer.run()
    assert watched.seen == [
        (step, name) for step in range(4) for name in ("first", "first", "first", "second")
    ]
    assert len(set(watched.draws)) == len(watched.draws)
    assert float(watched.trainer.optimizers["a"].state[watched.networks.a]["step"]) == 12.0
    assert float(watched.trainer.optimizers["b"].state[watched.networks.b]["step"]) == 4.0
    assert record.steps_run == 4


def test_history_holds_the_mean_over_repeats() -> None:
    networks = Pair()
    values = iter(range(100))
    phase = Phase("p", "a", lambda: {"x": networks.a.sum() * 0.0 + next(values)}, repeats=5)
    trainer = Trainer(
        networks,
        players={"a": [networks.a]},
        phases=[phase],
        sampler=Sampler(torch.zeros(2, 2), 1, torch.Generator()),
        plan=tiny_plan(20),
    )
    assert trainer.run().history[0]["p.x"] == pytest.approx(49.5)


def test_repeats_happen_at_the_phase_s_interval() -> None:
    watched = Watched({"repeats": 2, "interval": 3}, {}, n_steps=7)
    watched.trainer.run()
    assert watched.steps("first") == [0, 0, 3, 3, 6, 6]


# --- Windows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "steps"),
    [
        ({}, range(10)),
        ({"start": 0.3}, range(3, 10)),
        ({"stop": 0.7}, range(7)),
        ({"start": 0.29, "stop": 0.57}, range(3, 6)),
        ({"start": 0.96}, []),  # less than half a step is left
    ],
)
def test_a_phase_runs_in_its_window(window: dict[str, float], steps: Any) -> None:
    watched = Watched(window, {}, n_steps=10)
    watched.trainer.run()
    assert watched.steps("first") == list(steps)
    assert watched.steps("second") == list(range(10))


@pytest.mark.parametrize("share", [0.07, 0.29, 1.0 / 3.0, 0.57, 0.999])
@pytest.mark.parametrize("n_steps", [1, 7, 100])
def test_two_stages_meet_without_gap_or_overlap(share: float, n_steps: int) -> None:
    watched = Watched({"stop": share}, {"start": share}, n_steps=n_steps)
    watched.trainer.run()
    assert [step for step, _ in watched.seen] == list(range(n_steps))
    assert watched.steps("first") == list(range(round(share * n_steps)))


def test_the_interval_counts_from_the_start_of_training() -> None:
    watched = Watched({"interval": 4, "start": 0.5}, {}, n_steps=20)
    watched.trainer.run()
    assert watched.steps("first") == [12, 16]


def test_history_has_no_losses_of_a_phase_out_of_its_window() -> None:
    watched = Watched({"stop": 0.5}, {"start": 0.5}, n_steps=100)
    one, other = watched.trainer.run().history
    assert ("first.x" in one, "second.x" in one) == (True, False)
    assert ("first.x" in other, "second.x" in other) == (False, True)


def test_with_a_deadline_stages_keep_their_shares_of_what_can_be_afforded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched({"stop": 0.4}, {"start": 0.4}, n_steps=100_000, deadline=1200.0)
    watched.cost = 1.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: watched.now))
    record = watched.trainer.run()
    assert record.stopped_by_deadline
    assert record.steps_run == pytest.approx(200, abs=2)
    assert len(watched.steps("first")) == pytest.approx(80, abs=3)
    assert len(watched.steps("second")) == pytest.approx(120, abs=3)


# --- After ----------------------------------------------------------------------------------


def test_after_runs_once_an_update_on_the_new_values_without_gradients() -> None:
    networks, seen = Pair(), []

    def after() -> None:
        assert not torch.is_grad_enabled()
        seen.append(float(networks.a.detach()))
        networks.a.clamp_(-0.5, 0.5)

    trainer = Trainer(
        networks,
        players={"a": [networks.a]},
        phases=[
            Phase(
                "p", "a", lambda: {"x": (networks.a - 9.0).square().sum()}, repeats=2, after=after
            )
        ],
        sampler=Sampler(torch.zeros(2, 2), 1, torch.Generator()),
        plan=tiny_plan(3, learning_rate=0.1),
    )
    trainer.run()
    assert len(seen) == 6
    assert seen[0] == pytest.approx(1.1, abs=1e-3)  # Adam's first step is the learning rate
    assert seen[1] > 0.5
    assert trainer.networks.a.grad is not None


def test_a_clipped_critic_stays_within_its_bound() -> None:
    game = tiny_game(objective=Wasserstein())
    critic = game.players()["discriminator"]
    phases = (
        Phase(
            "discriminator",
            "discriminator",
            game.discriminator_losses,
            repeats=2,
            after=lambda: clip_weights(critic, 0.01),
        ),
        Phase("generator", "generator", game.generator_losses),
    )
    Trainer(
        game.networks,
        players=game.players(),
        phases=phases,
        sampler=game.sampler,
        # An average of the last steps: that of all would still hold the unclipped start.
        plan=tiny_plan(60, ema_half_life_samples=1.0),
    ).run()
    assert all(float(p.detach().abs().max()) <= 0.01 + 1e-6 for p in critic)


# --- Rates ----------------------------------------------------------------------------------


def test_players_have_their_own_learning_rates() -> None:
    watched = Watched({}, {}, n_steps=50, rates={"b": 4.0})
    watched.trainer.run()
    expected = oracle_training.learning_rate(49, 50, 1e-3)
    assert watched.rate("a") == pytest.approx(expected)
    assert watched.rate("b") == pytest.approx(4.0 * expected)
    plain = Watched({}, {}, n_steps=50)
    plain.trainer.run()
    assert torch.equal(plain.networks.a, watched.networks.a)
    assert not torch.equal(plain.networks.b, watched.networks.b)


# --- Faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 0}, "phase 'p': repeats is 0, it must be at least 1"),
        ({"interval": 0, "start": -0.1}, "interval is 0.*window is -0.1 to 1.0"),
        ({"start": 0.5, "stop": 0.5}, "window is 0.5 to 0.5"),
        ({"stop": 1.1}, "window is 0.0 to 1.1"),
    ],
)
def test_impossible_phases_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Phase("p", "a", dict, **changes)


def test_impossible_rates_are_refused_together() -> None:
    with pytest.raises(UsageError, match=r"for 'c', the players are \['a', 'b'\].*'b' is 0.0"):
        Watched({}, {}, rates={"c": 2.0, "b": 0.0})


# --- Defaults and resuming ------------------------------------------------------------------


def staged_trainer(path: Path | None, seed: int = 0, *, plain: bool = False) -> Trainer:
    """The tiny flagship, spectrally normalised, in stages, with repeats, noise and rates."""
    game = tiny_game(seed)
    game.networks.discriminator = BatchedMLP(
        2, (2, 8, 8, 9), generator=torch.Generator().manual_seed(seed + 5), linear=SpectralLinear
    )
    noise = InstanceNoise(0.3, until=0.6)

    def noisy() -> Mapping[str, Tensor]:
        rows = noise(game.sampler.rows(8), game.sampler)
        return {"x": game.networks.critic(rows).square().mean(dim=1).sum()}

    critic, plays, fools = "discriminator", game.discriminator_losses, game.generator_losses
    phases = (
        Phase("discriminator", critic, plays, repeats=1 if plain else 2),
        Phase("noisy", critic, noisy, interval=3),
        Phase("generator", "generator", fools, stop=1.0 if plain else 0.6),
        Phase("late", "generator", fools, start=0.5, after=lambda: None),
    )
    checkpointer = None
    if path is not None:
        checkpointer = Checkpointer(path, fingerprint="x", resume=True, interval_s=1e9)
    return Trainer(
        game.networks,
        players=game.players(),
        phases=phases,
        sampler=game.sampler,
        plan=tiny_plan(120, rates={} if plain else {critic: 2.0}),
        checkpointer=checkpointer,
    )


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.networks.parameters()]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = staged_trainer(None)
    record = whole.run()
    # Stopped at step 55, then 60 steps after the snapshot at 50: the stages change at step 60.
    for at in (55, 60):
        asked = iter(range(10_000))
        with pytest.raises(TrainingInterrupted):
            staged_trainer(tmp_path / "c").run(stop_requested=lambda n=at, a=asked: next(a) >= n)
    resumed = staged_trainer(tmp_path / "c", seed=7)  # all comes from the checkpoint
    assert resumed.run().history == record.history
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.sampler.done == resumed.sampler.done == 119 / 120


def test_written_out_defaults_change_no_bit_and_other_values_do() -> None:
    runs = []
    for explicit in (False, True):
        game = tiny_game()
        defaults = {"repeats": 1, "start": 0.0, "stop": 1.0, "after": None} if explicit else {}
        trainer = Trainer(
            game.networks,
            players=game.players(),
            phases=[Phase(p.name, p.player, p.loss, p.interval, **defaults) for p in game.phases()],
            sampler=game.sampler,
            plan=tiny_plan(60, **({"rates": {"generator": 1.0}} if explicit else {})),
        )
        trainer.run()
        runs.append(weights(trainer))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    staged, plain = staged_trainer(None), staged_trainer(None, plain=True)
    staged.run()
    plain.run()
    assert not torch.equal(weights(staged)[0], weights(plain)[0])
