"""Checkpoints: a resumed run ends as an uninterrupted one, and bad files are refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_flagship import ring, tiny_trainer
from torch import Tensor

from anomgan.errors import ModelCorruptError, OutputError, TrainingInterrupted, UsageError
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Trainer

N_STEPS = 170


class StopAfter:
    """Asks to stop once the loop has asked n times."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def checkpointer(path: Path, *, resume: bool = True, fingerprint: str = "rows") -> Checkpointer:
    return Checkpointer(path, fingerprint=fingerprint, resume=resume, interval_s=1e9)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.networks.parameters()]


def identical(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def interrupted(path: Path, at: int, seed: int = 0) -> str:
    """Train until the at-th step, leave a checkpoint, return the message."""
    trainer = tiny_trainer(seed, N_STEPS, checkpointer=checkpointer(path))
    with pytest.raises(TrainingInterrupted) as raised:
        trainer.run(stop_requested=StopAfter(at))
    return str(raised.value)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[list[Tensor], list[dict[str, float]], Tensor]:
    """Final weights, history, and the next draw of the generator. Do not change them."""
    trainer = tiny_trainer(0, N_STEPS)
    record = trainer.run()
    return weights(trainer), record.history, trainer.sampler.normal(3)


@pytest.mark.parametrize("at", [0, 1, 49, 50, 51, 149, 169])
def test_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[list[Tensor], list[dict[str, float]], Tensor], at: int
) -> None:
    path = tmp_path / "run" / "checkpoint.safetensors"
    message = interrupted(path, at)
    assert f"step {at} of {N_STEPS}" in message
    assert "--resume" in message
    assert str(path) in message
    trainer = tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path))
    record = trainer.run()
    expected, history, draw = uninterrupted
    assert identical(weights(trainer), expected)
    assert record.history == history
    assert record.steps_run == N_STEPS
    assert torch.equal(trainer.sampler.normal(3), draw)


def test_several_interrupts_end_with_the_same_bits(
    tmp_path: Path, uninterrupted: tuple[list[Tensor], list[dict[str, float]], Tensor]
) -> None:
    path = tmp_path / "checkpoint"
    for at in (60, 55, 10):
        interrupted(path, at)
    # Other random weights at the start: everything must come from the checkpoint.
    trainer = tiny_trainer(7, N_STEPS, checkpointer=checkpointer(path))
    trainer.run()
    assert identical(weights(trainer), uninterrupted[0])


def test_resuming_a_finished_run_gives_its_weights(
    tmp_path: Path, uninterrupted: tuple[list[Tensor], list[dict[str, float]], Tensor]
) -> None:
    path = tmp_path / "checkpoint"
    keeper = Checkpointer(path, fingerprint="rows", resume=False, interval_s=0.0)
    tiny_trainer(0, N_STEPS, checkpointer=keeper).run()
    trainer = tiny_trainer(3, N_STEPS, checkpointer=checkpointer(path))
    record = trainer.run()
    assert identical(weights(trainer), uninterrupted[0])
    assert record.steps_run == N_STEPS


def test_a_killed_run_resumes_from_its_last_timely_checkpoint(
    tmp_path: Path, uninterrupted: tuple[list[Tensor], list[dict[str, float]], Tensor]
) -> None:
    path = tmp_path / "checkpoint"
    keeper = Checkpointer(path, fingerprint="rows", resume=False, interval_s=0.0)
    trainer = tiny_trainer(0, N_STEPS, checkpointer=keeper)

    asked = StopAfter(120)

    def killed() -> bool:
        if asked():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop_requested=killed)
    state = checkpointer(path).load(torch.device("cpu"))
    assert state is not None
    assert state.step == 100
    resumed = tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path))
    resumed.run()
    assert identical(weights(resumed), uninterrupted[0])


def test_a_new_run_ignores_and_replaces_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 60)
    assert checkpointer(path, resume=False).load(torch.device("cpu")) is None
    fresh = checkpointer(path, resume=False, fingerprint="other rows")
    with pytest.raises(TrainingInterrupted):
        tiny_trainer(0, N_STEPS, checkpointer=fresh).run(stop_requested=StopAfter(0))
    state = checkpointer(path, fingerprint="other rows").load(torch.device("cpu"))
    assert state is not None
    assert state.step == 0


def test_nothing_to_resume_starts_from_the_beginning(tmp_path: Path) -> None:
    assert checkpointer(tmp_path / "none").load(torch.device("cpu")) is None


def test_state_survives_the_file_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    trainer = tiny_trainer(0, 60)
    trainer.run()
    written = trainer._snapshot()
    checkpointer(path).save(written)
    state = checkpointer(path).load(torch.device("cpu"))
    assert state is not None
    assert (state.step, state.rate_factor, state.n_rollbacks) == (60, 1.0, 0)
    assert state.history == written.history
    assert identical(state.parameters, written.parameters)
    assert identical(state.averaged, written.averaged)
    assert torch.equal(state.rng_state, written.rng_state)
    assert state.optimizers.keys() == written.optimizers.keys()
    for player, moments in written.optimizers.items():
        for one, other in zip(state.optimizers[player], moments, strict=True):
            assert one.keys() == other.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert all(torch.equal(one[k], other[k]) for k in other)


def test_an_interrupt_within_a_step_keeps_the_last_snapshot(
    tmp_path: Path, uninterrupted: tuple[list[Tensor], list[dict[str, float]], Tensor]
) -> None:
    path = tmp_path / "checkpoint"
    trainer = tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path, resume=False))
    update = trainer._update

    def slow() -> None:
        update()
        if trainer._step == 123:
            raise KeyboardInterrupt

    trainer._update = slow  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = checkpointer(path).load(torch.device("cpu"))
    assert state is not None
    assert state.step == 100
    resumed = tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path))
    resumed.run()
    assert identical(weights(resumed), uninterrupted[0])


# --- Refusals -------------------------------------------------------------------------------


def test_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 10)
    other = checkpointer(path, fingerprint="other rows")
    with pytest.raises(UsageError, match=r"made with other rows or parameters.*without --resume"):
        tiny_trainer(0, N_STEPS, rows=ring(64, seed=9), checkpointer=other).run()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 10)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelCorruptError, match=r"not a usable checkpoint.*without --resume"):
        tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path)).run()


def rewrite(path: Path, facts: Any, drop: str = "") -> None:
    """Write the checkpoint again with changed facts (None: without), less some tensors."""
    with safe_open(path, framework="pt") as file:
        known = json.loads(file.metadata()["anomgan"])
        tensors = {k: file.get_tensor(k) for k in file.keys() if k != drop}  # noqa: SIM118
    facts = known | facts if isinstance(facts, dict) else facts
    save_file(tensors, path, metadata=None if facts is None else {"anomgan": json.dumps(facts)})


@pytest.mark.parametrize(
    ("facts", "drop"),
    [
        (None, ""),
        ([], ""),
        ("text", ""),
        ({"step": "many"}, ""),
        ({"players": {"discriminator": 1}}, ""),
        ({"players": None}, ""),
        ({"step": math.inf}, ""),
        ({"history": 3}, ""),
        ({}, "rng"),
        ({}, "parameter.0"),
        ({}, "averaged.3"),
    ],
)
def test_checkpoint_with_wrong_content_is_refused(tmp_path: Path, facts: Any, drop: str) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 10)
    rewrite(path, facts, drop)
    with pytest.raises(ModelCorruptError, match=r"not a usable checkpoint.*without --resume"):
        tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path)).run()


def test_a_checkpoint_of_deep_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_file({"rng": torch.zeros(1)}, path, metadata={"anomgan": "[" * 100_000})
    with pytest.raises(ModelCorruptError, match="not a usable checkpoint"):
        tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path)).run()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text("a,b\n1,2\n" * 100)
    with pytest.raises(ModelCorruptError, match="not a usable checkpoint"):
        checkpointer(path).load(torch.device("cpu"))


# --- Writing --------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    interrupted(path, 60)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    keeper = checkpointer(path)
    state = keeper.load(torch.device("cpu"))
    assert state is not None
    with pytest.raises(OutputError, match=r"checkpoint .* could not be written.*No space left"):
        keeper.save(state)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_an_interrupted_write_leaves_no_half_file_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    real = os.replace
    found: list[list[str]] = []

    def interrupted_once(*arguments: Any) -> None:
        found.append(sorted(p.name for p in tmp_path.iterdir()))
        if len(found) == 1:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(os, "replace", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        checkpointer(path).save(tiny_trainer(0, 60)._snapshot())
    assert found == [["checkpoint.writing"]]
    assert list(tmp_path.iterdir()) == []
    found.clear()
    with pytest.raises(KeyboardInterrupt):  # while the last checkpoint is written
        tiny_trainer(0, N_STEPS, checkpointer=checkpointer(path, resume=False)).run()
    state = checkpointer(path).load(torch.device("cpu"))
    assert state is not None
    assert state.step == N_STEPS


def test_saving_waits_for_the_interval(tmp_path: Path) -> None:
    keeper = Checkpointer(tmp_path / "c", fingerprint="f", resume=False, interval_s=3600.0)
    seen: list[bool] = []
    tiny_trainer(0, 160, checkpointer=keeper).run(
        progress=lambda step, total, _: seen.append(step < total and keeper.path.exists())
    )
    assert not any(seen)
    assert keeper.path.exists(), "what follows the training may be stopped, too"


def test_discard_removes_the_file_and_a_folder_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "work" / "checkpoint"
    interrupted(path, 10)
    path.with_name("checkpoint.writing").write_text("left by a run that was killed")
    keeper = checkpointer(path)
    keeper.discard()
    assert not path.parent.exists()
    keeper.discard()
    shared = tmp_path / "shared" / "checkpoint"
    interrupted(shared, 10)
    (tmp_path / "shared" / "other").write_text("kept")
    checkpointer(shared).discard()
    assert [p.name for p in shared.parent.iterdir()] == ["other"]
