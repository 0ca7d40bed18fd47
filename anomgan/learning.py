"""What a fit needs, whatever it fits: how it is run, rows and their spacing, what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.evaluation.generator_quality import frechet_distance, recall, sliced_wasserstein
from anomgan.scoring.memory import leave_one_out_nearest, spread
from anomgan.scoring.program import RowScore
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.health import (
    FAR_AWAY,
    Health,
    coverage,
    precision,
    quality,
    two_sample_accuracy,
)
from anomgan.training.loop import Progress, TrainingRecord
from anomgan.training.selection import Judge, clear_margin

__all__ = [
    "FEWEST_JUDGED",
    "HEALTH_ROWS",
    "MONITOR_ROWS",
    "Apart",
    "FitControl",
    "HeldOut",
    "Learnt",
    "choose_device",
    "distinct_rows",
    "evenly",
    "far_auroc",
    "gaussian_distance",
    "generator_facts",
    "generator_judge",
    "nearest_distances",
    "torch_seed",
]

FEWEST_JUDGED = 10
"""Rows that a generator never saw, fewer of which cannot judge it."""
HEALTH_ROWS = 1024
"""Most rows that judge a training at its end."""
MONITOR_ROWS = 128
"""Most rows that judge it on the way."""
_SPACING_SAMPLE = 2048
_MOST_DRAWS = 64
_MOST_FEATURES = 512
_FAR_OUT = 10.0
"""Interquartile ranges from the median beyond which a value says nothing about covariance."""


@dataclass(frozen=True)
class FitControl:
    """How a fit is run, apart from what is learnt.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or a torch device.
    max_time_s : float or None
        Seconds within which everything, export included, should be done.
    started : float or None
        `time.monotonic()` when the fit began; None: now.
    progress : callable or None
        See `anomgan.training.loop.Progress`.
    stop_requested : callable or None
        Turns true when training should stop and keep a checkpoint.
    checkpoint : callable or None
        Makes the checkpointer from a fingerprint of rows and parameters.
    """

    device: str = "auto"
    max_time_s: float | None = None
    started: float | None = None
    progress: Progress | None = None
    stop_requested: Callable[[], bool] | None = None
    checkpoint: Callable[[str], Checkpointer] | None = None

    def __post_init__(self) -> None:
        if self.max_time_s is not None and not self.max_time_s > 0.0:
            raise UsageError(f"max_time is {self.max_time_s}: give seconds above 0, or None")

    def deadline(self, started: float, *, after_s: float = 0.0) -> float | None:
        """Return the `time.monotonic()` by which training has to end, where there is a limit.

        What follows it (calibration, export, parity) takes a few seconds, and `after_s` more.
        """
        if self.max_time_s is None:
            return None
        return started + self.max_time_s - min(6.0, 0.4 * self.max_time_s) - after_s


def choose_device(name: str) -> torch.device:
    """Resolve "auto" to the GPU where there is one.

    Raises
    ------
    UsageError
        The named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); use 'auto' or 'cpu'"
        ) from error
    return device


@dataclass(frozen=True)
class Apart:
    """Rows that calibrate, as those members meet them that never saw them.

    Attributes
    ----------
    features : Tensor [v, d]
    surprise : Tensor [v, n_columns]
    """

    features: Tensor
    surprise: Tensor


@dataclass(frozen=True)
class HeldOut:
    """The rows that calibrated a score, as it met them.

    Attributes
    ----------
    features : Tensor float32 [v, d]
    surprise : Tensor float32 [v, n_columns]
    own : Tensor int64 [v]
        Where each stands among the rows that the score keeps, -1 where it does not.
    groups : object [v] of str or None
        What each is calibrated by.
    """

    features: Tensor
    surprise: Tensor
    own: Tensor
    groups: NDArray[np.object_] | None = None


@dataclass(frozen=True)
class Learnt:
    """What a fit of any detector gives.

    Attributes
    ----------
    score : RowScore
        Frozen, on the CPU.
    scores : Tensor [v]
        Of the rows that calibrate, scored like new ones.
    health : Health
    record : TrainingRecord
    networks : dict of str to Tensor
        State of the trained networks, on the CPU.
    parameters : FlagshipParameters or Detector
        Resolved: nothing is left open.
    facts : dict
        JSON-ready facts of this kind of detector.
    position : Tensor int64 [v]
        Where each calibrating row stands among the rows that the score keeps, -1 where it does not.
    """

    score: RowScore
    scores: Tensor
    health: Health
    record: TrainingRecord
    networks: dict[str, Tensor]
    parameters: Any
    facts: dict[str, Any]
    position: Tensor


def torch_seed(seed: int, *purpose: int) -> int:
    """Return the seed of torch's generators that a fit's seed stands for.

    Numbers say for which other purpose than the first one; they must not all be 0.
    """
    return int(np.random.default_rng([seed, 1, *purpose]).integers(2**62))


def distinct_rows(
    features: Tensor, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows [a, d], at most `size`, how often each occurs [a], and the place of all rows.

    The place, int64 [n], is -1 for rows that were not kept.
    """
    distinct, inverse, counts = np.unique(
        features.cpu().numpy(), axis=0, return_inverse=True, return_counts=True
    )
    kept = np.arange(len(distinct))
    if len(distinct) > size:
        kept = np.sort(rng.choice(len(distinct), size, replace=False))
    place = np.full(len(distinct), -1)
    place[kept] = np.arange(len(kept))
    return (
        torch.from_numpy(distinct[kept]).to(features.device),
        torch.from_numpy(counts[kept].astype(np.float32)).to(features.device),
        torch.from_numpy(place[inverse.ravel()]),
    )


def gaussian_distance(rows: Tensor, rng: np.random.Generator) -> float:
    """Median nearest-neighbour distance in Gaussian samples of the rows' size and covariance.

    Small samples are drawn several times, so that the median is no accident of one.
    """
    root = _covariance_root(rows)
    medians = []
    for _ in range(min(_MOST_DRAWS, -(-_SPACING_SAMPLE // len(rows)))):
        normal = torch.from_numpy(rng.standard_normal(tuple(rows.shape))).to(rows.device)
        medians.append(float(nearest_distances((normal @ root).float(), rng).median()))
    return float(np.mean(medians))


def _covariance_root(rows: Tensor) -> Tensor:
    """Symmetric root of the covariance of rows [a, d], float64 [d, d].

    Values further out than `_FAR_OUT` interquartile ranges are pulled in: one broken row would
    else make all others look clustered. Columns without such a range are left alone.
    """
    values = rows.double()
    low, middle, high = (values.quantile(level, dim=0) for level in (0.25, 0.5, 0.75))
    reach = torch.where(high > low, _FAR_OUT * (high - low), torch.inf)
    values = torch.maximum(torch.minimum(values, middle + reach), middle - reach)
    centred = values - values.mean(dim=0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(values) - 1))
    root: Tensor = (axes * variances.clamp(min=0.0).sqrt()) @ axes.T
    return root


def nearest_distances(memory: Tensor, rng: np.random.Generator) -> Tensor:
    """Leave-one-out distances of (a sample of) memory rows to the nearest other one."""
    n = len(memory)
    if n < 2:
        return torch.ones(1)
    sample = torch.from_numpy(np.sort(rng.permutation(n)[:_SPACING_SAMPLE])).to(memory.device)
    parts = []
    for start in range(0, len(sample), 256):
        index = sample[start : start + 256]
        other = leave_one_out_nearest(memory, index)
        parts.append((memory[index] - memory[other]).double().norm(dim=1))
    return torch.cat(parts)


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return `most` of some rows [n, ...], or all, evenly spread over their order.

    Calibrating rows stand in the order of the table, which is often that of time or of machines:
    the first of them are of one kind.
    """
    return rows[spread(len(rows), most).to(rows.device)]


@torch.no_grad()
def generator_facts(unseen: Sequence[Tensor], generated: Tensor) -> dict[str, float]:
    """Measure generators against normal rows that they never saw; the weakest decides.

    Parameters
    ----------
    unseen : sequence of Tensor [n_k, d]
        Of each generator. With fewer than `FEWEST_JUDGED` rows it is not judged.
    generated : Tensor [m, n, d]
        Rows of each; as many as it has unseen ones are looked at.

    Returns
    -------
    dict of str to float
        coverage, precision, recall, two_sample_accuracy, sliced_wasserstein and, in tables of up to
        512 features, frechet_distance (`anomgan.evaluation.generator_quality`); empty where none
        can be judged.
    """
    pairs = [
        (real, rows[: len(real)])
        for real, rows in zip(unseen, generated, strict=True)
        if len(real) >= FEWEST_JUDGED
    ]
    if not pairs:
        return {}
    facts = {
        "coverage": min(coverage(*pair) for pair in pairs),
        "precision": min(precision(*pair) for pair in pairs),
        "recall": min(recall(*pair) for pair in pairs),
        "two_sample_accuracy": max(two_sample_accuracy(*pair) for pair in pairs),
    }
    if all(bool(torch.isfinite(rows).all()) for _, rows in pairs):
        facts["sliced_wasserstein"] = max(sliced_wasserstein(*pair) for pair in pairs)
        if generated.shape[2] <= _MOST_FEATURES:
            facts["frechet_distance"] = max(frechet_distance(*pair) for pair in pairs)
    return facts


def generator_judge(unseen: Sequence[Tensor], generate: Callable[[], Tensor]) -> Judge | None:
    """Judge generators on the way, by normal rows that they never saw.

    Parameters
    ----------
    unseen : sequence of Tensor [n_k, d]
        Of each member; `MONITOR_ROWS` of them are looked at. With fewer than `FEWEST_JUDGED` it is
        not judged.
    generate : callable
        Gives rows [m, n, d] by the networks as they stand, as many as there are unseen ones, and
        always from the same codes.

    Returns
    -------
    Judge or None
        None where no member can be judged.
    """
    real = [evenly(rows, MONITOR_ROWS) for rows in unseen]
    if max(map(len, real)) < FEWEST_JUDGED:
        return None

    @torch.no_grad()
    def measure() -> list[float]:
        return [
            quality(rows, own[: len(rows)]) if len(rows) >= FEWEST_JUDGED else math.nan
            for rows, own in zip(real, generate(), strict=True)
        ]

    return Judge(measure, [clear_margin(len(rows)) for rows in real])


@torch.no_grad()
def far_auroc(score: RowScore, rows: Tensor, scores: Tensor) -> float:
    """Return how often normal rows [v, d] outscore those in place once thrown far away.

    Parameters
    ----------
    score : RowScore
    rows : Tensor [v, d]
        `HEALTH_ROWS` of them are thrown.
    scores : Tensor [v]
        Of the rows in place.
    """
    real, scores = evenly(rows, HEALTH_ROWS), evenly(scores, HEALTH_ROWS)
    coins = torch.randint(2, real.shape, generator=torch.Generator().manual_seed(0))
    no_surprise = torch.zeros(len(real), score.n_columns)
    thrown = score.scores(real + FAR_AWAY * (2.0 * coins - 1.0), no_surprise)
    above = thrown.unsqueeze(1) > scores.unsqueeze(0)
    return float(above.float().mean())
