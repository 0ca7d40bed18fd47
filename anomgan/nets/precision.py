"""In which numbers matrices are multiplied while training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch

__all__ = ["bfloat16_is_fast", "products"]


@cache
def bfloat16_is_fast() -> bool:
    """Say whether the processor multiplies matrices of bfloat16 in units of their own (AMX).

    Where it has none, torch would emulate them, slower than the products of float32.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def products(device: torch.device, *, rounded: bool) -> AbstractContextManager[None]:
    """Return what to multiply in: `rounded` has large products of bfloat16, where that is faster.

    Weights, activations and sums stay float32, and so do small products and everything else. The
    rounding, 2^-9 of a factor, is far below the noise that a batch puts into a step's gradients;
    it would not do for distances, whose large terms cancel, nor for scores. On another device than
    the CPU, and on a processor without units for it, nothing is rounded.

    A switch of the whole process: other threads that multiply meanwhile are rounded too.
    """
    if rounded and device.type == "cpu" and bfloat16_is_fast():
        return _rounded()
    return nullcontext()


@contextmanager
def _rounded() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
