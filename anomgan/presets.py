"""Named hyperparameter sets, and the rules that resolve what is left open.

What `DEFAULT` gives on the 23 ADBench development sets (protocol `clean`, seed 0) is what
``python tests/acceptance/adbench.py`` prints; no value depends on a set. ``anomgan benchmark
accuracy --set KEY=VALUE`` puts another value beside it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import numpy as np

from anomgan.errors import UsageError

__all__ = [
    "DEFAULT",
    "DETECTOR_NAMES",
    "INITIALISATIONS",
    "MEMBERS",
    "MOST_STEPS",
    "MOST_WIDTH",
    "OBJECTIVE_NAMES",
    "SMOOTHED_OBJECTIVES",
    "FlagshipParameters",
    "plain_values",
    "type_faults",
]

MEMBERS: Final[Mapping[str, int]] = {"split": 2, "cross": 5}
"""Members of the ensemble where none are asked for, by calibration; with "cross" they are the
folds, and five leave each member 80 % of the rows, as many as it has with "split"."""

INITIALISATIONS: Final = ("he", "xavier", "orthogonal", "normal")
"""Keys of `anomgan.nets.initialisation.INITIALISERS`, known here without torch."""

OBJECTIVE_NAMES: Final = (
    "minimax",
    "non-saturating",
    "wasserstein",
    "hinge",
    "least-squares",
    "energy-based",
    "relativistic",
)
"""Keys of `anomgan.training.objectives.OBJECTIVES`, known here without torch."""

SMOOTHED_OBJECTIVES: Final = ("minimax", "non-saturating", "least-squares")
"""Keys of `anomgan.training.objectives.SMOOTHED`, known here without torch."""

MOST_STEPS: Final = 10_000
"""Most steps of inversion that a score may take."""

MOST_WIDTH: Final = 2**21
"""Most known rows, and most units of a layer in all members, that a score may have: a pass makes
room for 256 times as many numbers."""

_UNSMOOTHED: Final = frozenset(OBJECTIVE_NAMES) - frozenset(SMOOTHED_OBJECTIVES)
_MOST_UNROLLED: Final = 10
"""`anomgan.training.unrolling.MAX_UNROLLED_STEPS`, known here without torch."""


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a word"),
    "bool": ((bool, np.bool_), "True or False"),
}


def type_faults(parameters: Any) -> list[str]:
    """Name the fields of a dataclass whose values are of another kind than annotated."""
    faults = []
    for f in fields(parameters):
        value, kinds = getattr(parameters, f.name), str(f.type).split(" | ")
        if (value is None and "None" in kinds) or kinds[0] not in _KINDS:
            continue
        kind, words = _KINDS[kinds[0]]
        # To Python a truth value is a number; to us it is none.
        truth = isinstance(value, bool | np.bool_)
        if truth != (kinds[0] == "bool") or not isinstance(value, kind):
            faults.append(f"{f.name} is {value!r}, it must be {words}")
        elif isinstance(value, float | np.floating) and not math.isfinite(value):
            faults.append(f"{f.name} is {value}, it must be finite")
    return faults


def plain_values(parameters: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, numbers as Python's own: numpy's are no JSON."""
    plain: dict[str, type] = {"int": int, "float": float, "bool": bool}
    values = {}
    for f in fields(parameters):
        value, kind = getattr(parameters, f.name), str(f.type).split(" | ")[0]
        values[f.name] = plain[kind](value) if kind in plain and value is not None else value
    return values


@dataclass(frozen=True)
class FlagshipParameters:
    """Hyperparameters of the flagship detector, resolved.

    Attributes
    ----------
    n_members : int or None
        Ensemble members, trained at once; with `calibration` "cross" also the folds. None: 2, and
        5 with "cross".
    n_steps : int
        Alternating updates.
    batch_rows : int
        Rows a member grades at each step; a quarter as many pairs play the adversarial game.
    learning_rate : float
        Start of the cosine decay.
    latent_dim : int or None
        None: the number of principal components that hold 90 % of the variance, 2 to 24.
    generator_width, discriminator_width : int
    objective : str
        Key of `anomgan.training.objectives.OBJECTIVES`.
    adversarial_weight : float
        Weight of the adversarial losses of both players; 0 leaves the game out.
    gradient_penalty : float
        gamma of R1 and R2.
    reconstruction_weight, cycle_weight : float
        Of the encoder's two losses.
    discriminator_steps : int
        Updates of the discriminator at each step.
    discriminator_rate : float
        Factor on `learning_rate` for the discriminator.
    unrolled_steps : int
        Steps of the critic that the generator looks ahead, 0 to 10.
    instance_noise : float
        Deviation of the noise on the critic's rows at the first step, in standardised units.
    label_smoothing : float
        What the target of real rows is short of 1, for `SMOOTHED_OBJECTIVES`.
    feature_matching : float
        Weight of the distance between mean features of real and of generated rows.
    initialisation : str
        One of `INITIALISATIONS`, of all networks.
    spectral_norm : bool
        Whether the critic's slope is kept at 1 or below.
    bfloat16 : bool
        Whether the discriminator may be trained with products of bfloat16, where the processor has
        units for them (`anomgan.nets.precision`).
    ema_share : float
        Half-life of the averaged weights, as a share of the rows a member sees.
    inversion_steps : int
        K.
    memory_size : int
        Most distinct rows kept for the soft distance; a random subset beyond.
    discriminator_bound : float
        c, nats; 0 leaves the discriminator out.
    inversion_share : float
        w, share of the latent inversion in the reconstruction; the rest is the soft distance
        to the memory.
    max_calibration_rows : int
        Most rows that calibrate. Below that a fifth of the rows do with "split", and all of them
        with "cross".
    calibration : str
        "split": one part of the rows is held out of all members and calibrates. "cross": every row
        calibrates by the one member that never saw it, for tables of a few hundred rows or fewer
        (`anomgan.training.folds`).
    """

    name: ClassVar[str] = "anomgan"

    n_members: int | None = None
    n_steps: int = 1000
    batch_rows: int = 256
    learning_rate: float = 1.5e-3
    latent_dim: int | None = None
    generator_width: int = 128
    discriminator_width: int = 256
    objective: str = "relativistic"
    adversarial_weight: float = 1.0
    gradient_penalty: float = 1.0
    reconstruction_weight: float = 10.0
    cycle_weight: float = 0.5
    discriminator_steps: int = 1
    discriminator_rate: float = 1.0
    unrolled_steps: int = 0
    instance_noise: float = 0.0
    label_smoothing: float = 0.0
    feature_matching: float = 0.0
    initialisation: str = "he"
    spectral_norm: bool = False
    bfloat16: bool = True
    ema_share: float = 0.05
    inversion_steps: int = 2
    memory_size: int = 6144
    discriminator_bound: float = 4.0
    inversion_share: float = 0.1
    max_calibration_rows: int = 2000
    calibration: str = "split"

    def __post_init__(self) -> None:
        faults = type_faults(self)
        if faults:
            raise UsageError("; ".join(faults), faults)
        from_one = (
            "n_members n_steps latent_dim generator_width discriminator_width discriminator_steps "
            "max_calibration_rows"
        )
        least = dict.fromkeys(from_one.split(), 1) | {
            "batch_rows": 4,
            "memory_size": 2,
            "inversion_steps": 0,
        }
        faults = [
            f"{name} is {getattr(self, name)}, it must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) is not None and getattr(self, name) < bound
        ]
        faults += [
            f"{name} is {getattr(self, name)}, it must be above 0"
            for name in ("learning_rate", "ema_share", "discriminator_rate")
            if not getattr(self, name) > 0
        ]
        faults += [
            f"{name} is {getattr(self, name)}, it must not be negative"
            for name in (
                "adversarial_weight",
                "gradient_penalty",
                "reconstruction_weight",
                "cycle_weight",
                "discriminator_bound",
                "instance_noise",
                "feature_matching",
            )
            if not getattr(self, name) >= 0
        ]
        faults += [*self._stabiliser_faults(), *self._too_large(), *self._other_faults()]
        if faults:
            raise UsageError("; ".join(faults), faults)

    def _stabiliser_faults(self) -> list[str]:
        faults = []
        if not 0 <= self.unrolled_steps <= _MOST_UNROLLED:
            faults.append(
                f"unrolled_steps is {self.unrolled_steps}, it must lie in 0 to {_MOST_UNROLLED}"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            faults.append(f"label_smoothing is {self.label_smoothing}, it must lie in [0, 1)")
        elif self.label_smoothing and self.objective in _UNSMOOTHED:
            faults.append(
                f"label_smoothing is {self.label_smoothing}, and objective {self.objective!r} has "
                f"no labels to smooth: leave it at 0, or choose an objective of "
                f"{', '.join(map(repr, SMOOTHED_OBJECTIVES))}"
            )
        if self.initialisation not in INITIALISATIONS:
            faults.append(
                f"initialisation is {self.initialisation!r}, it must be one of "
                f"{', '.join(map(repr, INITIALISATIONS))}"
            )
        return faults

    def _too_large(self) -> list[str]:
        own = MEMBERS.get(self.calibration) if self.n_members is None else self.n_members
        members = max(1, own or 1)
        most = {
            "inversion_steps": MOST_STEPS,
            "memory_size": MOST_WIDTH,
            "generator_width": MOST_WIDTH // members,
            "discriminator_width": MOST_WIDTH // members,
        }
        return [
            f"{name} is {getattr(self, name):,}, it must be at most {bound:,}"
            + (f" with {members} members" if name.endswith("width") else "")
            for name, bound in most.items()
            if getattr(self, name) > bound
        ]

    def _other_faults(self) -> list[str]:
        faults = []
        if not 0.0 <= self.inversion_share <= 1.0:
            faults.append(f"inversion_share is {self.inversion_share}, it must lie in [0, 1]")
        if self.calibration not in MEMBERS:
            faults.append(
                f"calibration is {self.calibration!r}, it must be one of "
                f"{', '.join(map(repr, MEMBERS))}"
            )
        if self.calibration == "cross" and self.n_members == 1:
            faults.append(
                'n_members is 1, with calibration "cross" it must be at least 2 (a fold for each '
                "member, learnt by the others) or left open"
            )
        return faults

    @property
    def members(self) -> int:
        """Members of the ensemble, as asked for or by default."""
        return MEMBERS[self.calibration] if self.n_members is None else self.n_members

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters by name, numbers as Python's own."""
        return plain_values(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the parameters' names."""
        return tuple(f.name for f in fields(cls))


DETECTOR_NAMES: tuple[str, ...] = (
    "anomgan",
    "alad",
    "anogan",
    "egbad",
    "f-anogan",
    "ganomaly",
    "so-gaal",
    "mo-gaal",
    "fence-gan",
    "imputation",
    "conditional",
)
"""Every detector by name, the flagship first (`anomgan.detectors.registry` has the others)."""

DEFAULT = FlagshipParameters()
