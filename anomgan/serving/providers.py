"""Which processor scores: chosen quietly, asserted after the fact, reported.

onnxruntime's own answers cannot be relied on: ``get_available_providers()`` lists what the
wheel was built with, and a session that cannot have CUDA falls back to the CPU. So the driver
is asked first, silently, and the provider in use is read from the finished session.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal

import onnxruntime as ort

from anomgan.errors import ModelCorruptError, UsageError

__all__ = ["CPU", "CUDA", "Providers", "cuda_unusable_reason", "make_session", "usable_threads"]

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"

Providers = Literal["auto", "cpu", "cuda"] | Sequence[str]
"""``auto`` takes CUDA where it works and says so where not; ``cuda`` insists."""

_FATAL = 4  # onnxruntime's severities: 2 is its default (warnings), 4 only what ends the process
_WARNING = 2


def cuda_unusable_reason() -> str | None:
    """Say why CUDA cannot be used here, or return None where it seems usable.

    Loads no more than the driver library, prints nothing, and takes under a millisecond where
    there is no driver.
    """
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime is built without CUDA (install onnxruntime-gpu)"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit gave {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return "the NVIDIA driver sees no device"
    return None


def make_session(
    model: bytes,
    *,
    providers: Providers = "auto",
    intra_op_threads: int = 1,
    rows: int | None = None,
) -> tuple[ort.InferenceSession, str]:
    """Open `model` on the processor asked for.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model; files it refers to are not looked for.
    providers : "auto", "cpu", "cuda" or a sequence of onnxruntime provider names
        With a sequence, the first must be the one in use, or it is an error.
    intra_op_threads : int, default=1
        Threads inside one call. Several calls at once serve throughput better.
    rows : int, optional
        Rows of every call, where that is known: what depends on their number alone is then worked
        out here, once.

    Returns
    -------
    InferenceSession
    str
        Why the CPU is in use although "auto" was asked for; empty otherwise.

    Raises
    ------
    UsageError
        The processor asked for cannot be used; the message says why.
    ModelCorruptError
        onnxruntime refuses the model.
    """
    if isinstance(providers, str) and providers not in ("auto", "cpu", "cuda"):
        raise UsageError(f"the provider must be auto, cpu or cuda, got {providers!r}")
    open_with = partial(_open, model, intra_op_threads=intra_op_threads, rows=rows)
    if not isinstance(providers, str):
        return open_with(list(providers)), ""
    if providers == "cpu":
        return open_with([CPU]), ""
    reason = cuda_unusable_reason()
    if reason is None:
        try:
            return open_with([CUDA, CPU]), ""
        except UsageError as error:
            if providers == "cuda":
                raise
            reason = str(error)
    if providers == "cuda":
        raise UsageError(f"CUDA cannot be used: {reason}; use the provider auto or cpu")
    return open_with([CPU]), reason


def _open(
    model: bytes, names: list[str], *, intra_op_threads: int, rows: int | None
) -> ort.InferenceSession:
    """Open `model` with `names` and see to it that the first of them is the one in use."""
    unknown = [name for name in names if name not in ort.get_available_providers()]
    if unknown or not names:
        available = ", ".join(ort.get_available_providers())
        raise UsageError(
            f"onnxruntime here has no provider {', '.join(unknown) or '(none named)'}; "
            f"it has {available}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    # To plan who may have whose buffer takes time that grows faster than a graph's nodes do (5 s at
    # 150 columns), and saves neither time nor memory afterwards.
    options.enable_mem_reuse = False
    options.log_severity_level = 3
    if rows is not None:
        options.add_free_dimension_override_by_name("N", rows)
    # Or a mark in the file would have it read as onnxruntime's own format, which nobody looked at.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Where the CPU fails there is nothing to fall back on, and onnxruntime would say so on stdout.
    fallback = int(names != [CPU])
    try:
        with _quiet(names != [CPU]):
            session = ort.InferenceSession(
                model,
                options,
                providers=[_options(n) for n in names],
                enable_fallback=fallback,
            )
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise ModelCorruptError(f"onnxruntime cannot open the scorer: {_first(error)}") from error
    in_use = session.get_providers()[0]
    if in_use != names[0]:
        raise UsageError(
            f"onnxruntime fell back to {in_use}: its {names[0]} did not load (its CUDA and cuDNN "
            "libraries are missing or of another version; `pip install anomgan[cuda]` brings them)"
        )
    return session


def _options(name: str) -> Any:
    """Set a provider up: TF32 off, so that scores agree with those of the CPU."""
    if name != CUDA:
        return name
    return name, {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


@contextlib.contextmanager
def _quiet(needed: bool) -> Iterator[None]:
    """Keep onnxruntime's search for accelerator libraries off the terminal."""
    if not needed:
        yield
        return
    ort.set_default_logger_severity(_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls(directory="")
            yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def usable_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
