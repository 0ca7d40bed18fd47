"""Real ``anomgan`` processes, killed with SIGKILL at chosen moments and resumed.

The processes are the command line itself, but they keep checkpoints and journals far more often
than every 5 or 10 seconds, so that small tables have something to resume.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from safetensors import SafetensorError, safe_open

from anomgan.bundle import Bundle
from anomgan.errors import ModelNotFoundError

_COMMAND = """
from anomgan.serving.partial import PartialFile
PartialFile.interval_s = 0.0
if "fit" in __import__("sys").argv:
    from anomgan.training.checkpoints import Checkpointer
    Checkpointer.__init__.__kwdefaults__["interval_s"] = 0.2
from anomgan_cli.app import app
app()
"""
ANOMGAN = [sys.executable, "-c", _COMMAND]
PLAIN = [sys.executable, "-m", "anomgan_cli"]
"""The command as it is: nothing is loaded before it, and checkpoints come every 10 seconds."""
MOMENTS = ("any time", "training", "checkpoint", "saving")


@dataclass(frozen=True)
class Kill:
    """One kill, and what was there after it."""

    moment: str
    after_s: float
    reached: str
    model: str
    left: tuple[str, ...]


def model_id(model: Path) -> str:
    """Digest of weights, calibration and graph; "none" without a model. A bad one raises."""
    try:
        bundle = Bundle.open(model)
    except ModelNotFoundError:
        return "none"
    digest = hashlib.sha256()
    for name in ("weights.safetensors", "scoring.json", "profile.json"):
        digest.update(bundle.read(name))
    for values in bundle.arrays("calibration.npz").values():
        digest.update(values.tobytes())
    graph = onnx.load_model_from_string(bundle.read("scorer.onnx"))
    for entry in graph.metadata_props:
        if entry.key == "anomgan.created_at":
            entry.value = ""
    digest.update(graph.SerializeToString(deterministic=True))
    return digest.hexdigest()


def start(*arguments: str, cwd: Path, command: Sequence[str] = ANOMGAN) -> subprocess.Popen[str]:
    """Start a command; what it says is read at its end."""
    return subprocess.Popen(
        [*command, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments: str, cwd: Path, timeout: float = 300) -> float:
    """Run a command to its good end; return its seconds."""
    began = time.monotonic()
    process = start(*arguments, cwd=cwd)
    _, said = process.communicate(timeout=timeout)
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}: {said}")
    return time.monotonic() - began


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool], delay_s: float) -> bool:
    """Kill a process a little after it is ready; False where it ended before."""
    while not ready():
        if process.poll() is not None:
            process.communicate()
            return False
        time.sleep(0.0005)
    time.sleep(delay_s)
    if process.poll() is None:
        process.kill()
    process.communicate()
    return process.returncode == -9


class KilledFit:
    """One ``anomgan fit --force`` over a former model, killed and resumed again and again.

    Parameters
    ----------
    folder : Path
        Holds `table`, and the model as ``m``, whose content is the former one.
    table : str
    options : sequence of str
        Of the fit; the same each time.
    seconds : float
        What an uninterrupted fit takes.

    Attributes
    ----------
    words : list of str
        The command.
    """

    def __init__(self, folder: Path, table: str, options: list[str], seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.words = ["fit", table, "-m", "m", "--force", "-q", *options]
        self._checkpoint = folder / "m.checkpoint"

    def kill(self, moment: str, rng: random.Random) -> Kill | None:
        """Start or resume, and kill; None where the fit came to its end."""
        began = time.monotonic()
        stamp = self._stamp()
        at = rng.uniform(0.0, self.seconds)
        ready, delay = {
            "any time": (lambda: time.monotonic() - began >= at, 0.0),
            "training": (lambda: self._stamp() != stamp, rng.uniform(0.0, 0.6)),
            "checkpoint": (
                lambda: Path(f"{self._checkpoint}.writing").exists(),
                rng.uniform(0.0, 0.01),
            ),
            "saving": (
                lambda: any(name.endswith(".tmp") for name in os.listdir(self.folder)),
                rng.uniform(0.0, 0.15),
            ),
        }[moment]
        process = start(*self.words, "--resume", cwd=self.folder)
        if not kill_when(process, ready, delay):
            if process.returncode:
                raise RuntimeError(f"fit ended with {process.returncode}")
            return None
        left = tuple(sorted(n for n in os.listdir(self.folder) if n.startswith((".", "m."))))
        return Kill(
            *(moment, time.monotonic() - began, self._reached()),
            *(model_id(self.folder / "m"), left),
        )

    def finish(self) -> str:
        """Resume to the end; return the digest of the model."""
        run(*self.words, "--resume", cwd=self.folder)
        return model_id(self.folder / "m")

    def _stamp(self) -> int:
        try:
            return self._checkpoint.stat().st_mtime_ns
        except OSError:
            return 0

    def _reached(self) -> str:
        try:
            with safe_open(self._checkpoint, framework="np") as file:
                facts = (file.metadata() or {})["anomgan"]
        except FileNotFoundError:
            return "no checkpoint"
        except SafetensorError as error:
            return f"DAMAGED ({error})"
        return "step " + facts.split('"step": ')[1].split(",")[0]
