"""Averages that are chosen, and members that start anew, in trainings whose end is known."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_flagship import ring, tiny_trainer
from torch import Tensor, nn
from toy_members import CODES, N_STEPS, ROWS, Members, fresh, members_trainer

from anomgan.errors import ModelCorruptError, TrainingInterrupted, UsageError
from anomgan.learning import evenly, generator_judge
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.health import coverage, precision, quality
from anomgan.training.loop import Trainer
from anomgan.training.selection import Judge, Selection, SelectionState, Weights, clear_margin


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.networks.parameters()]


def identical(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def qualities(trainer: Trainer) -> list[float]:
    made = trainer.networks(CODES)
    return [quality(ROWS[128 * k : 128 * (k + 1)], made[k]) for k in range(2)]


def collapse(until: int) -> Any:
    """Hold member 0 at a point for the first steps; a `Phase.after` of the toy."""
    runs: list[int] = []

    def after(networks: Members) -> None:
        runs.append(1)
        if len(runs) <= until:
            networks.scale[0] = -1.0
            networks.shift[0] = 0.0

    return after


# --- The best averages ----------------------------------------------------------------------


def test_who_gets_worse_late_is_left_with_earlier_averages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = members_trainer(falls=[1], judged=False)
    averages: dict[int, list[Tensor]] = {}

    def watch() -> dict[str, float]:
        averages[plain._step] = [a.clone() for a in plain.averaged]
        return {}

    plain.monitor = watch
    assert plain.run().weights_from_step == [N_STEPS, N_STEPS]
    sound, fallen = qualities(plain)
    assert sound > 0.7
    assert fallen < 0.2

    trainer = members_trainer(falls=[1])
    record = trainer.run()
    first, second = record.weights_from_step
    assert first == N_STEPS
    assert 0.3 * N_STEPS <= second <= 0.7 * N_STEPS
    assert qualities(trainer)[1] > 0.7
    for own, last, then in zip(weights(trainer), weights(plain), averages[second], strict=True):
        assert torch.equal(own[0], last[0])
        assert torch.equal(own[1], then[1])
    (said,) = caplog.records
    best = qualities(trainer)[1]
    assert said.getMessage() == (
        f"member 2 has got worse since step {second} (quality {best:.2f}, at step {N_STEPS} "
        f"{fallen:.2f}): its weights of then are used"
    )
    assert record.health_facts()["weights_from_step"] == second
    assert record.n_restarts == 0


def test_who_does_not_get_worse_ends_with_the_bits_of_a_training_without_a_judge(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, judged = members_trainer(judged=False), members_trainer()
    expected = plain.run()
    record = judged.run()
    assert identical(weights(judged), weights(plain))
    assert record.history == expected.history
    assert record.weights_from_step == [N_STEPS, N_STEPS]
    assert judged.selection is not None
    assert judged.selection.state.best  # there was something to choose from
    assert torch.equal(judged.sampler.normal(3), plain.sampler.normal(3))
    assert caplog.records == []


def test_nothing_is_kept_before_its_share_of_the_steps() -> None:
    # Whoever falls from a third on has nothing to go back to where only later averages count.
    early = members_trainer(falls=[1], falls_from=1 / 3)
    assert early.run().weights_from_step[1] < 0.5 * N_STEPS
    late = members_trainer(falls=[1], falls_from=1 / 3, first=0.9)
    assert late.run().weights_from_step == [N_STEPS, N_STEPS]
    assert late.selection is not None
    assert min(late.selection.state.steps) >= 0.9 * N_STEPS


@pytest.mark.parametrize("n_steps", [40, 50, 600, 20_000])
def test_averages_are_judged_at_most_twenty_times(n_steps: int) -> None:
    trainer, asked = members_trainer(), []

    def measure() -> list[float]:
        asked.append(1)
        return [0.5, 0.5]

    selection = Selection(Judge(measure, [0.2, 0.2]))
    state = Weights(trainer.parameters, trainer.averaged, tuple(trainer.optimizers.values()))
    steps = [*range(50, n_steps, 50), n_steps]
    for since, step in zip([0, *steps], steps, strict=False):
        selection.review(since, step, n_steps, state)
    selection.settled(n_steps, state)
    assert len(asked) <= 20
    assert len(asked) == {40: 0, 50: 0, 600: 9, 20_000: 15}[n_steps]


def steered(values: list[list[float]], margins: tuple[float, ...] = (0.2, 0.2)) -> list[int]:
    """Steps that a selection chooses, given the qualities from step 500 of 1000 on."""
    trainer, said = members_trainer(), iter(values)
    selection = Selection(Judge(lambda: next(said), margins))
    state = Weights(trainer.parameters, trainer.averaged, tuple(trainer.optimizers.values()))
    for i in range(len(values) - 1):
        step = 500 + 50 * i
        selection.review(step - 50, step, 1000, state)
    return selection.settled(1000, state)[1]


def test_the_margin_decides_member_by_member() -> None:
    assert steered([[0.9, 0.9], [0.71, 0.69]]) == [1000, 500]
    assert steered([[0.9, 0.9], [0.71, 0.69]], (0.1, 0.3)) == [500, 1000]
    assert steered([[0.5, 0.9], [0.9, 0.5], [0.1, 0.1]]) == [550, 500]
    assert steered([[0.0, 0.0], [0.0, 0.0]]) == [1000, 1000]
    nan = math.nan
    assert steered([[nan, 0.9], [0.9, nan], [nan, nan]]) == [1000, 1000]
    assert steered([[nan, 0.9], [nan, nan], [nan, 0.1]]) == [1000, 500]


def test_a_judge_that_fails_leaves_the_parameters_as_they_were() -> None:
    trainer = members_trainer()
    before = weights(trainer)

    def broken() -> list[float]:
        raise ArithmeticError("no quality")

    selection = Selection(Judge(broken, [0.2, 0.2]))
    state = Weights(trainer.parameters, [torch.zeros_like(p) for p in before], ())
    with pytest.raises(ArithmeticError):
        selection.review(450, 500, 1000, state)
    assert identical(weights(trainer), before)


def test_former_states_are_not_changed_by_better_averages() -> None:
    trainer, said = members_trainer(), iter([[0.5, 0.5], [0.6, 0.4]])
    selection = Selection(Judge(lambda: next(said), [0.2, 0.2]))
    state = Weights(trainer.parameters, trainer.averaged, ())
    selection.review(450, 500, 1000, state)
    former = selection.state
    kept = [t.clone() for t in former.best]
    for average in trainer.averaged:
        average.add_(1.0)
    selection.review(500, 550, 1000, state)
    assert identical(former.best, kept)
    assert former.steps == (500, 500)
    assert selection.state.steps == (550, 500)
    for best, average, before in zip(selection.state.best, trainer.averaged, kept, strict=True):
        assert torch.equal(best[0], average[0])
        assert torch.equal(best[1], before[1])


def test_members_without_an_axis_of_their_own_are_refused() -> None:
    selection = Selection(Judge(lambda: [0.0, 0.0], [0.2, 0.2]))
    selection.check([torch.zeros(2, 1, 3), torch.zeros(2)])
    with pytest.raises(UsageError, match=r"shape \[\(3, 2\), \(\)\] have no slice .* 2 members"):
        selection.check([torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(())])


# --- Members that start anew ----------------------------------------------------------------


def test_a_collapsed_member_starts_anew_and_recovers_and_the_other_one_does_not_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = members_trainer(after=collapse(140), restarts=False)
    left.run()
    assert qualities(left)[0] < 0.2  # by itself it does not come back
    trainer = members_trainer(after=collapse(140))
    record = trainer.run()
    assert record.n_restarts == 1
    assert record.weights_from_step == [N_STEPS, N_STEPS]
    assert record.health_facts()["restarts"] == 1.0
    assert min(qualities(trainer)) > 0.7
    for own, other in zip(weights(trainer), weights(left), strict=True):
        assert torch.equal(own[1], other[1])
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "member 1 has collapsed at step 150" in said.getMessage()


def test_a_member_starts_anew_with_weights_moments_and_averages_of_its_own() -> None:
    trainer = members_trainer(after=collapse(10**6), n_steps=100)
    trainer.run()  # too short for a restart before its end
    before = trainer._snapshot()
    selection = Selection(Judge(lambda: [0.05, 0.9], [0.2, 0.2]), fresh=fresh)
    state = Weights(trainer.parameters, trainer.averaged, tuple(trainer.optimizers.values()))
    selection.review(100, 150, 600, state)
    assert selection.state.restarts == (1, 0)
    for i, new in enumerate(fresh(0, 1)):
        assert torch.equal(trainer.parameters[i][0], new[0])
        assert torch.equal(trainer.averaged[i][0], new[0])
        assert torch.equal(trainer.parameters[i][1], before.parameters[i][1])
        assert torch.equal(trainer.averaged[i][1], before.averaged[i][1])
        moments = trainer.optimizers["all"].state[trainer.parameters[i]]
        former = before.optimizers["all"][i]
        assert torch.equal(moments["step"], former["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            assert not moments[name][0].any()
            assert torch.equal(moments[name][1], former[name][1])
    selection.review(250, 300, 600, state)  # the second look: once a member, whatever comes
    assert selection.state.restarts == (1, 0)


@pytest.mark.parametrize(
    ("values", "margin", "restarts"),
    [
        ([0.05, 0.9], 0.2, (1, 0)),
        ([0.9, 0.05], 0.2, (0, 1)),
        ([0.19, 0.9], 0.2, (0, 0)),  # weak, not collapsed
        ([0.0, 0.29], 0.2, (0, 0)),  # none is sound
        ([0.0, 0.5], 0.6, (0, 0)),  # too few rows to tell
        ([math.nan, 0.9], 0.2, (0, 0)),
        ([math.nan, math.nan], 0.2, (0, 0)),
    ],
)
def test_collapse_is_far_below_the_best_member(
    values: list[float], margin: float, restarts: tuple[int, ...]
) -> None:
    trainer = members_trainer()
    selection = Selection(Judge(lambda: values, [margin, margin]), fresh=fresh)
    state = Weights(trainer.parameters, trainer.averaged, ())
    selection.review(100, 150, 600, state)
    assert selection.state.restarts == restarts


@pytest.mark.parametrize(
    ("since", "step", "n_steps", "due"),
    [
        (100, 150, 600, True),
        (50, 100, 600, False),
        (150, 200, 600, False),
        (250, 300, 600, True),
        (300, 350, 600, False),
        (0, 40, 40, False),  # the end of a short training
        (0, 50, 60, False),
        (50, 100, 100, False),
        (0, 50, 100, True),
    ],
)
def test_members_start_anew_at_two_places_and_never_late(
    since: int, step: int, n_steps: int, due: bool
) -> None:
    trainer = members_trainer()
    selection = Selection(Judge(lambda: [0.0, 0.9], [0.2, 0.2]), fresh=fresh)
    state = Weights(trainer.parameters, trainer.averaged, ())
    selection.review(since, step, n_steps, state)
    assert selection.state.restarts == (int(due), 0)


# --- Resuming -------------------------------------------------------------------------------


class StopAfter:
    """Asks to stop once the loop has asked n times."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def keeper(path: Path) -> Checkpointer:
    return Checkpointer(path, fingerprint="rows", resume=True, interval_s=1e9)


def interrupted(path: Path, at: int, **options: Any) -> None:
    trainer = members_trainer(checkpointer=keeper(path), **options)
    with pytest.raises(TrainingInterrupted):
        trainer.run(stop_requested=StopAfter(at))


@pytest.mark.parametrize("at", [10, 200, 399, 451, 599])
def test_a_resumed_training_chooses_the_same_averages(tmp_path: Path, at: int) -> None:
    whole = members_trainer(falls=[1])
    expected = whole.run()
    assert expected.weights_from_step[1] < N_STEPS
    interrupted(tmp_path / "c", at, falls=[1])
    # Other weights at the start: everything must come from the checkpoint.
    trainer = members_trainer(7, falls=[1], checkpointer=keeper(tmp_path / "c"))
    record = trainer.run()
    assert identical(weights(trainer), weights(whole))
    assert record.weights_from_step == expected.weights_from_step


def test_a_finished_training_that_is_resumed_chooses_the_same_averages(tmp_path: Path) -> None:
    often = Checkpointer(tmp_path / "c", fingerprint="rows", resume=False, interval_s=0.0)
    whole = members_trainer(falls=[1], checkpointer=often)
    expected = whole.run()
    trainer = members_trainer(7, falls=[1], checkpointer=keeper(tmp_path / "c"))
    record = trainer.run()
    assert identical(weights(trainer), weights(whole))
    assert record.weights_from_step == expected.weights_from_step


@pytest.mark.parametrize("at", [149, 150, 151, 320])
def test_a_resumed_training_restarts_members_alike_and_not_again(tmp_path: Path, at: int) -> None:
    whole = members_trainer(after=collapse(140))
    assert whole.run().n_restarts == 1
    interrupted(tmp_path / "c", at, after=collapse(140))
    done = at // 50 * 50
    trainer = members_trainer(7, after=collapse(140 - done), checkpointer=keeper(tmp_path / "c"))
    record = trainer.run()
    assert record.n_restarts == 1
    assert identical(weights(trainer), weights(whole))


def test_best_averages_survive_the_file_bit_by_bit(tmp_path: Path) -> None:
    trainer = members_trainer(falls=[1], after=collapse(140))
    trainer.run()
    written = trainer._snapshot()
    keeper(tmp_path / "c").save(written)
    state = keeper(tmp_path / "c").load(torch.device("cpu"))
    assert state is not None
    assert state.selection is not None
    assert written.selection is not None
    assert state.selection.restarts == (1, 0)
    assert state.selection.steps == written.selection.steps
    assert state.selection.qualities == written.selection.qualities
    assert identical(state.selection.best, written.selection.best)


GOOD = {"steps": [200, 200], "qualities": [0.9, 0.9], "restarts": [0, 0]}


@pytest.mark.parametrize(
    ("selection", "drop"),
    [
        (None, []),
        ("absent", []),  # as checkpoints were before averages were judged
        ("text", []),
        ({}, []),
        (GOOD | {"steps": [200]}, []),
        (GOOD | {"steps": ["late", 200]}, []),
        (GOOD | {"qualities": None}, []),
        (GOOD | {"restarts": [0, 0, 0]}, []),
        (GOOD | {"steps": [0, 0]}, []),
        (GOOD, ["best.0"]),
        (GOOD, ["best.1"]),
        (GOOD, ["best.0", "best.1"]),
    ],
)
def test_a_checkpoint_with_other_findings_is_refused(
    tmp_path: Path, selection: Any, drop: list[str]
) -> None:
    path = tmp_path / "c"
    interrupted(path, 301)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["anomgan"])
        tensors = {k: file.get_tensor(k) for k in file.keys() if k not in drop}  # noqa: SIM118
    assert facts["selection"].keys() == GOOD.keys()
    facts["selection"] = selection
    if selection == "absent":
        del facts["selection"]
    save_file(tensors, path, metadata={"anomgan": json.dumps(facts)})
    with pytest.raises(ModelCorruptError, match=r"not a usable checkpoint.*without --resume"):
        members_trainer(checkpointer=keeper(path)).run()


def test_a_training_goes_on_after_a_restart_and_a_roll_back() -> None:
    trainer = members_trainer(after=collapse(140))
    broken: list[int] = []

    def break_once(_: nn.Module, __: Any, made: Tensor) -> Tensor:
        if trainer._step != 330 or broken:
            return made
        broken.append(1)
        return made * math.nan

    trainer.networks.register_forward_hook(break_once)
    record = trainer.run()
    assert record.n_rollbacks == 1
    assert record.n_restarts == 1
    assert min(qualities(trainer)) > 0.7
    assert record.weights_from_step == [N_STEPS, N_STEPS]


def test_a_trainer_that_goes_back_forgets_what_was_found_since() -> None:
    trainer = members_trainer()
    early = trainer._snapshot()
    trainer.run()
    assert trainer.selection is not None
    assert trainer.selection.state != early.selection
    trainer._restore(early)
    assert trainer.selection.state == early.selection


# --- The judge of generators ----------------------------------------------------------------


def test_quality_is_the_smaller_one_of_coverage_and_precision() -> None:
    real = ring(128)
    point, wide = real[:1].expand(128, 2), torch.cat([ring(128, seed=1)[:64], 9.0 + real[:64]])
    for made in (point, wide, ring(128, seed=1)):
        assert quality(real, made) == min(coverage(real, made), precision(real, made))
    assert quality(real, point) < 0.2
    assert 0.4 < quality(real, wide) <= 0.5
    assert quality(real, ring(128, seed=1)) > 0.8


def test_generators_are_judged_by_rows_enough_or_not_at_all() -> None:
    made = torch.stack([ring(200, seed=k) for k in range(3)])
    unseen = [ring(200, seed=9), ring(32, seed=9), ring(9, seed=9)]
    judge = generator_judge(unseen, lambda: made)
    assert judge is not None
    assert judge.margins == [clear_margin(128), clear_margin(32), clear_margin(9)]
    first, second, third = judge.measure()
    assert first == quality(evenly(unseen[0], 128), made[0, :128])
    assert second == quality(unseen[1], made[1, :32])
    assert math.isnan(third)
    assert generator_judge([rows[:9] for rows in unseen], lambda: made) is None


def test_margins_grow_as_the_error_of_a_share_does() -> None:
    assert clear_margin(128) == clear_margin(5000) == 0.2
    assert clear_margin(32) == pytest.approx(0.4)
    assert clear_margin(8) == pytest.approx(0.8)
    assert clear_margin(0) > 1.0  # never clear


def test_a_trainer_without_a_judge_keeps_the_last_averages_of_all_members() -> None:
    trainer = tiny_trainer(n_steps=60)
    record = trainer.run()
    assert record.weights_from_step == [60, 60]
    assert trainer._snapshot().selection is None
    assert record.health_facts() == {"rollbacks": 0.0, "restarts": 0.0, "weights_from_step": 60.0}


def test_state_starts_empty() -> None:
    selection = Selection(Judge(lambda: [0.0, 0.0, 0.0], [0.2] * 3))
    assert selection.state == SelectionState((0, 0, 0), (0.0, 0.0, 0.0), (0, 0, 0), ())
