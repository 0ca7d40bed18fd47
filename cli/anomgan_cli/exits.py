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

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, ParamSpec, TypeVar

import typer

from anomgan.errors import AnomganError

__all__ = ["ANOMALIES_FOUND", "BAD_INPUT", "FAILURE", "INTERRUPTED", "OK", "TERMINATED", "guarded"]

OK: Final = 0
FAILURE: Final = 1
BAD_INPUT: Final = 2
ANOMALIES_FOUND: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def guarded(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn whatever a command raises into a message on stderr and an exit code.

    The command takes a parameter `debug`, which shows the traceback as well.
    """

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            with _orderly_end():
                return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _drop_standard_output()
            raise typer.Exit(FAILURE) from None
        except KeyboardInterrupt:
            _tell("Interrupted", "nothing partial was left behind.", style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc(file=sys.stderr)
            _tell("Error", _message(error), style="red")
            code = error.exit_code if isinstance(error, AnomganError) else FAILURE
            raise typer.Exit(code) from None

    return run


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
    reason = str(error).strip() or "no further word"
    return (
        f"unexpected {type(error).__name__}: {reason}\nThis is a fault of anomgan. Please report "
        "it with the output of the same command and --debug."
    )


def _tell(title: str, message: str, *, style: str) -> None:
    from rich.text import Text

    from anomgan_cli.terminal import plain, stderr

    line = Text.assemble((f"{title}: ", f"bold {style}"), (plain(message), style))
    stderr().print(line, soft_wrap=True, highlight=False)


def _drop_standard_output() -> None:
    """Whoever read it has gone; what is left in the buffer must not raise at the exit."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
