"""A stop request is heeded wherever a fit stands, and says how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import anomgan.estimator
from anomgan.bundle import Bundle
from anomgan.errors import TrainingInterrupted
from anomgan.estimator import fit_table
from anomgan.locks import KEEPING
from anomgan.stopping import prompt_end, stop_on_signal
from anomgan.tables import SchemaOptions, read_table
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.checkpoints import Checkpointer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def former_handlers() -> Iterator[None]:
    """A shell that runs the tests in its background has them ignore SIGINT."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_does_not_look_is_interrupted(number: signal.Signals) -> None:
    def busy() -> None:
        with stop_on_signal(lambda: "go on so"):
            signal.raise_signal(number)
            for _ in range(500):
                time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(TrainingInterrupted, match="go on so"):
        busy()
    assert time.monotonic() - began < 2.0


def test_what_looks_in_time_ends_by_itself() -> None:
    with stop_on_signal(lambda: "never said") as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        time.sleep(1.2)  # the checkpoint may take its time
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_second_signal_is_taken_at_once_and_told_alike() -> None:
    def impatient() -> None:
        with stop_on_signal(lambda: "go on so") as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop()
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("nobody interrupted")

    with pytest.raises(TrainingInterrupted, match="go on so"):
        impatient()


@pytest.mark.parametrize("n_signals", [1, 2])
def test_an_interrupt_waits_until_files_are_in_place(n_signals: int) -> None:
    placed: list[bool] = []

    def writes() -> None:
        with stop_on_signal(lambda: "go on so"):
            with KEEPING:
                for _ in range(n_signals):
                    signal.raise_signal(signal.SIGINT)
                time.sleep(1.0)
                placed.append(True)
            time.sleep(1.0)
            raise AssertionError("nobody interrupted")

    with pytest.raises(TrainingInterrupted, match="go on so"):
        writes()
    assert placed == [True]


SLOW_DISK = """
import signal, time
from pathlib import Path
from tiny_flagship import tiny_trainer
from anomgan.stopping import how_to_go_on, prompt_end, stop_on_signal
from anomgan.training import checkpoints

real, path = checkpoints._sync, Path("m.checkpoint")

def slow(written):
    signal.raise_signal(signal.SIGTERM)
    time.sleep(2.0)  # as one call: reminders do not cut it short
    real(written)

checkpoints._sync = slow
message = lambda: how_to_go_on(path, own=True)
keeper = checkpoints.Checkpointer(path, fingerprint="rows", resume=False, interval_s=0.0)
trainer = tiny_trainer(0, 170, checkpointer=keeper)
with prompt_end(message, 130), stop_on_signal(message):
    trainer.run()
"""


def test_a_stop_during_a_slow_write_keeps_the_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_DISK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "go on with the same command and --resume" in done.stderr
    assert os.listdir(tmp_path) == ["m.checkpoint"]
    keeper = Checkpointer(
        tmp_path / "m.checkpoint", fingerprint="rows", resume=True, interval_s=0.0
    )
    state = keeper.load(torch.device("cpu"))
    assert state is not None
    assert state.step == 50


DEAF = """
import hashlib, sys, time
from pathlib import Path
from anomgan.locks import sole_writer
from anomgan.replacement import temporary_directory
from anomgan.stopping import prompt_end, stop_on_signal
m = Path("m")
with (
    prompt_end(lambda: "go on so", 130),
    sole_writer(m, shown="m"),
    temporary_directory(m),
    stop_on_signal(lambda: "never said"),
):
    print("deaf", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"one call", b"into a library", 2_000_000_000)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_in_one_long_call_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    assert len(os.listdir(tmp_path)) == 2
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 2.0
    assert (process.returncode, said) == (130, "Error: go on so\n")
    assert os.listdir(tmp_path) == []


def test_what_ends_in_time_is_not_ended_by_force() -> None:
    former = threading.active_count()
    with prompt_end(lambda: "never said", 99):
        pass
    with pytest.raises(TrainingInterrupted), prompt_end(lambda: "never said", 99):
        stopped()
    time.sleep(1.6)
    assert threading.active_count() == former


def stopped() -> None:
    """Be stopped as outside of the training."""
    with stop_on_signal(lambda: "so"):
        signal.raise_signal(signal.SIGINT)
        time.sleep(1.2)


def fit(table: Path, output: Path, **options: Any) -> Bundle:
    return fit_table(
        read_table(table),
        options=SchemaOptions(),
        parameters={"n_steps": 60, "random_state": 0, "device": "cpu"},
        source="normal.csv",
        output=output,
        **options,
    )


def slow(n_signals: int = 1) -> Any:
    """Stand in for encoding or exporting a very large table: seconds of work."""
    for _ in range(n_signals):
        signal.raise_signal(signal.SIGTERM)
    for _ in range(1000):
        time.sleep(0.01)
    raise AssertionError("nobody interrupted")


@pytest.mark.parametrize(("phase", "n_signals"), [("encoding", 1), ("export", 1), ("export", 2)])
def test_slow_phases_stop_within_two_seconds_and_can_be_resumed(
    machine_files: tuple[Path, Path],
    machine_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    n_signals: int,
) -> None:
    model = tmp_path / "m"
    began: list[float] = []

    def starts(*arguments: Any, **options: Any) -> Any:
        began.append(time.monotonic())
        return slow(n_signals)

    with monkeypatch.context() as patch:
        if phase == "encoding":
            patch.setattr(FeatureEncoder, "fit", starts)
        else:
            patch.setattr(anomgan.estimator, "save_fitted", starts)
        with pytest.raises(TrainingInterrupted) as raised:
            fit(machine_files[0], model)
    assert time.monotonic() - began[0] < 2.0
    if phase == "encoding":
        assert "nothing was kept, give the same command again" in str(raised.value)
        assert os.listdir(tmp_path) == []
        return
    assert "go on with the same command and --resume (checkpoint: " in str(raised.value)
    assert os.listdir(tmp_path) == ["m.checkpoint"]
    steps: list[int] = []
    fit(machine_files[0], model, resume=True, progress=lambda step, *_: steps.append(step))
    assert steps == [], "the training had ended and is not done again"
    expected = Bundle.open(machine_model).read("weights.safetensors")
    assert Bundle.open(model).read("weights.safetensors") == expected
    assert os.listdir(tmp_path) == ["m"]


def test_a_stop_after_the_model_is_in_place_changes_nothing(
    machine_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = anomgan.estimator.save_fitted

    def then_stopped(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        return slow()

    monkeypatch.setattr(anomgan.estimator, "save_fitted", then_stopped)
    fit(machine_files[0], tmp_path / "m").verify()
    assert os.listdir(tmp_path) == ["m"]
