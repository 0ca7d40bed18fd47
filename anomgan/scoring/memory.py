"""Nearest row in a memory, the same in torch, numpy and the exported graph.

Tables of integers are full of exact ties, and the order in which a matrix product adds up
decides them differently on every machine. The similarity is therefore computed in float64,
rounded to a grid far coarser than its error and far finer than any real gap, and the first of
equal rows is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GRID", "leave_one_out_nearest", "nearest", "similarity_bias"]

GRID = float(2**30)
"""Similarities are rounded to 1 / GRID."""


def similarity_bias(rows: Tensor) -> Tensor:
    """Half the squared norms that complete the similarity, float64 [a]."""
    return -0.5 * rows.double().square().sum(dim=1)


def nearest(rows: Tensor, x: Tensor) -> Tensor:
    """Index of the row nearest to each x: [a, d], [n, d] -> int64 [n].

    The nearest row maximises ``x . row - |row|^2 / 2``, which needs no norm of x and so loses
    nothing for rows far out.
    """
    similarity = x.double() @ rows.double().T + similarity_bias(rows)  # [n, a]
    return torch.floor(similarity * GRID + 0.5).argmax(dim=1)


def leave_one_out_nearest(rows: Tensor, index: Tensor) -> Tensor:
    """Index of the nearest *other* row, for the rows at `index`: int64 [len(index)]."""
    similarity = rows[index].double() @ rows.double().T + similarity_bias(rows)
    similarity[torch.arange(len(index), device=rows.device), index] = -torch.inf
    return torch.floor(similarity * GRID + 0.5).argmax(dim=1)
