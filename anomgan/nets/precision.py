"""In which numbers matrices are multiplied while training."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

__all__ = ["bfloat16_is_fast", "layer_types"]

_UNITS = ("amx_bf16", "avx512_bf16")
"""Capabilities of processors that have units for products of bfloat16."""


@cache
def bfloat16_is_fast() -> bool:
    """Say whether the processor multiplies numbers of bfloat16 in units of their own.

    Where it has none, torch would emulate them, slower than the products of float32. So it says of
    a torch that does not tell.
    """
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(told.get(unit, False) for unit in _UNITS)


def layer_types(rows: torch.Tensor, depth: int, *, rounded: bool) -> tuple[torch.dtype, ...]:
    """Return the type of numbers in which each layer of a network multiplies.

    `rounded` has every layer but the first multiply in bfloat16, where that is faster: factors and
    results are rounded by at most 2^-8, sums within a product are not. That is far below the noise
    that a batch puts into a step's gradients; it would not do for distances, whose large terms
    cancel, nor for scores. What the network sees of its rows keeps its digits, and so do weights
    with what an optimiser adds to them. On another device than the CPU, and on a processor without
    units for it, nothing is rounded.

    Parameters
    ----------
    rows : Tensor
        What the network reads: its device and type are those of all that is not rounded.
    depth : int
        Layers of the network.
    rounded : bool
    """
    later = rows.dtype
    if rounded and rows.device.type == "cpu" and bfloat16_is_fast():
        later = torch.bfloat16
    return (rows.dtype,) + (depth - 1) * (later,)
