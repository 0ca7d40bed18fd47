"""Single rows of numbers through a session, without the cost of a call's inputs and outputs.

onnxruntime looks at the names, types and shapes of all that is fed at every call, and makes new
arrays for all that comes out. Buffers that are bound to a session once are only written and read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from anomgan.serving.interface import OUTPUTS
from anomgan.serving.sessions import ForkedSession

__all__ = ["SingleRows"]

_OUTPUT_DTYPES: Final = (np.float32, np.float32, np.bool_, np.float32)


class SingleRows:
    """Scores one row at a time on the CPU; may be used from several threads.

    Parameters
    ----------
    session : ForkedSession
        Of a graph whose only inputs are `numeric` and `false_alarm_rate`.
    n_columns : int
        Columns of `numeric`.
    n_contributions : int
        Columns of the output `contributions`.
    """

    def __init__(self, session: ForkedSession, n_columns: int, n_contributions: int) -> None:
        self._session = session
        self._widths = (n_columns, n_contributions)
        self._own = threading.local()

    def run(self, row: Sequence[float] | NDArray[np.float64], rate: float) -> list[NDArray[Any]]:
        """Run the graph on one row; return its outputs as `OUTPUTS` names them.

        Parameters
        ----------
        row : n_columns numbers
        rate : float
            See `Scorer.score`.
        """
        session = self._session.here()
        # Taken out while in use: a signal's handler may score, too, in the middle of this call.
        bound: _Bound | None = getattr(self._own, "bound", None)
        self._own.bound = None
        if bound is None or bound.session is not session:
            bound = _Bound(session, *self._widths)
        found = bound.run(row, rate)
        self._own.bound = bound
        return found


class _Bound:
    """A session, and the buffers of one row."""

    def __init__(self, session: ort.InferenceSession, n_columns: int, n_contributions: int) -> None:
        self.session = session
        self._row = np.zeros((1, n_columns), dtype=np.float64)
        self._rate = np.zeros((), dtype=np.float32)
        self._known_rate = 0.0
        shapes = ((1,), (1,), (1,), (1, n_contributions))
        self._outputs: list[NDArray[Any]] = [
            np.zeros(shape, dtype=kind) for shape, kind in zip(shapes, _OUTPUT_DTYPES, strict=True)
        ]
        # onnxruntime is told addresses alone: the buffers have to live as long as the binding.
        self._binding = session.io_binding()
        inputs: dict[str, NDArray[Any]] = {"numeric": self._row, "false_alarm_rate": self._rate}
        for name, buffer in inputs.items():
            self._binding.bind_input(name, *_place(buffer))
        for name, buffer in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_output(name, *_place(buffer))

    def run(self, row: Sequence[float] | NDArray[np.float64], rate: float) -> list[NDArray[Any]]:
        self._row[0] = row
        if rate != self._known_rate:
            self._rate[...] = self._known_rate = rate
        self.session.run_with_iobinding(self._binding)
        return [buffer.copy() for buffer in self._outputs]


def _place(buffer: NDArray[Any]) -> tuple[Any, ...]:
    """Tell onnxruntime where a buffer is, and what it holds."""
    return "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data
