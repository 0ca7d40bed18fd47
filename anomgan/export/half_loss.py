"""What float16 does to a score."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.export.half import box_corners, require_half
from anomgan.export.parity import open_rounded
from anomgan.export.precision import FP16
from anomgan.export.scorer import build_row_scorer
from anomgan.scoring.agreement import Agreement, RowScores, agreement
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.memory import spread

__all__ = ["HalfLoss", "measure_half"]

_JUDGED = 2000
"""Most rows that the scores are compared on."""
_EXTREMES = 200
"""Rows of each kind that lie as far out as the networks see."""
_FEWEST = 10


@dataclass(frozen=True)
class HalfLoss:
    """What float16 changes.

    Attributes
    ----------
    left_out : Agreement
        On known rows that the memory is not shown, and mixtures of them.
    far_relative : float
        Largest |fp16 - fp32| / fp32 at the farthest known rows, at rows with a value at the edge of
        the box, and at its corners.
    """

    left_out: Agreement
    far_relative: float


def measure_half(score: FrozenScore, seed: int) -> HalfLoss:
    """Compare a score with its networks in float16, rounded as a GPU does it.

    Raises
    ------
    UsageError
        float16 cannot hold the networks' numbers (`anomgan.export.half.require_half`), changes
        scores by more than it may, or there are fewer than ten known rows.
    """
    require_half(score)
    n_known = len(score.memory_rows)
    if n_known < _FEWEST:
        raise UsageError(
            f"what float16 does to a score is measured on known rows, and this model knows "
            f"{n_known} of them, at least {_FEWEST} are needed: export it with --precision fp32"
        )
    loss = HalfLoss(_left_out(score, seed), _far_relative(score))
    mostly, most = loss.left_out.p99_relative, max(loss.left_out.max_relative, loss.far_relative)
    if not (mostly <= FP16.p99_relative and most <= FP16.max_relative):
        raise UsageError(
            f"float16 changes scores by up to {mostly:.2%} of themselves in 99 of 100 rows "
            f"({FP16.p99_relative:.0%} is let pass), and by up to {most:.2%} in any, those far out "
            f"among them ({FP16.max_relative:.0%} is): export this model with --precision fp32"
        )
    return loss


def _left_out(score: FrozenScore, seed: int) -> Agreement:
    """Take a fifth of the known rows, at most `_JUDGED`, out of the memory: they are as new ones.

    The box is then that of the rest, a little smaller where a row of its edge is taken.
    """
    rng = np.random.default_rng([seed, 4])
    order = rng.permutation(len(score.memory_rows))
    n = min(_JUDGED, len(order) // 5)
    judged, rest = (torch.from_numpy(np.sort(part)) for part in (order[:n], order[n:]))
    known = replace(
        score, memory_rows=score.memory_rows[rest], memory_counts=score.memory_counts[rest]
    )
    return agreement(_exact(known), _rounded(known), score.memory_rows[judged], rng)


def _far_relative(score: FrozenScore) -> float:
    known, corners = score.memory_rows, box_corners(score, _EXTREMES)
    farthest = known[known.abs().amax(dim=1).argsort(descending=True)[:_EXTREMES]]
    inner = known[spread(len(known), _EXTREMES)]
    column = torch.arange(len(inner)) % known.shape[1]
    at_edge = inner.clone()
    at_edge[torch.arange(len(inner)), column] = corners[torch.arange(len(inner)), column]
    rows = torch.cat([farthest, at_edge, corners])
    exact, rounded = (
        scores(rows).astype(np.float64) for scores in (_exact(score), _rounded(score))
    )
    return float((np.abs(rounded - exact) / exact).max())


def _exact(score: FrozenScore) -> RowScores:
    """Score rows that hold nothing new, in torch."""
    return lambda rows: score.scores(rows, torch.zeros(len(rows), score.n_columns)).numpy()


def _rounded(score: FrozenScore) -> RowScores:
    """Score them with networks in float16, rounded as a GPU does it."""
    session = open_rounded(build_row_scorer(score, FP16))

    def scores(rows: Tensor) -> NDArray[np.float32]:
        surprise = np.zeros((len(rows), score.n_columns), dtype=np.float32)
        feed = {"features": rows.numpy(), "surprise": surprise}
        found: NDArray[np.float32] = session.run(["score"], feed)[0][:, 0]
        return found

    return scores
