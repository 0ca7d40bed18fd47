"""Layers that hold several ensemble members at once.

Every tensor carries a leading member axis, so that one batched matrix product serves the
whole ensemble: on small tables the cost of a training step is launch overhead, not
arithmetic, and members are then nearly free. Shapes: `m` members, `n` rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from anomgan.errors import UsageError
from anomgan.nets.fused import LEAK, RECTIFIERS, fused_layers, rectified_slope
from anomgan.nets.initialisation import initialise
from anomgan.nets.precision import layer_types

__all__ = ["LEAK", "Activation", "BatchedLinear", "BatchedMLP"]

Activation = Literal["leaky_relu", "elu", "relu", "tanh"]
"""Leaky rectifiers train discriminators well; ELU has a continuous slope, which whoever walks
along a gradient needs: at a kink, two runtimes round to different sides and part. Rectifiers and
hyperbolic tangents are what papers prescribe."""


class BatchedLinear(nn.Module):
    """One affine map a member.

    Parameters
    ----------
    n_members, in_features, out_features : int
        Sizes; `weight` is [m, in, out], `bias` [m, 1, out].
    generator : torch.Generator
        Source of the initial weights; the global generator is never used.
    gain : float
        Standard deviation of an output for unit-variance inputs (He et al., 2015, eq. 10).
    scheme : str
        Of the initial weights, a key of `initialisation.INITIALISERS`.

    Raises
    ------
    UsageError
        The scheme is not known.
    """

    def __init__(
        self,
        n_members: int,
        in_features: int,
        out_features: int,
        *,
        generator: torch.Generator,
        gain: float,
        scheme: str = "he",
    ) -> None:
        super().__init__()
        weight = torch.empty(n_members, in_features, out_features)
        initialise(weight, scheme, gain=gain, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(n_members, 1, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [m, n, in] to [m, n, out]."""
        return torch.baddbmm(self.bias, x, self.acting_weight())

    def acting_weight(self) -> Tensor:
        """Return the matrices [m, in, out] that rows are multiplied with, with their gradient."""
        return self.weight

    def frozen_weight(self) -> Tensor:
        """Return the matrices [m, in, out] that a trained layer multiplies with, for export."""
        return self.weight.detach()


class BatchedMLP(nn.Module):
    """Nonlinear layers with a linear last one, for every member at once.

    No normalisation layer and no dropout: a row's output depends on that row alone.

    Parameters
    ----------
    n_members : int
    sizes : sequence of int
        Input, hidden and output widths.
    generator : torch.Generator
    activation : {"leaky_relu", "elu", "relu", "tanh"}
        Of the hidden layers.
    linear : type of BatchedLinear
        Of all layers, the last one too: `spectral.SpectralLinear` bounds every slope.
    last : type of BatchedLinear, optional
        Of the last layer, where it is another one.
    scheme : str
        Of the initial weights, a key of `initialisation.INITIALISERS`.
    rounded : bool
        Whether `fused` and `input_gradient` may multiply in bfloat16 (`anomgan.nets.precision`): it
        pays for products of some hundred rows and columns, and costs time in smaller ones.
    """

    def __init__(
        self,
        n_members: int,
        sizes: Sequence[int],
        *,
        generator: torch.Generator,
        activation: Activation = "leaky_relu",
        linear: type[BatchedLinear] = BatchedLinear,
        last: type[BatchedLinear] | None = None,
        scheme: str = "he",
        rounded: bool = False,
    ) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.rounded = rounded
        gains = [math.sqrt(2.0 / (1.0 + LEAK**2))] * (len(sizes) - 2) + [1.0]
        kinds = [linear] * (len(sizes) - 2) + [last or linear]
        self.layers = nn.ModuleList(
            kind(n_members, n_in, n_out, generator=generator, gain=gain, scheme=scheme)
            for kind, (n_in, n_out), gain in zip(kinds, pairwise(sizes), gains, strict=True)
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Return the last hidden activation, [m, n, width]."""
        for layer in self.layers[:-1]:
            x = layer(x)  # [m, n, width]
            x = _activate(x, self.activation)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map [m, n, sizes[0]] to [m, n, sizes[-1]]."""
        return self.layers[-1](self.hidden(x))  # type: ignore[no-any-return]

    def fused(self, x: Tensor) -> Tensor:
        """Map like `forward`, unless `rounded` to the same bits; quicker, differentiable once."""
        layers = self._linear()
        weights, biases = [a.acting_weight() for a in layers], [a.bias for a in layers]
        return fused_layers(x, weights, biases, self.activation, rounded=self.rounded)

    def input_gradient(self, x: Tensor, output: int) -> Tensor:
        """Gradient of an output with respect to its row, [m, n, sizes[0]].

        It has a gradient with respect to the weights, for penalties on slopes. Between rectifiers
        the slope is constant, so that it takes a product a layer and no second derivative.

        Parameters
        ----------
        x : Tensor [m, n, sizes[0]]
        output : int

        Raises
        ------
        UsageError
            The activation is no rectifier.
        """
        if self.activation not in RECTIFIERS:
            raise UsageError(
                f"the slope of a network of {self.activation!r} is not constant between zeros: "
                "differentiate its output"
            )
        layers = self._linear()
        types = layer_types(x, len(layers), rounded=self.rounded)
        weights = [a.acting_weight().to(own) for a, own in zip(layers, types, strict=True)]
        made = []
        with torch.no_grad():
            for i, weight in enumerate(weights[:-1]):
                x = torch.baddbmm(layers[i].bias.to(types[i]), x, weight)
                x = _activate(x, self.activation).to(types[i + 1])
                made.append(x)  # [m, n, width]
        chosen = weights[-1][..., output : output + 1].transpose(1, 2)  # [m, 1, width]
        gradient = torch.bmm(torch.ones_like(x[..., :1]), chosen)  # [m, n, width]
        for weight, x in zip(reversed(weights[:-1]), reversed(made), strict=True):
            gradient = rectified_slope(gradient, x, self.activation).to(weight.dtype)
            gradient = torch.bmm(gradient, weight.transpose(1, 2))  # [m, n, in]
        # Zero, not none: an optimiser's momentum then moves biases along with the weights.
        for layer in layers[:-1]:
            gradient = gradient + 0.0 * layer.bias.sum()
        return gradient

    def _linear(self) -> list[BatchedLinear]:
        return [layer for layer in self.layers if isinstance(layer, BatchedLinear)]

    def frozen(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return copies of the matrices [m, in, out], as they act, and biases [m, 1, out]."""
        layers = self._linear()
        return (
            [layer.frozen_weight().detach().clone() for layer in layers],
            [layer.bias.detach().clone() for layer in layers],
        )


def _activate(x: Tensor, activation: Activation) -> Tensor:
    if activation == "elu":
        return nn.functional.elu(x)
    if activation == "relu":
        return nn.functional.relu(x)
    if activation == "tanh":
        return torch.tanh(x)
    return nn.functional.leaky_relu(x, LEAK)
