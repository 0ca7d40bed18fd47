"""What float16 does to a score, measured on known rows that it is not shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.export.half import require_half
from anomgan.export.parity import open_rounded
from anomgan.export.precision import FP16
from anomgan.export.scorer import build_row_scorer
from anomgan.scoring.agreement import Agreement, agreement
from anomgan.scoring.frozen import FrozenScore

__all__ = ["measure_rounding"]

_JUDGED = 2000
"""Most rows that the scores are compared on."""


def measure_rounding(score: FrozenScore, seed: int) -> Agreement:
    """Compare a score with its networks in float16, rounded as a GPU does it.

    A fifth of the known rows, at most `_JUDGED`, are taken out of the memory and stand for new
    ones.

    Raises
    ------
    UsageError
        float16 cannot hold the networks' numbers (`anomgan.export.half.require_half`), or there are
        fewer than ten known rows.
    """
    require_half(score)
    n_known = len(score.memory_rows)
    if n_known < 10:
        raise UsageError(
            f"what float16 does to a score is measured on known rows, and this model knows "
            f"{n_known} of them, at least 10 are needed: export it with --precision fp32"
        )
    rng = np.random.default_rng([seed, 4])
    order = rng.permutation(n_known)
    n = min(_JUDGED, n_known // 5)
    judged, rest = (torch.from_numpy(np.sort(part)) for part in (order[:n], order[n:]))
    known = replace(
        score, memory_rows=score.memory_rows[rest], memory_counts=score.memory_counts[rest]
    )
    session = open_rounded(build_row_scorer(known, FP16))

    def nothing_new(rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), score.n_columns)

    def exact(rows: Tensor) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = known.scores(rows, nothing_new(rows)).numpy()
        return scores

    def rounded(rows: Tensor) -> NDArray[np.float32]:
        feed = {"features": rows.numpy(), "surprise": nothing_new(rows).numpy()}
        scores: NDArray[np.float32] = session.run(["score"], feed)[0][:, 0]
        return scores

    return agreement(exact, rounded, score.memory_rows[judged], rng)
