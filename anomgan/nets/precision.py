"""In which numbers matrices are multiplied while training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch

__all__ = ["bfloat16_is_fast", "products"]


@cache
def bfloat16_is_fast() -> bool:
    """Say whether the processor multiplies matrices of bfloat16 in units of their own (AMX).

    Where it has none, torch would emulate them, slower than the products of float32. So it says of
    a torch that does not tell, or that has no switch for these products alone.
    """
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return _switch() is not None and bool(told.get("amx_bf16", False))


def products(device: torch.device, *, rounded: bool) -> AbstractContextManager[None]:
    """Return what to multiply in: `rounded` has large products of bfloat16, where that is faster.

    Weights, activations and sums stay float32, and so do small products and everything else. The
    rounding, at most 2^-8 of a factor, is far below the noise that a batch puts into a step's
    gradients; it would not do for distances, whose large terms cancel, nor for scores. On another
    device than the CPU, and on a processor without units for it, nothing is rounded.

    A switch of the whole process: what other threads multiply in torch meanwhile, on the CPU, is
    rounded too. It is off again when the last thread that asked for it has left.
    """
    if rounded and device.type == "cpu" and bfloat16_is_fast():
        return _rounded()
    return nullcontext()


def _switch() -> Any:
    """Return what holds the precision of products on the CPU alone; None in an older torch."""
    found = getattr(torch.backends.mkldnn, "matmul", None)
    return found if hasattr(found, "fp32_precision") else None


_LOCK = threading.Lock()
_within = 0
_former = ""


@contextmanager
def _rounded() -> Iterator[None]:
    global _within, _former  # of the switch, which there is one of
    switch = _switch()
    with _LOCK:
        if _within == 0:
            _former, switch.fp32_precision = switch.fp32_precision, "bf16"
        _within += 1
    try:
        yield
    finally:
        with _LOCK:
            _within -= 1
            if _within == 0:
                switch.fp32_precision = _former
