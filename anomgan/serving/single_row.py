"""Single rows of numbers through a session, without the cost of a call's inputs and outputs.

onnxruntime looks at the names, types and shapes of all that is fed at every call, and makes new
arrays for all that comes out. Buffers that are bound to a session once are only written and read.

A graph asks at every call how many rows there are, and goes the way of few or of many. To a session
that is opened for one row that is no question: of a small graph's call it saves a tenth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from anomgan.serving.interface import OUTPUTS
from anomgan.serving.providers import CPU
from anomgan.serving.sessions import ForkedSession
from anomgan.tables.schema import Schema

__all__ = ["SMALL_GRAPH", "SingleRows"]

SMALL_GRAPH: Final = 1 << 20
"""Bytes of a graph up to which a session of its own for single rows is worth the time to open it,
some milliseconds. A larger one takes longer to open, and its nodes have more to do."""

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
    open_for_one : callable, optional
        Opens the same graph for calls of one row each, when the first row comes.
    """

    def __init__(
        self,
        session: ForkedSession,
        n_columns: int,
        n_contributions: int,
        open_for_one: Callable[[], ort.InferenceSession] | None = None,
    ) -> None:
        self._session = session
        self._open_for_one = open_for_one
        self._widths = (n_columns, n_contributions)
        self._own = threading.local()

    @classmethod
    def where_possible(
        cls,
        session: ForkedSession,
        schema: Schema,
        n_contributions: int,
        open_for_one: Callable[[], ort.InferenceSession] | None,
    ) -> SingleRows | None:
        """Return what scores single rows, if the graph takes numbers alone and runs on the CPU."""
        opened, n_columns = session.here(), len(schema.numeric_names)
        shape = next(out.shape for out in opened.get_outputs() if out.name == "contributions")
        if opened.get_providers()[0] != CPU or schema.categorical_names or not n_columns:
            return None
        if shape[1:] != [n_contributions]:  # the first graphs may not tell
            return None
        return cls(session, n_columns, n_contributions, open_for_one)

    def run(self, row: Sequence[float] | NDArray[np.float64], rate: float) -> list[NDArray[Any]]:
        """Run the graph on one row; return its outputs as `OUTPUTS` names them.

        Parameters
        ----------
        row : n_columns numbers
        rate : float
            See `Scorer.score`.

        Raises
        ------
        ModelCorruptError
            onnxruntime opened the graph, and refuses to for a single row.
        """
        session = self._session_here()
        # Taken out while in use: a signal's handler may score, too, in the middle of this call.
        bound: _Bound | None = getattr(self._own, "bound", None)
        self._own.bound = None
        if bound is None or bound.session is not session:
            bound = _Bound(session, *self._widths)
        found = bound.run(row, rate)
        self._own.bound = bound
        return found

    def _session_here(self) -> ort.InferenceSession:
        open_for_one = self._open_for_one
        if open_for_one is not None:
            # Two threads may both open one: each works, and the last one stays.
            self._session = ForkedSession(open_for_one(), open_for_one)
            self._open_for_one = None
        return self._session.here()


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
