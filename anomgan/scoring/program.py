"""Scores of the literature, run in torch: the oracle of their exported graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.errors import ModelCorruptError
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Matrix, Parts
from anomgan.nets.batched import Activation
from anomgan.nets.threads import one_thread
from anomgan.presets import MOST_WIDTH
from anomgan.scoring.frozen import FLOOR, Scored
from anomgan.scoring.products import product

__all__ = [
    "PASS_ROWS",
    "Formula",
    "ProgramScore",
    "ProgramSettings",
    "RowScore",
    "TorchArithmetic",
    "Values",
]

PASS_ROWS = 256
"""Rows a pass: every pass has this shape, so a row's result cannot depend on its company."""
_SMALLEST_UNIT = 1e-6


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

    def product_less(self, x: Tensor, matrix: Matrix, less: Tensor) -> Tensor:
        """Multiply rows [n, in] by a matrix [in, out] and subtract [n, out]."""
        return product(x, torch.from_numpy(matrix)) - less

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

    def clip(self, a: Tensor, low: float, high: float) -> Tensor:
        """Take the nearest number between two."""
        return a.clamp(low, high)

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

    def row_max(self, x: Tensor) -> Tensor:
        """Take the largest of each row: [n, width] -> [n, 1]."""
        return x.amax(dim=1, keepdim=True)

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


def _weighted(parts: Parts[Tensor], d: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Give all that is held against single features, [n, d], each with the features' weights."""
    if parts.by_feature is not None:
        yield parts.by_feature, torch.ones(d)
    if parts.weighted is not None:
        values, weights = parts.weighted
        yield values, torch.from_numpy(weights.ravel())


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
class Values:
    """What a formula gives for n rows, in its own units.

    Attributes
    ----------
    by_column : float32 [n, n_columns]
    of_features : float32 [n, 1]
        The same, added up over all features.
    whole : float32 [n, 1]
    """

    by_column: Tensor
    of_features: Tensor
    whole: Tensor


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

    def __call__(self, features: Tensor, surprise: Tensor) -> Scored:
        """Score encoded rows, and share each score among the columns.

        Parameters
        ----------
        features : Tensor float32 [n, d]
        surprise : Tensor float32 [n, n_columns]
        """
        values = self.values(features)
        left = values.by_column / self.settings.unit + surprise
        return Scored(
            self.scores_of(values, surprise), torch.cat([left, self._whole(values)], dim=1)
        )

    def scores(self, features: Tensor, surprise: Tensor) -> Tensor:
        """Score encoded rows as `__call__` does, without the contributions: [n]."""
        return self.scores_of(self.values(features), surprise)

    def scores_of(self, values: Values, surprise: Tensor) -> Tensor:
        """Score rows whose values are known, [n]."""
        total = values.of_features / self.settings.unit + self._whole(values)
        return total[:, 0] + surprise.sum(dim=1)

    @torch.no_grad()
    def values(self, features: Tensor) -> Values:
        """Evaluate the formula on encoded rows [n, d], on one processor."""
        d = features.shape[1]
        columns = [features.new_zeros(0, self.n_columns)]
        sums, wholes = [features.new_zeros(0, 1)], [features.new_zeros(0, 1)]
        with one_thread():
            for parts in self._passes(features):
                by_column = features.new_zeros(PASS_ROWS, self.n_columns)
                of_features, whole = (
                    features.new_zeros(PASS_ROWS, 1),
                    features.new_zeros(PASS_ROWS, 1),
                )
                for part, weights in _weighted(parts, d):
                    by_column.index_add_(1, self.feature_column, part * weights)
                    of_features = of_features + product(part, weights.reshape(d, 1))
                columns.append(by_column)
                sums.append(of_features)
                wholes.append(whole if parts.whole is None else parts.whole)
        n = len(features)
        return Values(torch.cat(columns)[:n], torch.cat(sums)[:n], torch.cat(wholes)[:n])

    def in_units_of(self, values: Values) -> ProgramScore:
        """Return this score in units of the median of some rows' values."""
        total = (values.of_features + values.whole)[:, 0]
        total = total[torch.isfinite(total)]
        unit = max(_SMALLEST_UNIT, float(total.median())) if len(total) else 1.0
        return replace(self, settings=replace(self.settings, unit=unit))

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
        """Rebuild from what `tensors` and `settings_dict` gave, and try it on a row.

        Raises
        ------
        ModelCorruptError
            The parts do not belong together.
        """
        try:
            networks = {
                name: _network(tensors, name, activation)
                for name, activation in settings["activations"].items()
            }
            score = cls(
                formula=formula,
                networks=networks,
                memory_rows=tensors["memory_rows"],
                memory_counts=tensors["memory_counts"],
                feature_column=tensors["feature_column"],
                n_columns=n_columns,
                settings=ProgramSettings(float(settings["unit"]), float(settings["kernel_width"])),
            )
            score._try_out()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ModelCorruptError(
                f"networks and formula of the detector do not fit each other ({error}); fit the "
                "model again"
            ) from error
        return score

    def _try_out(self) -> None:
        """Score one row, of the encoder's mean."""
        column, settings = self.feature_column, self.settings
        if not (0.0 < settings.unit < math.inf and 0.0 < settings.kernel_width < math.inf):
            raise ValueError(f"unit {settings.unit}, kernel width {settings.kernel_width}")
        if column.dtype != torch.int64 or not bool(
            ((column >= 0) & (column < self.n_columns)).all()
        ):
            raise ValueError("features of columns that are not there")
        values = self.values(torch.zeros(1, len(column)))
        if not bool(torch.isfinite(values.of_features + values.whole).all()):
            raise ValueError("an ordinary row has no finite score")

    def _passes(self, features: Tensor) -> Iterator[Parts[Tensor]]:
        """Yield the formula's parts in passes of `PASS_ROWS` rows, the last one padded."""
        arithmetic = TorchArithmetic()
        for i in range(0, len(features), PASS_ROWS):
            part = features[i : i + PASS_ROWS]
            rows = features.new_zeros(PASS_ROWS, features.shape[1])
            rows[: len(part)] = part  # a copy: products may round by alignment too
            yield self.formula.score(arithmetic, self.networks, rows)

    def _whole(self, values: Values) -> Tensor:
        """Return what is held against each row as a whole, [n, 1]."""
        return values.whole / self.settings.unit + FLOOR


def _network(tensors: Mapping[str, Tensor], name: str, activation: str) -> FrozenNetwork:
    """Read one network; ValueError where its layers do not follow each other."""
    depth = sum(k.startswith(f"{name}.") and k.endswith(".weight") for k in tensors)
    weights = [tensors[f"{name}.{i}.weight"] for i in range(depth)]
    biases = [tensors[f"{name}.{i}.bias"] for i in range(depth)]
    if not depth or activation not in get_args(Activation):
        raise ValueError(f"network {name!r} has {depth} layers of {activation!r}")
    chained = all(a.shape[1] == b.shape[0] for a, b in pairwise(weights))
    fits = all(
        w.ndim == 2 and b.shape == (w.shape[1],) for w, b in zip(weights, biases, strict=True)
    )
    plain = all(t.dtype == torch.float32 for t in (*weights, *biases))
    narrow = all(w.numel() == 0 or max(w.shape) <= MOST_WIDTH for w in weights)
    if not (chained and fits and plain and narrow):
        raise ValueError(f"the layers of network {name!r} do not follow each other")
    return FrozenNetwork(
        tuple(w.numpy() for w in weights),
        tuple(b.numpy() for b in biases),
        cast(Activation, activation),
    )
