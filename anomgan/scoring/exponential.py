"""Exponentials that are as quick far out as near."""

from __future__ import annotations

from typing import Final

from torch import Tensor

__all__ = ["LEAST_EXPONENT", "exp_"]

LEAST_EXPONENT: Final = -80.0
"""exp(-80) is 2e-35. Below -87 a result is no normal number of float32 any more, and takes far
longer, even where it is 0 (seen with MKL)."""


def exp_(x: Tensor) -> Tensor:
    """Replace numbers by their exponentials, those below exp(`LEAST_EXPONENT`) by that.

    For sums with a term of about 1, whose last bit is 1e28 times as large.
    """
    return x.clamp_(min=LEAST_EXPONENT).exp_()
