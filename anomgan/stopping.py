"""SIGINT and SIGTERM while a fit runs: a request that training looks at, else an interrupt.

Python takes a signal between two of its own steps. A single call into a library can be longer than
anyone waits, so the command line also has `prompt_end`, which ends the process from another thread.
That is no more to a model directory than SIGKILL is.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from anomgan.errors import TrainingInterrupted
from anomgan.locks import KEEPING, LITTER

__all__ = ["StopRequest", "how_to_go_on", "prompt_end", "stop_on_signal"]

_GRACE_S: Final = 0.7
"""Time for training to end its step; what else runs is then interrupted where it stands."""

_AGAIN_S: Final = 0.05
"""Time after which to look again whether files are in place; an interrupt waits for them."""

_END_S: Final = 1.4
"""Time for everything to unwind; after it the process is ended."""


class _Overdue(KeyboardInterrupt):
    """Nobody looked at the request in time, or a second signal came."""


class StopRequest:
    """Whether training should stop; asked between two steps."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._heeded = False
        self._insisting = self._raised = self._closed = False
        self._timer: threading.Timer | None = None

    def __call__(self) -> bool:
        """Tell whether a signal came; from now on training stops by itself."""
        self._heeded = self._number is not None
        return self._heeded

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; an interrupt waits until files that are being written are in place.

        Raises
        ------
        KeyboardInterrupt
            It is the second one, or the first was not heeded in time.
        """
        if self._insisting:  # our own reminder
            self._insisting = False
        elif self._number is None:
            self._number = number
            self._remind(_GRACE_S)
            return
        else:
            self._heeded = self._raised = False
        if self._heeded or self._raised or self._closed:
            return
        if KEEPING.locked():
            self._remind(_AGAIN_S)
            return
        self._raised = True
        raise _Overdue

    def close(self) -> None:
        """Take no signal any more, and remind of none."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # or its reminder would reach the next handler

    def _remind(self, after_s: float) -> None:
        if self._closed:
            return
        timer = threading.Timer(after_s, self._insist)
        timer.daemon = True
        timer.start()
        self._timer = timer

    def _insist(self) -> None:
        if not (self._heeded or self._raised or self._closed) and self._number is not None:
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
        The request was not looked at in time, or a second signal came.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {s: signal.signal(s, stop.handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except _Overdue:
        stop.close()
        raise TrainingInterrupted(message()) from None
    finally:
        stop.close()
        for number, handler in former.items():
            signal.signal(number, handler)


def how_to_go_on(checkpoint: Path, *, own: bool) -> str:
    """Return what to say of a fit that was stopped outside of its training.

    Parameters
    ----------
    checkpoint : Path
    own : bool
        Whether what is there, if anything, is of this fit.
    """
    if own and checkpoint.exists():
        return (
            "fit was stopped before the model was written; go on with the same command and "
            f"--resume (checkpoint: {checkpoint})"
        )
    return (
        "fit was stopped before its first checkpoint; nothing was kept, give the same command again"
    )


@contextmanager
def prompt_end(message: Callable[[], str], code: int) -> Iterator[None]:
    """End the process within two seconds of SIGINT or SIGTERM, whatever its main thread is at.

    Not on Windows, where Python writes signals to network sockets alone.

    Parameters
    ----------
    message : callable
        What to say on stderr then.
    code : int
        Exit status.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    ended = threading.Event()

    def watch() -> None:
        # Written by the signal itself, not by Python's handler; empty once the sender is closed.
        while (number := os.read(receiver, 1)) and number[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        if not number or ended.wait(_END_S):
            return
        with KEEPING:
            if not ended.is_set():
                _end(message(), code)

    watcher = threading.Thread(target=watch, name="anomgan-stop", daemon=True)
    watcher.start()
    former = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(former)
        os.close(sender)
        watcher.join()
        os.close(receiver)


def _end(said: str, code: int) -> None:
    for path in tuple(LITTER):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):
        os.write(2, f"Error: {said}\n".encode())
    os._exit(code)
