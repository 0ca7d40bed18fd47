"""Matrix products whose rounding does not tell where in a batch a row stood."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

__all__ = ["product"]

_NARROWEST = 16
"""Products with fewer columns are padded to so many: below a dozen, BLAS rounds a row otherwise
at the end of a batch than at its start (seen with MKL), and a score must not tell where in the
batch its row stood."""


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """[..., n, in] by [..., in, out]; a row's result has the same bits wherever the row stands."""
    width = matrix.shape[-1]
    if width < _NARROWEST:
        matrix = pad(matrix, (0, _NARROWEST - width))
    return (x @ matrix)[..., :width]
