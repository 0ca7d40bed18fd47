"""A whole perceptron as one differentiable operation: what a training step spends least on.

torch records every layer of a network as three operations, keeps what each made and hands it on
through its autograd engine. Where nobody differentiates twice, the same arithmetic in the same
order needs none of that: activations overwrite what they act on, and so do their gradients. The
values are those of the layers one by one, bit for bit, unless they are rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.nets.precision import layer_types

__all__ = ["LEAK", "RECTIFIERS", "fused_layers", "rectified_slope"]

LEAK = 0.2
"""Negative slope of every leaky rectifier, in torch and in the exported graph."""

RECTIFIERS = ("leaky_relu", "relu")
"""Activations whose slope is a constant on either side of zero."""


def fused_layers(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    *,
    rounded: bool = False,
) -> Tensor:
    """Map rows through linear layers with an activation between them.

    Parameters
    ----------
    x : Tensor [m, n, in]
    weights : sequence of Tensor [m, in, out]
    biases : sequence of Tensor [m, 1, out]
    activation : {"leaky_relu", "elu", "relu", "tanh"}
    rounded : bool
        Whether all layers but the first multiply in bfloat16: see
        `anomgan.nets.precision.layer_types`. The gradient of the first weights does so too where
        the rows need none.

    Returns
    -------
    Tensor [m, n, out]
        Of the last layer, which is linear.

    Raises
    ------
    UsageError
        On the way back, when a graph of the gradient is asked for: this can be differentiated once.
    """
    return _Layers.apply(x, activation, rounded, *weights, *biases)  # type: ignore[no-any-return,no-untyped-call]


def rectified_slope(gradient: Tensor, made: Tensor, activation: str) -> Tensor:
    """Multiply a gradient by a rectifier's slope, which is read off the sign of what it made."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(gradient, made, 0)  # type: ignore[no-any-return]
    return torch.ops.aten.leaky_relu_backward(  # type: ignore[no-any-return]
        gradient, made, LEAK, True
    )


class _Layers(torch.autograd.Function):
    """Forward and backward pass over all layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, rounded: bool, *parameters: Tensor) -> Tensor:
        """Keep each layer's input; for ELU also what it acted on, as its slope is read there."""
        depth = len(parameters) // 2
        types = layer_types(x, depth, rounded=rounded)
        weights, biases = (
            [p.to(own) for p, own in zip(part, types, strict=True)]
            for part in (parameters[:depth], parameters[depth:])
        )
        inputs, acted_on, given = [x], [], x.dtype
        for layer in range(depth - 1):
            x = torch.baddbmm(biases[layer], x, weights[layer])  # [m, n, out]
            if activation == "elu":
                acted_on.append(x.to(types[layer + 1]))
            x = _activated(x, activation).to(types[layer + 1])
            inputs.append(x)
        x = torch.baddbmm(biases[-1], x, weights[-1])
        ctx.activation, ctx.depth, ctx.types = activation, depth, types
        ctx.save_for_backward(*weights, *inputs, *acted_on)
        return x.to(given)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Pull a gradient back, layer by layer; it is overwritten on the way."""
        if torch.is_grad_enabled():  # with create_graph; what follows would be silently constant
            raise UsageError(
                "fused layers are differentiated once: for a second derivative call the network"
            )
        depth, saved, types, given = ctx.depth, ctx.saved_tensors, ctx.types, gradient.dtype
        weights, inputs, acted_on = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        of_row, needed = ctx.needs_input_grad[0], ctx.needs_input_grad[3:]
        found: list[Tensor | None] = [None] * (2 * depth)
        gradient = gradient.to(types[-1])
        for layer in reversed(range(depth)):
            # Nothing is pulled back to rows that need no gradient: to widen it would cost more than
            # the product.
            if layer or of_row:
                gradient = gradient.to(types[layer])
            if needed[layer]:
                rows = inputs[layer].to(gradient.dtype).transpose(1, 2)
                found[layer] = torch.bmm(rows, gradient).to(given)
            if needed[depth + layer]:
                found[depth + layer] = gradient.sum(dim=1, keepdim=True).to(given)
            if layer == 0 and not of_row:
                break
            gradient = torch.bmm(gradient, weights[layer].transpose(1, 2))  # [m, n, in]
            if layer:
                kept = acted_on[layer - 1] if acted_on else inputs[layer]
                _pull_back(gradient, kept, ctx.activation)
        return (gradient if of_row else None, None, None, *found)


def _activated(x: Tensor, activation: str) -> Tensor:
    """Overwrite x with its activation, but for ELU."""
    if activation == "elu":
        return torch.nn.functional.elu(x)
    if activation == "relu":
        return torch.relu_(x)
    if activation == "tanh":
        return torch.tanh_(x)
    return torch.nn.functional.leaky_relu_(x, LEAK)


def _pull_back(gradient: Tensor, kept: Tensor, activation: str) -> None:
    """Overwrite a gradient with itself times the activation's slope, read off what was kept."""
    aten = torch.ops.aten
    if activation == "elu":
        aten.elu_backward.grad_input(gradient, 1.0, 1.0, 1.0, False, kept, grad_input=gradient)
    elif activation == "relu":
        aten.threshold_backward.grad_input(gradient, kept, 0, grad_input=gradient)
    elif activation == "tanh":
        aten.tanh_backward.grad_input(gradient, kept, grad_input=gradient)
    else:
        aten.leaky_relu_backward.grad_input(gradient, kept, LEAK, True, grad_input=gradient)
