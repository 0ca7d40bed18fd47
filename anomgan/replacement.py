"""What is written beside its place and put there when it is whole, and what such writing left.

A temporary sibling is locked by the process that writes it. One that nobody holds was left by a
process that was killed, and goes when the next one writes to the same place.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from anomgan.locks import KEEPING, LITTER, same_file, try_lock

__all__ = ["clear_leftovers", "put_in_place", "temporary_directory", "temporary_file"]

_WRITING: Final = "tmp"
_FORMER: Final = "old"
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.{kind}")


def temporary_file(target: Path) -> tuple[Path, int]:
    """Make an empty sibling of a file, locked while the descriptor is open.

    Raises
    ------
    OSError
        Nothing can be written there.
    """
    while True:
        path = _sibling(target, _WRITING)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)
        if try_lock(descriptor) is not False and same_file(descriptor, path):
            return path, descriptor
        os.close(descriptor)  # another process took it for a leftover before it was locked


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """Make an empty, locked sibling of a directory; what bears its name at the end is removed.

    Raises
    ------
    OSError
        Nothing can be written there.
    """
    path, descriptor = _locked_directory(target)
    LITTER.add(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        LITTER.discard(path)
        if descriptor is not None:
            os.close(descriptor)


def _locked_directory(target: Path) -> tuple[Path, int | None]:
    while True:
        path = _sibling(target, _WRITING)
        path.mkdir()
        descriptor = _open_directory(path)
        if descriptor is None:
            if path.exists():
                return path, None  # a system on which directories cannot be opened
            continue
        if try_lock(descriptor) is not False and same_file(descriptor, path):
            return path, descriptor
        os.close(descriptor)


def _open_directory(path: Path) -> int | None:
    with suppress(OSError):
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    return None


def clear_leftovers(target: Path) -> None:
    """Remove what killed processes left beside a place; a former content comes back."""
    named = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.({_WRITING}|{_FORMER})")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if (match := named.fullmatch(name)) is not None:
                _clear(target.parent / name, target, former=match[1] == _FORMER)


def _clear(path: Path, target: Path, *, former: bool) -> None:
    descriptor = _open_directory(path)  # plain files open in the same way
    if descriptor is None:
        return
    try:
        if try_lock(descriptor) is not True:
            return
        if former and not target.exists():  # killed between the two renames of `put_in_place`
            os.replace(path, target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a whole directory to its place; what was there is removed.

    Where the system can exchange two names there is no moment without either directory. Elsewhere
    a kill between two renames leaves the former one beside the place, and `clear_leftovers` brings
    it back. Who ends this process in haste waits (`KEEPING`): a directory whose removal has begun
    is never put in place.

    Raises
    ------
    OSError
        What was there is there again.
    """
    _sync_directory(temporary)
    with KEEPING:
        if not target.exists():
            os.replace(temporary, target)
        elif _exchange(temporary, target):
            _sync_directory(target.parent)  # before the former one goes
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            _replace_in_two_steps(temporary, target)
        _sync_directory(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Give each path what the other one names, at once; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number))


def _replace_in_two_steps(temporary: Path, target: Path) -> None:
    former = _sibling(target, _FORMER)
    descriptor = _open_directory(target)
    try:
        if descriptor is not None:
            try_lock(descriptor)  # or another process would take it for a leftover
        os.replace(target, former)
        try:
            os.replace(temporary, target)
        except BaseException:
            os.replace(former, target)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sync_directory(path: Path) -> None:
    """Have the names in a directory outlast a power cut, where the system can."""
    descriptor = _open_directory(path)
    if descriptor is None:
        return
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
