"""How far off a trained network's predictions usually are, feature by feature."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from anomgan.nets.arithmetic import FrozenNetwork

__all__ = ["MOST_ROWS", "error_spread"]

MOST_ROWS = 4096
"""Training rows that measure the spread, at most."""
_SMALLEST = 0.05
"""Standard deviations of the feature: what is predicted better than that is no better known."""
_NORMAL_DECILE = 1.6449
"""Standard deviations that 90 % of normal errors stay within. The median error would be robust
too, but is next to nothing in a flag that is rarely set."""


def error_spread(errors: Tensor) -> FrozenNetwork:
    """Return standard deviations from the upper deciles of errors [n, d], as numbers [1, d]."""
    decile = np.quantile(errors.abs().cpu().numpy(), 0.9, axis=0) / _NORMAL_DECILE
    return FrozenNetwork.numbers(np.maximum(decile, _SMALLEST).reshape(1, -1))
