"""The one training loop: who learns when, what is averaged, and how it ends."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle_training
import pytest
import torch
from tiny_flagship import tiny_plan, tiny_trainer
from torch import Tensor, nn

from anomgan.errors import TrainingError, TrainingInterrupted
from anomgan.training import loop
from anomgan.training.loop import Phase, Sampler, Trainer


class Pair(nn.Module):
    """One number for each of two players."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0]))
        self.b = nn.Parameter(torch.tensor([-2.0]))


def sampler(seed: int = 0) -> Sampler:
    rng = torch.Generator().manual_seed(seed)
    return Sampler(torch.arange(12.0).reshape(6, 2), 1, rng)


Losses = Callable[[], Mapping[str, Tensor]]


def pair_trainer(
    loss_a: Losses, loss_b: Losses | None = None, *, interval: int = 1, **changes: Any
) -> Trainer:
    """Two players; `loss_a` may read the trainer's networks through the closure."""
    networks: Pair = changes.pop("networks")
    phases = [Phase("first", "a", loss_a)]
    if loss_b is not None:
        phases.append(Phase("second", "b", loss_b, interval))
    return Trainer(
        networks,
        players={"a": [networks.a], "b": [networks.b]},
        phases=phases,
        sampler=sampler(),
        plan=tiny_plan(**changes),
    )


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.networks.parameters()]


def identical(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- Sampler --------------------------------------------------------------------------------


def test_sampler_draws_training_rows_independently_for_each_member() -> None:
    rows = torch.arange(40.0).reshape(20, 2)
    drawn = Sampler(rows, 3, torch.Generator().manual_seed(0)).rows(500)
    assert drawn.shape == (3, 500, 2)
    assert {tuple(row) for row in drawn.flatten(0, 1).tolist()} == {
        tuple(row) for row in rows.tolist()
    }
    assert not torch.equal(drawn[0], drawn[1])


def test_sampler_noise_has_its_shape_and_law() -> None:
    draws = Sampler(torch.zeros(2, 2), 2, torch.Generator().manual_seed(0))
    normal, uniform = draws.normal(20_000, 3), draws.uniform(50_000)
    assert normal.shape == (2, 20_000, 3)
    assert uniform.shape == (2, 50_000)
    assert float(normal.std()) == pytest.approx(1.0, abs=0.02)
    assert float(uniform.min()) >= 0.0
    assert float(uniform.max()) < 1.0
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)


# --- Phases ---------------------------------------------------------------------------------


def test_phases_run_in_order_at_their_interval_and_see_their_player_only() -> None:
    networks, seen = Pair(), []

    def first() -> dict[str, Tensor]:
        seen.append("first")
        assert networks.a.requires_grad
        assert not networks.b.requires_grad
        return {"x": (networks.a * networks.b).square().sum()}

    def second() -> dict[str, Tensor]:
        seen.append("second")
        assert networks.b.requires_grad
        assert not networks.a.requires_grad
        return {"x": (networks.a - networks.b).square().sum()}

    pair_trainer(first, second, interval=3, networks=networks, n_steps=7).run()
    step, skipped = ["first", "second"], ["first"]
    assert seen == [*step, *skipped * 2, *step, *skipped * 2, *step]


def test_only_the_phase_s_player_moves() -> None:
    networks = Pair()

    def first() -> dict[str, Tensor]:
        return {"x": (networks.a - 3.0 * networks.b).square().sum()}

    b = float(networks.b.detach())
    pair_trainer(first, networks=networks, n_steps=20).run()
    assert float(networks.b.detach()) == b
    assert float(networks.a.detach()) != 1.0


def test_parameters_without_a_gradient_do_not_decay() -> None:
    networks = Pair()
    trainer = Trainer(
        networks,
        players={"both": [networks.a, networks.b]},
        phases=[Phase("first", "both", lambda: {"x": networks.a.square().sum()})],
        sampler=sampler(),
        plan=tiny_plan(20, weight_decay=0.1),
    )
    trainer.run()
    assert float(networks.b.detach()) == -2.0
    assert float(networks.a.detach()) < 1.0


def test_named_losses_add_up() -> None:
    one, two = Pair(), Pair()
    pair_trainer(lambda: {"x": 5.0 * one.a.square().sum()}, networks=one).run()
    pair_trainer(
        lambda: {"x": 2.0 * two.a.square().sum(), "y": 3.0 * two.a.square().sum()}, networks=two
    ).run()
    assert float(one.a.detach()) == pytest.approx(float(two.a.detach()), rel=1e-5)


def test_minimum_is_found() -> None:
    networks = Pair()
    pair_trainer(
        lambda: {"x": (networks.a - 5.0).square().sum()},
        lambda: {"x": (networks.b - networks.a).square().sum()},
        networks=networks,
        n_steps=600,
        learning_rate=0.1,
        weight_decay=0.0,
    ).run()
    assert float(networks.a.detach()) == pytest.approx(5.0, abs=0.05)
    assert float(networks.b.detach()) == pytest.approx(5.0, abs=0.05)


# --- Averages and schedule ------------------------------------------------------------------


@pytest.mark.parametrize(("batch_rows", "half_life"), [(16, 300.0), (64, 100.0), (1, 1e9)])
def test_averaged_weights_equal_the_scalar_oracle(batch_rows: int, half_life: float) -> None:
    networks, values, rates = Pair(), [1.0], []
    trainer: Trainer

    def first() -> dict[str, Tensor]:
        rates.append(trainer.optimizers["a"].param_groups[0]["lr"])
        return {"x": (networks.a - 50.0).square().sum()}

    def watch() -> dict[str, Tensor]:  # runs after each step of the first phase
        values.append(float(networks.a.detach()))
        return {"x": networks.b.sum() * 0.0}

    plan = {"batch_rows": batch_rows, "ema_half_life_samples": half_life, "learning_rate": 0.1}
    trainer = pair_trainer(first, watch, networks=networks, n_steps=60, **plan)
    trainer.run()
    expected = oracle_training.averaged(values, batch_rows, half_life)
    assert float(networks.a.detach()) == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(values[-1], rel=1e-3)
    expected_rates = [oracle_training.learning_rate(i, 60, 0.1) for i in range(60)]
    assert rates == pytest.approx(expected_rates)


# --- Record ---------------------------------------------------------------------------------


def test_history_holds_mean_losses_whatever_the_length_of_the_window() -> None:
    networks = Pair()
    trainer = pair_trainer(
        lambda: {"x": 7.0 + 0.0 * networks.a.sum()},
        lambda: {"y": 3.0 + 0.0 * networks.b.sum()},
        interval=4,
        networks=networks,
        n_steps=130,
    )
    record = trainer.run()
    assert [h["step"] for h in record.history] == [50.0, 100.0, 130.0]
    for entry in record.history:
        assert entry["first.x"] == pytest.approx(7.0)
        assert entry["second.y"] == pytest.approx(3.0)
    assert record.steps_run == 130
    assert not record.stopped_by_deadline
    assert record.n_rollbacks == 0


def test_history_divides_losses_by_members_and_takes_the_monitor_s_facts() -> None:
    trainer = tiny_trainer(n_steps=50)
    trainer.monitor = lambda: {"coverage": 0.5}
    (entry,) = trainer.run().history
    # Untrained logits are near zero: about log 2 for a pair, log 8 for grades, a member.
    assert entry["discriminator.adversarial"] == pytest.approx(math.log(2.0), abs=0.15)
    assert entry["discriminator.grading"] == pytest.approx(math.log(8.0), abs=0.6)
    assert entry["coverage"] == 0.5


def test_progress_is_told_at_the_start_and_at_the_end() -> None:
    told: list[tuple[int, int]] = []
    tiny_trainer(n_steps=60).run(progress=lambda step, total, facts: told.append((step, total)))
    assert told[0] == (1, 60)
    assert told[-1] == (60, 60)


# --- Determinism ----------------------------------------------------------------------------


def test_same_seed_same_bits_and_another_seed_others() -> None:
    runs = []
    for seed in (0, 0, 1):
        trainer = tiny_trainer(seed, 60)
        record = trainer.run()
        runs.append((weights(trainer), record.history))
    assert identical(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not identical(runs[0][0], runs[2][0])


def test_global_random_states_are_neither_read_nor_changed() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    one = tiny_trainer(0, 30)
    one.run()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    torch.rand(7)
    try:
        other = tiny_trainer(0, 30)
        other.run()
        assert identical(weights(one), weights(other))
    finally:
        torch.set_rng_state(states[0])


def test_progress_and_monitor_do_not_change_the_result() -> None:
    plain, watched = tiny_trainer(0, 60), tiny_trainer(0, 60)
    watched.monitor = lambda: {"seen": 1.0}
    plain.run()
    watched.run(progress=lambda *_: None, stop_requested=lambda: False)
    assert identical(weights(plain), weights(watched))


# --- Divergence -----------------------------------------------------------------------------


def failing(networks: Pair, at: set[int], calls: list[int], bad: float = math.nan) -> Losses:
    """A loss that is not finite at the given calls (counted over roll-backs)."""

    def loss() -> dict[str, Tensor]:
        calls.append(len(calls))
        wrong = bad if calls[-1] in at else 0.0
        return {"x": networks.a.square().sum() + wrong * networks.a.sum()}

    return loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_rolls_back_and_slows_down(
    bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    networks, calls = Pair(), []
    trainer = pair_trainer(failing(networks, {70}, calls, bad), networks=networks, n_steps=120)
    record = trainer.run()
    assert record.n_rollbacks == 1
    assert record.steps_run == 120
    assert len(calls) == 100 + 70  # steps 51 to 100 were repeated
    assert [h["step"] for h in record.history] == [50.0, 100.0, 120.0]
    assert all(math.isfinite(v) for h in record.history for v in h.values())
    assert bool(torch.isfinite(networks.a).all())
    assert "back to step 50" in caplog.text
    assert trainer.optimizers["a"].param_groups[0]["lr"] == pytest.approx(
        0.5 * oracle_training.learning_rate(119, 120, 1e-3)
    )


def test_a_parameter_that_is_not_finite_rolls_back_too() -> None:
    networks, calls = Pair(), []

    def loss() -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 50:  # the last step before the review: its loss is not seen again
            return {"x": (networks.a - networks.a.detach()).abs().sqrt().sum()}
        return {"x": networks.a.square().sum()}

    record = pair_trainer(loss, networks=networks, n_steps=60).run()
    assert record.n_rollbacks == 1
    assert bool(torch.isfinite(networks.a).all())


def test_repeated_divergence_is_an_error_that_says_what_to_do() -> None:
    networks, calls = Pair(), []
    trainer = pair_trainer(failing(networks, set(range(9999)), calls), networks=networks)
    with pytest.raises(TrainingError, match=r"diverged 4 times.*extreme values.*learning_rate"):
        trainer.run()
    assert len(calls) == 4 * 50


# --- Deadline -------------------------------------------------------------------------------


class Clock:
    """A clock that stands still unless moved; shared by the loop and the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))


def timed(clock: Clock, networks: Pair, cost: Callable[[int], float], **plan: Any) -> Trainer:
    """A trainer whose i-th update takes cost(i) seconds."""
    calls: list[int] = []

    def loss() -> dict[str, Tensor]:
        clock.now += cost(len(calls))
        calls.append(1)
        return {"x": networks.a.square().sum()}

    return pair_trainer(loss, networks=networks, **plan)


@pytest.mark.parametrize("seconds_a_step", [0.01, 1.0, 30.0])
def test_deadline_is_kept_and_the_schedule_reaches_its_end(
    monkeypatch: pytest.MonkeyPatch, seconds_a_step: float
) -> None:
    clock, networks = Clock(monkeypatch), Pair()
    trainer = timed(
        clock, networks, lambda i: seconds_a_step, n_steps=100_000, deadline=1000.0 + 100.0
    )
    record = trainer.run()
    assert record.stopped_by_deadline
    assert clock.now <= 1100.0 + seconds_a_step
    assert clock.now >= 1100.0 - 2.0 * seconds_a_step
    if record.steps_run > 10:
        rate = trainer.optimizers["a"].param_groups[0]["lr"]
        assert rate < 1.2 * 1e-3 / 20


def test_a_generous_deadline_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plain, timed_one = Clock(monkeypatch), Pair(), Pair()
    timed(clock, plain, lambda i: 0.1, n_steps=120).run()
    record = timed(clock, timed_one, lambda i: 0.1, n_steps=120, deadline=clock.now + 1000.0).run()
    assert not record.stopped_by_deadline
    assert record.steps_run == 120
    assert torch.equal(plain.a, timed_one.a)


def test_a_slow_start_does_not_shorten_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, networks = Clock(monkeypatch), Pair()
    record = timed(
        clock, networks, lambda i: 20.0 if i == 0 else 0.1, n_steps=300, deadline=1000.0 + 100.0
    ).run()
    assert record.steps_run == 300
    assert not record.stopped_by_deadline


def test_a_slow_spell_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, networks = Clock(monkeypatch), Pair()
    record = timed(
        clock, networks, lambda i: 1.0 if i < 60 else 0.01, n_steps=400, deadline=1000.0 + 200.0
    ).run()
    assert record.steps_run == 400
    assert not record.stopped_by_deadline


def test_a_roll_back_does_not_end_training_early(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, networks, calls = Clock(monkeypatch), Pair(), []
    losses = failing(networks, {299}, calls)

    def loss() -> Mapping[str, Tensor]:
        clock.now += 0.1
        return losses()

    plan = {"n_steps": 1000, "deadline": 1000.0 + 400.0}
    record = pair_trainer(loss, networks=networks, **plan).run()
    assert record.n_rollbacks == 1
    assert record.steps_run == 1000


def test_a_deadline_that_has_passed_still_gives_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, networks = Clock(monkeypatch), Pair()
    record = timed(clock, networks, lambda i: 1.0, deadline=900.0).run()
    assert record.steps_run == 1
    assert record.stopped_by_deadline


# --- Interrupts -----------------------------------------------------------------------------


def test_interrupt_without_a_checkpoint_says_that_nothing_was_kept() -> None:
    with pytest.raises(TrainingInterrupted, match=r"step 0 of 120; nothing was kept"):
        tiny_trainer().run(stop_requested=lambda: True)
