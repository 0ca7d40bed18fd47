"""SIGINT and SIGTERM while a fit runs: a request that training looks at, else an interrupt."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from anomgan.errors import TrainingInterrupted

__all__ = ["StopRequest", "stop_on_signal"]

_GRACE_S: Final = 0.7
"""Time for training to end its step; what else runs is then interrupted where it stands."""


class _Overdue(KeyboardInterrupt):
    """Nobody looked at the request in time."""


class StopRequest:
    """Whether training should stop; asked between two steps."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._heeded = False
        self._insisting = False

    def __call__(self) -> bool:
        """Tell whether a signal came; from now on training stops by itself."""
        self._heeded = self._number is not None
        return self._heeded

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Raises
        ------
        KeyboardInterrupt
            It is the second one, or the first was not heeded in time.
        """
        if self._insisting:  # our own reminder
            self._insisting = False
            if not self._heeded:
                raise _Overdue
        elif self._number is None:
            self._number = number
            timer = threading.Timer(_GRACE_S, self._insist)
            timer.daemon = True
            timer.start()
        else:
            raise KeyboardInterrupt

    def _insist(self) -> None:
        if not self._heeded and self._number is not None:
            self._insisting = True
            _thread.interrupt_main(signal.Signals(self._number))


@contextmanager
def stop_on_signal(message: Callable[[], str]) -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM as a request to stop, also where SIGINT was ignored.

    A shell starts what runs in its background with SIGINT ignored. A fit keeps a checkpoint, so
    that stopping it loses nothing: it stops there too.

    Parameters
    ----------
    message : callable
        Tells how to go on, for a fit that was interrupted outside of its training.

    Raises
    ------
    TrainingInterrupted
        The request was not looked at in time.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {s: signal.signal(s, stop.handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except _Overdue:
        raise TrainingInterrupted(message()) from None
    finally:
        stop()  # nothing is left to be reminded of
        for number, handler in former.items():
            signal.signal(number, handler)
