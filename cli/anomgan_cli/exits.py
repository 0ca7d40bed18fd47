"""How commands end: exit codes, and errors told in one place.

===  ======================================
0    done
1    failure
2    bad usage or bad input
3    anomalies found (``--fail-on-anomaly``)
130  interrupted
143  terminated
===  ======================================
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final, ParamSpec, TypeVar

import typer

from anomgan.errors import AnomganError

__all__ = [
    "ANOMALIES_FOUND",
    "BAD_INPUT",
    "FAILURE",
    "INTERRUPTED",
    "OK",
    "TERMINATED",
    "ended_promptly",
    "guarded",
    "leave",
]

OK: Final = 0
FAILURE: Final = 1
BAD_INPUT: Final = 2
ANOMALIES_FOUND: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def guarded(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn whatever a command raises into a message on stderr and an exit code.

    The command takes a parameter `debug`, which shows the traceback as well.
    """

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            with _orderly_end(), _all_written():
                return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _drop_standard_output()
            raise typer.Exit(FAILURE) from None
        except KeyboardInterrupt as stop:
            _tell("Interrupted", str(stop) or "nothing partial was left behind.", style="yellow")
            raise leave(INTERRUPTED) from None
        except SystemExit as stop:
            if stop.code == TERMINATED:
                leave(TERMINATED)
            raise
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc(file=sys.stderr)
            _tell("Error", _message(error), style="red")
            if isinstance(error, OSError):
                _drop_if_unwritable()
            code = _code(error)
            raise (leave(code) if code == INTERRUPTED else typer.Exit(code)) from None

    return run


def leave(code: int) -> typer.Exit:
    """End the process here and now: to tear torch down can take longer than anyone waits.

    Elsewhere than in a process of its own, what to raise is returned.
    """
    own = (sys.__stdout__, sys.__stderr__)
    if (sys.stdout, sys.stderr) == own:
        for stream in own:
            if stream is not None:
                with suppress(OSError, ValueError):  # full, or closed
                    stream.flush()
        os._exit(code)
    return typer.Exit(code)


@contextmanager
def _all_written() -> Iterator[None]:
    """Have what is still buffered written now: at the exit of Python it would be too late to tell.

    Raises
    ------
    OSError
        It cannot be written.
    """
    try:
        yield
    except typer.Exit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def ended_promptly(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Have SIGINT and SIGTERM end a fit within two seconds, whatever it is at.

    SIGINT is taken also where a shell that started the command in its background has it ignored:
    a fit keeps its checkpoint. The command takes parameters `model` and `resume`.
    """

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        from anomgan.bundle import checkpoint_path
        from anomgan.stopping import how_to_go_on, prompt_end

        checkpoint = checkpoint_path(str(kwargs["model"]))
        resumes, before = bool(kwargs["resume"]), _stamp(checkpoint)

        def message() -> str:
            return how_to_go_on(checkpoint, own=resumes or _stamp(checkpoint) != before)

        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with prompt_end(message, INTERRUPTED):
            return command(*args, **kwargs)

    return run


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files go as after Ctrl-C."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _message(error: Exception) -> str:
    if isinstance(error, AnomganError):
        return str(error)
    if _is_no_room(error):
        place = getattr(error, "filename", None) or "standard output"
        return (
            f"cannot write {place}: {getattr(error, 'strerror', None) or error}; make room, or "
            "send it elsewhere"
        )
    reason = str(error).strip() or "no further word"
    return (
        f"unexpected {type(error).__name__}: {reason}\nThis is a fault of anomgan. Please report "
        "it with the output of the same command and --debug."
    )


def _is_no_room(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _code(error: Exception) -> int:
    if isinstance(error, AnomganError):
        return error.exit_code
    return BAD_INPUT if _is_no_room(error) else FAILURE


def _tell(title: str, message: str, *, style: str) -> None:
    from rich.text import Text

    from anomgan_cli.terminal import plain, stderr

    line = Text.assemble((f"{title}: ", f"bold {style}"), (plain(message), style))
    stderr().print(line, soft_wrap=True, highlight=False)


def _drop_if_unwritable() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_standard_output()


def _drop_standard_output() -> None:
    """Nobody takes it; what is left in the buffer must not raise at the exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
