"""In what numbers a scoring graph computes, and how many rows it takes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from anomgan.errors import UsageError

__all__ = ["FP16", "FP32", "Precision"]


@dataclass(frozen=True)
class Precision:
    """How a graph computes.

    Attributes
    ----------
    name : str
        As on the command line.
    networks : int
        Type of the networks' weights and activations, of `onnx.TensorProto`. Distances to known
        rows, and what is summed up to scores, are float64 and float32 in any case.
    tile : int
        Most rows of a pass.
    strip : int
        Most rows of a pass over all known rows.
    p99_relative, max_relative : float
        Relative difference from torch's scores that 99 % of rows must keep, and every row.
    """

    name: str
    networks: int
    tile: int
    strip: int
    p99_relative: float
    max_relative: float

    @property
    def is_half(self) -> bool:
        """Whether the networks compute in float16."""
        return self.networks == TensorProto.FLOAT16

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """Round a network's weights to its type.

        Raises
        ------
        UsageError
            They are beyond it.
        """
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(values, dtype=np.float16 if self.is_half else np.float32)
        if not np.isfinite(rounded).all():
            raise UsageError(
                f"weights of this model are larger than {self.name} holds: export it with "
                "--precision fp32"
            )
        return rounded


FP32: Final = Precision(
    "fp32", TensorProto.FLOAT, tile=256, strip=32, p99_relative=1e-5, max_relative=1e-3
)
"""For processors: a tile has so many rows that a node costs more than its call, and what a strip
leaves of all known rows fits into the cache."""

FP16: Final = Precision(
    "fp16", TensorProto.FLOAT16, tile=2048, strip=2048, p99_relative=1e-2, max_relative=1e-1
)
"""For GPUs, which have units for products of float16, and room for thousands of rows at once.
Scores differ by what float16 rounds."""
