"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from anomgan.errors import OutputError
from anomgan.replacement import clear_leftovers, temporary_file

__all__ = ["STANDARD_OUTPUT", "AtomicFile", "require_writable"]

STANDARD_OUTPUT: Final = "-"


def require_writable(target: Path) -> None:
    """Refuse to replace a file that may not be written to.

    Raises
    ------
    OSError
        With the reason, as the system gives it.
    """
    os.close(os.open(target, os.O_WRONLY))


class AtomicFile:
    """A file to write, under a temporary name beside its place until it is complete.

    A context manager: a clean exit renames it into place, any other removes it and leaves
    what was there untouched. ``-`` is standard output; devices and named pipes are written
    directly, having no content to protect.

    Parameters
    ----------
    path : str or path-like
        Where the file goes; a symbolic link is followed.
    option : str
        The option of the command line that names another place, for messages.

    Raises
    ------
    OutputError
        On entry: a directory is there, or nothing can be written there. Later: a write
        failed.
    """

    def __init__(self, path: str | os.PathLike[str], *, option: str = "-o") -> None:
        self.path = os.fspath(path)
        self._option = option
        self._target = Path(os.path.realpath(self.path))
        self._temporary: Path | None = None
        self._file: BinaryIO

    def __enter__(self) -> Self:
        if self.path == STANDARD_OUTPUT:
            self._file = cast(BinaryIO, sys.stdout.buffer)
            return self
        if os.path.isdir(self._target):
            raise OutputError(f"{self.path} is a directory; name a file with {self._option}")
        try:
            self._file = self._open()
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.path == STANDARD_OUTPUT:
            if kind is None:
                self._flush()
            return
        try:
            self._file.close()
            if kind is None and self._temporary is not None:
                os.replace(self._temporary, self._target)
                self._temporary = None
        except OSError as failure:
            if kind is None:
                raise self._failure(failure) from failure
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    self._temporary.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises
        ------
        OutputError
            The disk is full, for one.
        BrokenPipeError
            Whoever read standard output has stopped.
        """
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failure(error) from error

    def _flush(self) -> None:
        try:
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failure(error) from error

    def _open(self) -> BinaryIO:
        if os.path.exists(self._target):
            if not os.path.isfile(self._target):
                return self._target.open("wb")
            require_writable(self._target)
        clear_leftovers(self._target)
        self._temporary, descriptor = temporary_file(self._target)
        return os.fdopen(descriptor, "wb")

    def _failure(self, error: OSError) -> OutputError:
        what = "standard output" if self.path == STANDARD_OUTPUT else self.path
        return OutputError(
            f"cannot write {what}: {error.strerror or error}; choose another place with "
            f"{self._option}"
        )
