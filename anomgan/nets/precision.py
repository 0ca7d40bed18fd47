"""In which numbers matrices are multiplied while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

__all__ = ["bfloat16_is_fast", "bfloat16_products", "products_of_updates"]


@cache
def bfloat16_is_fast() -> bool:
    """Say whether the processor multiplies matrices of bfloat16 in units of their own (AMX).

    Where it has none, torch would emulate them, slower than the products of float32.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Round the factors of large products on the CPU to bfloat16; they are summed in float32.

    Weights, activations and sums stay float32, and so do small products and everything else. The
    rounding, 2^-9 of a factor, is far below the noise that a batch puts into a step's gradients;
    it would not do for distances, whose large terms cancel, nor for scores. A switch of the whole
    process: other threads that multiply meanwhile are rounded too.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_of_updates(
    rounded: bool, device: torch.device
) -> Callable[[], AbstractContextManager[None]]:
    """Return what updates on a device run in: rounded products where asked for and faster."""
    if rounded and device.type == "cpu" and bfloat16_is_fast():
        return bfloat16_products
    return nullcontext
