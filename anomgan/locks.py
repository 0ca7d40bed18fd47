"""Locks on files, which end with their process however it ends: nothing stays in the way.

They are advisory: anomgan's own processes heed them. A few network file systems keep no locks;
there, two processes are not told from each other.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from anomgan.errors import OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["KEEPING", "LITTER", "locked_file", "same_file", "sole_writer", "try_lock"]

LITTER: set[Path] = set()
"""What this process will remove: whoever ends it in haste may do that for it."""

KEEPING: Final = threading.Lock()
"""Held while files are put in place: nobody then ends the process in haste, nor removes `LITTER`.

Not to be taken twice by one thread.
"""

_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed or the process ends; do not wait.

    Returns
    -------
    bool or None
        False: another one holds it. None: the file system keeps no locks.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def same_file(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def locked_file(path: Path) -> int | None:
    """Open a file, made where it is absent, and lock it.

    Returns
    -------
    int or None
        A descriptor; None where another process holds the lock.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    while True:
        descriptor = os.open(path, _OPEN, 0o666)
        if try_lock(descriptor) is False:
            os.close(descriptor)
            return None
        if same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder removed or renamed it in between


@contextmanager
def sole_writer(target: Path, *, shown: str, option: str = "-m") -> Iterator[None]:
    """Hold the place of a model for one process; the parents of the place are made.

    Parameters
    ----------
    target : Path
        Where the model goes; the lock is a file beside it, gone at the end.
    shown : str
        The place as the user named it, for messages.
    option : str
        The option that names another place.

    Raises
    ------
    OutputError
        Another process holds it, or nothing can be written there.
    """
    lock = target.with_name(f".{target.name}.lock")
    made: list[Path] = []
    try:
        made = _make_parents(lock.parent)
        descriptor = locked_file(lock)
    except OSError as error:
        _remove_empty(made)
        raise OutputError(
            f"cannot write the model to {shown}: {error.strerror or error}; choose another place "
            f"with {option}"
        ) from error
    if descriptor is None:
        raise OutputError(
            f"another process{_holder(lock)} is writing to {shown} just now: wait until it has "
            f"ended, or choose another place with {option}"
        )
    LITTER.add(lock)
    try:
        with suppress(OSError):  # a full disk: the number is only told to others
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        with suppress(OSError):
            if same_file(descriptor, lock):
                lock.unlink()
        LITTER.discard(lock)
        os.close(descriptor)
        _remove_empty(made)


def _holder(lock: Path) -> str:
    with suppress(OSError, ValueError):
        return f" ({int(lock.read_text()[:20])})"
    return ""


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder with its parents; return what was made, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
