"""Scores of the literature, run in torch: the oracle of their exported graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Matrix, Parts
from anomgan.scoring.frozen import FLOOR, Scored
from anomgan.scoring.products import product

__all__ = ["Formula", "ProgramScore", "ProgramSettings", "RowScore", "TorchArithmetic"]

_CHUNK = 256
"""Rows a pass: every pass has this shape, so a row's result cannot depend on its company."""


class RowScore(Protocol):
    """What scores encoded rows: the flagship's `FrozenScore`, or a `ProgramScore`."""

    @property
    def n_columns(self) -> int:
        """Columns of the table."""
        ...

    @property
    def feature_column(self) -> Tensor:
        """Schema position of each feature's column, int64 [d]."""
        ...

    def __call__(self, features: Tensor, surprise: Tensor) -> Scored:
        """Score encoded rows [n, d], and share each score among the columns."""
        ...

    def scores(self, features: Tensor, surprise: Tensor) -> Tensor:
        """Score encoded rows without the contributions, [n]."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        ...

    def settings_dict(self) -> dict[str, Any]:
        """Return the scalars, JSON-ready."""
        ...


class Formula(Protocol):
    """A score, written in any arithmetic."""

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Score rows x [n, d]."""
        ...


class TorchArithmetic(Arithmetic[Tensor]):
    """Torch, on the CPU."""

    def constant(self, value: NDArray[Any] | float) -> Tensor:
        """Give a number, or a row [1, width]."""
        return torch.as_tensor(np.asarray(value, dtype=np.float32))

    def product(self, x: Tensor, matrix: Matrix) -> Tensor:
        """Multiply rows [n, in] by a matrix [in, out]."""
        return product(x, torch.from_numpy(matrix))

    def affine(self, x: Tensor, matrix: Matrix, bias: Matrix) -> Tensor:
        """Multiply rows [n, in] by a matrix [in, out] and add a bias [out]."""
        return product(x, torch.from_numpy(matrix)) + torch.from_numpy(bias)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Add."""
        return a + b

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """Subtract."""
        return a - b

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply, element by element."""
        return a * b

    def divide(self, a: Tensor, b: Tensor) -> Tensor:
        """Divide, element by element."""
        return a / b

    def maximum(self, a: Tensor, b: Tensor) -> Tensor:
        """Take the larger, element by element."""
        return torch.maximum(a, b)

    def minimum(self, a: Tensor, b: Tensor) -> Tensor:
        """Take the smaller, element by element."""
        return torch.minimum(a, b)

    def absolute(self, a: Tensor) -> Tensor:
        """Drop the sign."""
        return a.abs()

    def exp(self, a: Tensor) -> Tensor:
        """Exponential."""
        return a.exp()

    def log(self, a: Tensor) -> Tensor:
        """Natural logarithm, computed in float64."""
        return a.double().log().float()

    def sqrt(self, a: Tensor) -> Tensor:
        """Square root."""
        return a.sqrt()

    def choose(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Take `a` where the condition is above 0, and `b` elsewhere."""
        return torch.where(condition > 0, a, b)

    def concatenate(self, *values: Tensor) -> Tensor:
        """Put values side by side."""
        return torch.cat(values, dim=1)

    def columns(self, x: Tensor, index: NDArray[np.int64]) -> Tensor:
        """Take the columns at `index`."""
        return x[:, torch.from_numpy(index)]

    def copies(self, x: Tensor, row: Matrix) -> Tensor:
        """Give every row of x the same row: [n, len(row)]."""
        return torch.from_numpy(row).reshape(1, -1).expand(len(x), -1).contiguous()

    def repeat(
        self,
        times: int,
        body: Callable[[Arithmetic[Tensor], tuple[Tensor, ...]], tuple[Tensor, ...]],
        state: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Apply a body to a state again and again."""
        for _ in range(times):
            state = body(self, state)
        return state


@dataclass(frozen=True)
class ProgramSettings:
    """Scalars beside the networks.

    Attributes
    ----------
    unit : float
        Median of the formula's value over calibration rows. The score is the value in these
        units plus `FLOOR`: ranks are the formula's, and scores of all detectors are alike in size.
    kernel_width : float
        Spacing of the kept rows; explanations compare with rows within it.
    """

    unit: float
    kernel_width: float


@dataclass(frozen=True)
class ProgramScore:
    """A frozen detector of the literature.

    Attributes
    ----------
    formula : Formula
        The detector.
    networks : mapping of str to FrozenNetwork
    memory_rows, memory_counts : Tensor [a, d], [a]
        Known rows, for explanations and comparisons; the score knows none of them.
    feature_column : Tensor int64 [d]
        Schema position of each feature's column.
    n_columns : int
    settings : ProgramSettings
    """

    formula: Formula
    networks: Mapping[str, FrozenNetwork]
    memory_rows: Tensor
    memory_counts: Tensor
    feature_column: Tensor
    n_columns: int
    settings: ProgramSettings

    @torch.no_grad()
    def __call__(self, features: Tensor, surprise: Tensor) -> Scored:
        """Score encoded rows, and share each score among the columns.

        Parameters
        ----------
        features : Tensor float32 [n, d]
        surprise : Tensor float32 [n, n_columns]
        """
        columns = [features.new_zeros(0, self.n_columns)]
        whole = [features.new_zeros(0, 1)]
        for parts in self._passes(features):
            by_column = features.new_zeros(_CHUNK, self.n_columns)
            if parts.by_feature is not None:
                by_column.index_add_(1, self.feature_column, parts.by_feature)
            columns.append(by_column / self.settings.unit)
            whole.append(self._whole(parts))
        n = len(features)
        left, right = torch.cat(columns)[:n] + surprise, torch.cat(whole)[:n]
        return Scored(self.scores(features, surprise), torch.cat([left, right], dim=1))

    @torch.no_grad()
    def scores(self, features: Tensor, surprise: Tensor) -> Tensor:
        """Score encoded rows as `__call__` does, without the contributions: [n]."""
        totals = [features.new_zeros(0, 1)]
        for parts in self._passes(features):
            total = self._whole(parts)
            if parts.by_feature is not None:
                ones = torch.ones(features.shape[1], 1)
                total = product(parts.by_feature, ones) / self.settings.unit + total
            totals.append(total)
        n = len(features)
        return torch.cat(totals)[:n, 0] + surprise.sum(dim=1)

    @torch.no_grad()
    def values(self, features: Tensor) -> Tensor:
        """Return the formula's own values, float32 [n]."""
        out = [features.new_zeros(0)]
        for parts in self._passes(features):
            value = torch.zeros(_CHUNK)
            for part in (parts.by_feature, parts.whole):
                value = value if part is None else value + part.sum(dim=1)
            out.append(value)
        return torch.cat(out)[: len(features)]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for safetensors."""
        out = {
            "memory_rows": self.memory_rows.contiguous(),
            "memory_counts": self.memory_counts.contiguous(),
            "feature_column": self.feature_column.contiguous(),
        }
        for name, network in self.networks.items():
            for i, (matrix, bias) in enumerate(zip(network.matrices, network.biases, strict=True)):
                out[f"{name}.{i}.weight"] = torch.from_numpy(matrix)
                out[f"{name}.{i}.bias"] = torch.from_numpy(bias)
        return out

    def settings_dict(self) -> dict[str, Any]:
        """Return the scalars, JSON-ready."""
        return {
            "unit": self.settings.unit,
            "kernel_width": self.settings.kernel_width,
            "activations": {name: net.activation for name, net in self.networks.items()},
        }

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        formula: Formula,
        n_columns: int,
        settings: Mapping[str, Any],
    ) -> ProgramScore:
        """Rebuild from what `tensors` and `settings_dict` gave, or raise a KeyError."""
        networks = {}
        for name, activation in settings["activations"].items():
            depth = sum(k.startswith(f"{name}.") and k.endswith(".weight") for k in tensors)
            networks[name] = FrozenNetwork(
                tuple(tensors[f"{name}.{i}.weight"].numpy() for i in range(depth)),
                tuple(tensors[f"{name}.{i}.bias"].numpy() for i in range(depth)),
                activation,
            )
        return cls(
            formula=formula,
            networks=networks,
            memory_rows=tensors["memory_rows"],
            memory_counts=tensors["memory_counts"],
            feature_column=tensors["feature_column"],
            n_columns=n_columns,
            settings=ProgramSettings(float(settings["unit"]), float(settings["kernel_width"])),
        )

    def _passes(self, features: Tensor) -> Iterator[Parts[Tensor]]:
        """Yield the formula's parts in passes of `_CHUNK` rows, the last one padded."""
        arithmetic = TorchArithmetic()
        for i in range(0, len(features), _CHUNK):
            part = features[i : i + _CHUNK]
            rows = features.new_zeros(_CHUNK, features.shape[1])
            rows[: len(part)] = part  # a copy: products may round by alignment too
            yield self.formula.score(arithmetic, self.networks, rows)

    def _whole(self, parts: Parts[Tensor]) -> Tensor:
        """Return what is held against the row as a whole, [n, 1]."""
        if parts.whole is None:
            return torch.full((_CHUNK, 1), FLOOR)
        return parts.whole / self.settings.unit + FLOOR
