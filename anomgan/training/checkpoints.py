"""Checkpoints: everything that a resumed training needs, as safetensors and JSON.

A checkpoint holds the last snapshot of the trainer, never a pickled object. Snapshots are
taken at fixed steps, so a run that is killed and resumed passes through the same states as
one that was not, and ends with the same weights.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anomgan.errors import ModelCorruptError, OutputError, UsageError
from anomgan.locks import KEEPING
from anomgan.training.selection import SelectionState

__all__ = ["Checkpointer", "TrainingState", "moments_of", "set_moments"]

# Of a file that is damaged, or none of ours; json and torch raise RuntimeErrors.
_DAMAGE = (
    *(SafetensorError, LookupError, TypeError, ValueError, AttributeError, OSError),
    *(OverflowError, RuntimeError),
)


@dataclass(frozen=True)
class TrainingState:
    """A trainer between two steps; tensors are copies.

    `selection` is None where the averages are not judged on the way.
    """

    step: int
    rate_factor: float
    n_rollbacks: int
    history: list[dict[str, float]]
    parameters: list[Tensor]
    averaged: list[Tensor]
    optimizers: dict[str, list[dict[str, Tensor]]]
    rng_state: Tensor
    selection: SelectionState | None


class Checkpointer:
    """Writes a training state to one file, replacing the former one atomically.

    Parameters
    ----------
    path : Path
        The checkpoint file.
    fingerprint : str
        Digest of the training rows and parameters; another one is refused on load.
    resume : bool
        Load what is there; otherwise a checkpoint found is overwritten.
    interval_s : float
        Least seconds between two writes by `save_if_due`.
    """

    def __init__(
        self, path: Path, *, fingerprint: str, resume: bool, interval_s: float = 10.0
    ) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.resume = resume
        self.interval_s = interval_s
        self._last = time.monotonic()

    def save_if_due(self, state: TrainingState) -> None:
        """Save when the interval has passed since the last write."""
        if time.monotonic() - self._last >= self.interval_s:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Write the state: complete or not at all; a stop waits for it.

        Raises
        ------
        OutputError
            The file cannot be written; a former checkpoint is untouched.
        """
        try:
            with KEEPING:
                self._write(state)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"the checkpoint {self.path} could not be written ({error}); free some space "
                "and go on with --resume, or choose another place for the model"
            ) from error
        self._last = time.monotonic()

    def _write(self, state: TrainingState) -> None:
        tensors = {"rng": state.rng_state}
        tensors |= {f"parameter.{i}": t for i, t in enumerate(state.parameters)}
        tensors |= {f"averaged.{i}": t for i, t in enumerate(state.averaged)}
        for player, moments in state.optimizers.items():
            for i, moment in enumerate(moments):
                tensors |= {f"optimizer.{player}.{i}.{k}": t for k, t in moment.items()}
        facts = {
            "fingerprint": self.fingerprint,
            "step": state.step,
            "rate_factor": state.rate_factor,
            "n_rollbacks": state.n_rollbacks,
            "history": state.history,
            "players": {name: len(moments) for name, moments in state.optimizers.items()},
            "selection": None,
        }
        if (selection := state.selection) is not None:
            tensors |= {f"best.{i}": t for i, t in enumerate(selection.best)}
            facts["selection"] = {
                "steps": selection.steps,
                "qualities": selection.qualities,
                "restarts": selection.restarts,
            }
        temporary = self._temporary()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {k: t.detach().cpu().contiguous() for k, t in tensors.items()},
                temporary,
                metadata={"anomgan": json.dumps(facts)},
            )
            _sync(temporary)
            os.replace(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def load(self, device: torch.device) -> TrainingState | None:
        """Return the saved state, or None when there is none or it is not wanted.

        Raises
        ------
        UsageError
            The checkpoint belongs to other rows or parameters.
        ModelCorruptError
            The file is not a checkpoint.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt", device=str(device)) as file:
                facts = json.loads((file.metadata() or {})["anomgan"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            fingerprint, state = facts["fingerprint"], _state(facts, tensors)
        except _DAMAGE as e:
            raise self.unusable(e) from e
        if fingerprint != self.fingerprint:
            raise UsageError(
                f"the checkpoint {self.path} was made with other rows or parameters; resume with "
                "the same file and options, or train again without --resume"
            )
        return state

    def unusable(self, error: Exception) -> ModelCorruptError:
        """Return the error that tells to train from the start."""
        return ModelCorruptError(
            f"{self.path} is not a usable checkpoint ({error}); train again without --resume"
        )

    def discard(self) -> None:
        """Remove the checkpoint: the model is saved, nothing is left to resume."""
        self.path.unlink(missing_ok=True)
        self._temporary().unlink(missing_ok=True)  # a run was killed while it wrote
        if self.path.parent.exists() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + ".writing")


def _sync(path: Path) -> None:
    """Have the content on the disk before the name: a power cut leaves the former or the new."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _state(facts: dict[str, Any], tensors: dict[str, Tensor]) -> TrainingState:
    def series(prefix: str) -> list[Tensor]:
        n = sum(key.startswith(f"{prefix}.") for key in tensors)
        return [tensors[f"{prefix}.{i}"] for i in range(n)]

    optimizers = {}
    for player, n in facts["players"].items():
        prefixes = [f"optimizer.{player}.{i}." for i in range(n)]
        optimizers[player] = [
            {key[len(p) :]: t for key, t in tensors.items() if key.startswith(p)} for p in prefixes
        ]
    selection = facts["selection"]
    return TrainingState(
        step=int(facts["step"]),
        rate_factor=float(facts["rate_factor"]),
        n_rollbacks=int(facts["n_rollbacks"]),
        history=list(facts["history"]),
        parameters=series("parameter"),
        averaged=series("averaged"),
        optimizers=optimizers,
        rng_state=tensors["rng"],
        selection=None if selection is None else _selection(selection, series("best")),
    )


def _selection(facts: dict[str, Any], best: list[Tensor]) -> SelectionState:
    return SelectionState(
        steps=tuple(map(int, facts["steps"])),
        qualities=tuple(map(float, facts["qualities"])),
        restarts=tuple(map(int, facts["restarts"])),
        best=best,
    )


def moments_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """Copy Adam's state, parameter by parameter; empty before the first step."""
    parameters = optimizer.param_groups[0]["params"]
    return [{k: v.clone() for k, v in optimizer.state.get(p, {}).items()} for p in parameters]


def set_moments(optimizer: torch.optim.Optimizer, moments: list[dict[str, Tensor]]) -> None:
    """Give Adam a state that `moments_of` copied."""
    parameters = optimizer.param_groups[0]["params"]
    optimizer.state.clear()
    for parameter, state in zip(parameters, moments, strict=True):
        if state:
            optimizer.state[parameter] = {k: v.clone() for k, v in state.items()}
