"""A small student of a fitted score: one network, at the speed of a few matrix products.

The score of a fitted detector compares a row with thousands of known ones, or searches its code.
Where that costs too much, a student gives nearly the same: one perceptron, told the row and its
distance to the nearest of a few centres of the known rows, that has learnt the logarithms of what
the columns add to the score (knowledge distillation: Hinton, Vinyals & Dean, 2015), on known rows,
on rows around them and between them, and on generated ones, as many as are wanted and all of them
labelled by the score itself.

A student is calibrated like the score, on the same held-out rows. Neither its training nor the
score that teaches it knows these: they are taken out of the memory before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.errors import ModelError, UsageError
from anomgan.evaluation.metrics import rank_correlation
from anomgan.learning import HeldOut, torch_seed
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.nets.batched import BatchedMLP
from anomgan.nets.threads import one_thread
from anomgan.scoring.agreement import RowScores, agreement
from anomgan.scoring.frozen import FLOOR, FrozenScore
from anomgan.scoring.program import ProgramScore, ProgramSettings, RowScore, TorchArithmetic
from anomgan.scoring.student import Student, log_distance, read_out, unscaled
from anomgan.training.loop import Phase, Progress, Sampler, Trainer, TrainingPlan

__all__ = ["N_STEPS", "Distilled", "distil"]

N_STEPS = 3000
"""Steps that a student learns."""

_LOWEST = 1e-3
"""Scores are logarithms to a student; below this they are all alike."""
_LESSONS = 60_000
_SHARED = 15_000
"""Lessons of which the student also learns the shares: these cost the teacher more."""
_CENTRES = (256, 1024, 4096)
"""Most centres that a row is compared with: more of them where a student with fewer does not agree
with its teacher. Networks are bad at distances, and rows in many clusters need many centres."""
_AGREEMENT = 0.95
"""Rank correlation with the teacher that is enough, on known rows that no student is shown."""
_JUDGES = (20, 500)
"""Fewest and most of these rows."""
_PASS = 4096
_START = 0.4
"""Factor on the initial weights."""
_SHARE_WEIGHT = 0.2
"""Weight of the shares' cross-entropy beside the squared error of the standardised log score."""
_CHECKED = 2000
_NARROWEST, _WIDEST = 0.02, 4.0
"""Range of the noise around known rows, in standardised units."""
_MARGIN = 4.0
"""How far beyond the known rows the network judges, in standardised units; further out, distance
decides."""
_FAR = (2.0, 8.0)
"""Distances beyond that margin, a feature, at which the score's growth is measured."""


@dataclass(frozen=True)
class Distilled:
    """A student, and how near it comes to its teacher.

    Attributes
    ----------
    score : ProgramScore
    scores : float32 [v]
        Of the held-out rows.
    facts : mapping of str to float
        `rank_correlation` (Spearman) of both on held-out rows; `auroc_full` and `auroc_fast` of
        both on held-out rows against mixed ones, whose cells come from two of them each;
        `centres`, how many the student has.
    """

    score: ProgramScore
    scores: NDArray[np.float32]
    facts: Mapping[str, float]


def distil(
    score: RowScore,
    held_out: HeldOut,
    *,
    seed: int = 0,
    width: int = 144,
    n_steps: int = N_STEPS,
    batch_rows: int = 512,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student of a score.

    Parameters
    ----------
    score : RowScore
        The teacher, on the CPU.
    held_out : HeldOut
        The rows that calibrated it; they teach nothing.
    seed : int
        Source of every random draw.
    width : int
        Units of each of the two hidden layers.
    n_steps, batch_rows : int
        Of the training.
    progress : callable, optional
        See `anomgan.training.loop.Progress`.

    Raises
    ------
    UsageError
        `width`, `n_steps` or `batch_rows` is below 1, or no known row is left to learn from.
    ModelError
        The student's scores are not finite.
    """
    for name, value in (("width", width), ("n_steps", n_steps), ("batch_rows", batch_rows)):
        if value < 1:
            raise UsageError(f"{name} is {value}, it must be at least 1")
    rng = np.random.default_rng([seed, 3])
    teacher = _without(score, held_out)
    with one_thread():
        school = _school(teacher, rng)
        plan = _Plan(seed, width, n_steps, batch_rows, progress)
        student = _chosen(school, plan)
        scores = student.scores(held_out.features, held_out.surprise)
        if not bool(torch.isfinite(scores).all()):
            raise ModelError("the student's scores are not finite: distil with another seed")
        facts = _compared(score, student, held_out, rng)
    return Distilled(student, scores.numpy(), facts)


@dataclass(frozen=True)
class _Plan:
    """How a student is trained; see `distil`."""

    seed: int
    width: int
    n_steps: int
    batch_rows: int
    progress: Progress | None


@dataclass(frozen=True)
class _School:
    """What every student of a teacher learns from, and is judged by.

    Attributes
    ----------
    teacher : RowScore
    known : float32 [a, d]
        Known rows that centres are made of.
    counts : float64 [a]
    rows : Tensor float32 [n, d]
        Lessons.
    targets : Tensor [n]
        Their log scores.
    shares : Tensor [k, d]
        How the scores of the first k lessons are shared.
    growth : float
        See `Student`.
    judges : Tensor [j, d]
        Known rows that no student is shown.
    judged : float32 [j]
        Their scores as the teacher gives them to new rows.
    """

    teacher: RowScore
    known: NDArray[np.float32]
    counts: NDArray[np.float64]
    rows: Tensor
    targets: Tensor
    shares: Tensor
    growth: float
    judges: Tensor
    judged: NDArray[np.float32]


def _school(teacher: RowScore, rng: np.random.Generator) -> _School:
    known, counts = _known(teacher)
    fewest, most = _JUDGES
    n = min(len(known) // 2, max(fewest, min(most, len(known) // 8)))
    order = rng.permutation(len(known))
    judging, rest = np.sort(order[:n]), np.sort(order[n:])
    judges, own = torch.from_numpy(known[judging]), torch.from_numpy(judging)
    none = torch.zeros(n, teacher.n_columns)
    if isinstance(teacher, FrozenScore):  # left out of the memory, as new rows would be
        # All copies of a row are left out together: what is new is no copy.
        counted_once = replace(teacher, memory_counts=torch.ones_like(teacher.memory_counts))
        judged = counted_once.scores(judges, none, own)
    else:
        judged = teacher.scores(judges, none)
    rows = _lessons(teacher, known[rest], counts[rest], rng)
    low, high = rows.min(dim=0).values, rows.max(dim=0).values
    return _School(
        teacher=teacher,
        known=known[rest],
        counts=counts[rest],
        rows=rows,
        targets=_log_scores(teacher, rows),
        shares=_shares(teacher, rows[:_SHARED]),
        growth=_growth(teacher, low, high, rng),
        judges=judges,
        judged=judged.numpy(),
    )


def _chosen(school: _School, plan: _Plan) -> ProgramScore:
    """Train students with more and more centres, until one agrees with its teacher."""
    found: list[tuple[float, ProgramScore]] = []
    none = torch.zeros(len(school.judges), school.teacher.n_columns)
    for most in _CENTRES:
        student = _student(school, plan, most)
        told = student.scores(school.judges, none).numpy()
        found.append((rank_correlation(school.judged, told), student))
        if found[-1][0] >= _AGREEMENT or most >= len(school.known):
            break
    return max(found, key=lambda pair: pair[0])[1]


def _student(school: _School, plan: _Plan, most: int) -> ProgramScore:
    """Train one student, with `most` centres at most."""
    centres = _centres(school.known, school.counts, most, plan.seed)
    told = torch.cat([school.rows, _log_distances(centres, school.rows)], dim=1)
    network = _taught(_Lessons(told, school.targets, school.shares), plan)
    box = torch.stack([school.rows.min(dim=0).values, school.rows.max(dim=0).values])
    kept, teacher = school.teacher.tensors(), school.teacher
    return ProgramScore(
        formula=Student(school.growth),
        networks={
            "student": network,
            "centres": centres,
            "box": FrozenNetwork.numbers(box.numpy()),
        },
        memory_rows=kept["memory_rows"],
        memory_counts=kept["memory_counts"],
        feature_column=teacher.feature_column,
        n_columns=teacher.n_columns,
        settings=ProgramSettings(unit=1.0, kernel_width=1.0),
    )


def _without(score: RowScore, held_out: HeldOut) -> RowScore:
    """Take the held-out rows out of what a score keeps."""
    if not isinstance(score, FrozenScore | ProgramScore):
        raise TypeError(f"a {type(score).__name__} cannot teach")
    counts = score.memory_counts.clone()
    own = held_out.own[held_out.own >= 0]
    counts.index_add_(0, own, -torch.ones(len(own)))
    left = counts > 0.0
    if not bool(left.any()):
        raise UsageError(
            "every known row calibrates the model, and none is left for a student to learn from: "
            "fit the model with calibration 'split'"
        )
    return replace(score, memory_rows=score.memory_rows[left], memory_counts=counts[left])


def _lessons(
    teacher: RowScore,
    known: NDArray[np.float32],
    counts: NDArray[np.float64],
    rng: np.random.Generator,
) -> Tensor:
    """Make rows to learn from, [n, d], of known rows [a, d].

    Known rows; known rows with noise in some of their features; mixtures, whose features come
    from two rows; points on the line through two rows, beyond one of them; and generated rows,
    where the teacher has generators.
    """
    d = known.shape[1]
    shares = counts / counts.sum()

    def some(n: int) -> NDArray[np.float32]:
        return known[rng.choice(len(known), n, p=shares)]

    n = _LESSONS // 20
    plain = some(3 * n)
    wide = np.exp(rng.uniform(math.log(_NARROWEST), math.log(_WIDEST), size=(9 * n, 1)))
    hit = rng.random((9 * n, d)) < rng.random((9 * n, 1))
    noisy = some(9 * n) + wide * hit * rng.standard_normal((9 * n, d))
    mixed = np.where(rng.random((4 * n, d)) < 0.3, some(4 * n), some(4 * n))
    ends = some(2 * n)
    beyond = ends + 2.0 * rng.random((2 * n, 1)) * (ends - some(2 * n))
    parts: list[NDArray[Any]] = [plain, noisy, mixed, beyond]
    if isinstance(teacher, FrozenScore):
        parts.append(_generated(teacher, 2 * n, rng))
    rows = torch.from_numpy(rng.permutation(np.concatenate(parts).astype(np.float32)))
    low, high = torch.from_numpy(known.min(axis=0)), torch.from_numpy(known.max(axis=0))
    return torch.minimum(torch.maximum(rows, low - _MARGIN), high + _MARGIN)


def _known(teacher: RowScore) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    tensors = teacher.tensors()
    return tensors["memory_rows"].numpy(), tensors["memory_counts"].numpy().astype(np.float64)


def _generated(teacher: FrozenScore, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows [about n, d] of all generators."""
    members = teacher.n_members
    latent = teacher.generator.matrices[0].shape[1]
    codes = rng.standard_normal((members, -(-n // members), latent)).astype(np.float32)
    made: Tensor = teacher.generator(torch.from_numpy(codes))
    return made.flatten(0, 1).numpy()


def _log_scores(teacher: RowScore, rows: Tensor) -> Tensor:
    """Return what a student learns of rows [n, d], [n]."""
    scores = teacher.scores(rows, torch.zeros(len(rows), teacher.n_columns)) - FLOOR
    return scores.clamp(min=_LOWEST).log()


def _shares(teacher: RowScore, rows: Tensor) -> Tensor:
    """Return how the teacher shares its score of rows among features, [n, d]; rows sum to 1.

    What is held against a row as a whole is left out. Features of one column have equal shares.
    """
    column = teacher.feature_column
    by_column = teacher(rows, torch.zeros(len(rows), teacher.n_columns)).contributions[:, :-1]
    features = torch.bincount(column, minlength=teacher.n_columns)
    by_feature = (by_column / features.clamp(min=1))[:, column].clamp(min=0.0) + _LOWEST
    return by_feature / by_feature.sum(dim=1, keepdim=True)


def _centres(
    known: NDArray[np.float32], counts: NDArray[np.float64], most: int, seed: int
) -> FrozenNetwork:
    """Choose centres of the known rows, as the layer that maps a row x to 2 x c - |c|^2.

    That is largest for the nearest centre (k-means: Sculley, 2010); few known rows are centres
    themselves.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(known) > most:
        # Many centres are as good drawn from the rows: to move them takes long, and gains little.
        means = MiniBatchKMeans(most, random_state=seed, n_init=1, init="random", max_iter=20)
        known = means.fit(known, sample_weight=counts).cluster_centers_
    norms = np.square(known.astype(np.float64)).sum(axis=1)
    columns = np.ascontiguousarray(2.0 * known.T, dtype=np.float32)
    return FrozenNetwork((columns,), (-norms.astype(np.float32),))


def _log_distances(centres: FrozenNetwork, rows: Tensor) -> Tensor:
    """Give `log_distance` of many rows in passes, [n, 1]."""
    arithmetic = TorchArithmetic()
    starts = range(0, len(rows), _PASS)
    ones = np.ones((rows.shape[1], 1), dtype=np.float32)
    parts = [log_distance(arithmetic, centres, rows[i : i + _PASS], ones) for i in starts]
    return torch.cat(parts)


@dataclass(frozen=True)
class _Lessons:
    """What the network learns from.

    Attributes
    ----------
    told : Tensor [n, d + 1]
        Rows, and their `log_distance`.
    targets : Tensor [n]
        Log scores.
    shares : Tensor [k, d]
        How the scores of the first k rows are shared.
    """

    told: Tensor
    targets: Tensor
    shares: Tensor


def _taught(lessons: _Lessons, plan: _Plan) -> FrozenNetwork:
    """Train a network on the lessons."""
    n, w = lessons.told.shape
    d = w - 1
    mean, spread = float(lessons.targets.mean()), max(1e-6, float(lessons.targets.std()))
    made = torch.Generator().manual_seed(torch_seed(plan.seed, 3))
    network = BatchedMLP(1, (w, *[plan.width] * 2, d), generator=made)
    with torch.no_grad():  # small weights begin smooth, and stay smoother between the lessons
        for parameter in network.parameters():
            parameter.mul_(_START)
    draws = torch.Generator().manual_seed(torch_seed(plan.seed, 4))
    shares = torch.zeros(n, d)  # none: a row of zeros
    shares[: len(lessons.shares)] = lessons.shares
    targets = ((lessons.targets - mean) / spread).unsqueeze(1)
    centre, scale = lessons.told[:, d].mean(), lessons.told[:, d].std().clamp(min=1e-6)
    distance = (lessons.told[:, d:] - centre) / scale
    equal = math.log(d)  # what equal shares of 1 add up to
    sampler = Sampler(torch.cat([lessons.told[:, :d], distance, targets, shares], dim=1), 1, draws)

    def loss() -> dict[str, Tensor]:
        part = sampler.rows(plan.batch_rows)[0]
        target, share = part[:, w : w + 1], part[:, w + 1 :]
        told = spread * network(part[:, :w].unsqueeze(0))[0]  # logarithms, but for a constant
        whole = told.logsumexp(dim=1, keepdim=True)
        entropy = (share * (whole - told)).sum() / share.sum().clamp(min=1.0)
        return {
            "square": ((whole - equal) / spread - target).square().mean(),
            "shares": _SHARE_WEIGHT * entropy,
        }

    Trainer(
        network,
        players={"student": list(network.parameters())},
        phases=(Phase("lesson", "student", loss),),
        sampler=sampler,
        plan=TrainingPlan(
            n_steps=plan.n_steps,
            batch_rows=plan.batch_rows,
            learning_rate=2e-3,
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            ema_half_life_samples=0.02 * plan.n_steps * plan.batch_rows,
        ),
    ).run(progress=plan.progress)
    return unscaled(read_out(network, mean - equal, spread), float(centre), float(scale))


def _growth(teacher: RowScore, low: Tensor, high: Tensor, rng: np.random.Generator) -> float:
    """Measure how fast a score grows beyond a box, a squared distance; above 0 in any case."""
    known, _ = _known(teacher)
    rows = torch.from_numpy(known[rng.permutation(len(known))[:256]])
    side = torch.from_numpy(rng.random(rows.shape) < 0.5)
    near, far = (torch.where(side, low - by, high + by) for by in _FAR)
    at = torch.from_numpy(rng.integers(rows.shape[1], size=(len(rows), 1)))
    near, far = (rows.scatter(1, at, points.gather(1, at)) for points in (near, far))
    none = torch.zeros(len(rows), teacher.n_columns)
    rise = teacher.scores(far, none) - teacher.scores(near, none)
    growth = float(rise.median()) / (_FAR[1] ** 2 - _FAR[0] ** 2)
    return growth if growth > 0.0 and math.isfinite(growth) else 1.0


def _compared(
    score: RowScore, student: ProgramScore, held_out: HeldOut, rng: np.random.Generator
) -> dict[str, float]:
    """Compare both on held-out rows, which both do not know, and on mixtures of them."""
    score = _without(score, held_out)
    chosen = torch.from_numpy(np.sort(rng.permutation(len(held_out.features))[:_CHECKED]))
    rows, none = held_out.features[chosen], held_out.surprise[chosen]

    def scores(one: RowScore) -> RowScores:
        return lambda x: one.scores(x, none).numpy()

    found = agreement(scores(score), scores(student), rows, rng)
    return {
        "rank_correlation": found.rank_correlation,
        "auroc_full": found.auroc,
        "auroc_fast": found.other_auroc,
        "centres": float(student.networks["centres"].widths[1]),
    }
