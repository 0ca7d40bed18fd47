"""An output that can be continued: a partial file beside its place, and a journal of what it holds.

The journal is written after the part of the file that it speaks of. So whatever a killed process
left behind the journal's last word is cut off, and what stands before it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Final, Self

from anomgan.errors import OutputError, UsageError
from anomgan.locks import locked_file, same_file
from anomgan.replacement import clear_leftovers
from anomgan.serving.outputs import STANDARD_OUTPUT, require_writable

__all__ = ["PartialFile", "can_be_continued", "discard_partial"]

_FORMAT: Final = 1
_JOURNAL_BYTES: Final = 256 * 2**20
_BLOCK_BYTES: Final = 1 << 20
_REMEDY: Final = "or score again without --resume"


def can_be_continued(output: str) -> bool:
    """Tell whether an output is a plain file, or will be one."""
    return output != STANDARD_OUTPUT and (os.path.isfile(output) or not os.path.exists(output))


def discard_partial(output: str) -> None:
    """Remove what a killed process left of an output that is written anew, and not continued."""
    partial = _partial(output)
    journal = _journal(partial)
    with suppress(OSError):
        if not any(path.exists() for path in (partial, journal, _unfinished(journal))):
            return
        if (descriptor := locked_file(partial)) is None:
            return
        try:
            _unfinished(journal).unlink(missing_ok=True)
            journal.unlink(missing_ok=True)
            partial.unlink()
        finally:
            os.close(descriptor)


def _partial(output: str) -> Path:
    target = Path(os.path.realpath(output))
    return target.with_name(f".{target.name}.partial")


def _journal(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _unfinished(journal: Path) -> Path:
    """Return where the next journal is written, before it takes the name of the last."""
    return journal.with_name(f"{journal.name}.new")


def _checksum(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a journal says, but for the checksum itself."""
    said = {name: value for name, value in entry.items() if name != "checksum"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class PartialFile:
    """A file that appears whole or not at all, and of which a killed process leaves what is done.

    A context manager: a clean exit puts the file in place; after an error or an interrupt nothing
    is left, unless `resume` asks to keep what can be continued. Another process may not write to
    the same place.

    Parameters
    ----------
    path : str
        Where the file goes; a symbolic link is followed.
    identity : mapping
        JSON-ready: what the content follows from, by kind. Only the same is continued.
    resume : bool
        Go on with what is there; else it is discarded.

    Attributes
    ----------
    interval_s : float
        Least seconds between two entries in the journal.
    n_rows : int
        Rows that the file held on entry.
    state : dict or None
        What `commit_if_due` was given with these rows.

    Raises
    ------
    OutputError
        On entry: nothing can be written there, or another process is at it. Later: a write failed.
    UsageError
        On entry: what is there is of another identity, or damaged.
    """

    interval_s: ClassVar[float] = 5.0

    def __init__(self, path: str, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.n_rows = 0
        self.state: dict[str, Any] | None = None
        self._identity = json.loads(json.dumps(dict(identity)))  # as it will be read
        self._resume = resume
        self._target = Path(os.path.realpath(path))
        self._partial = _partial(path)
        self._journal = _journal(self._partial)
        self._file: BinaryIO
        self._digest = hashlib.sha256()
        self._n_bytes = self._n_kept = 0
        self._found = False

    def __enter__(self) -> Self:
        if os.path.isdir(self._target):
            raise OutputError(f"{self.path} is a directory; name a file with -o")
        try:
            if os.path.exists(self._target):
                require_writable(self._target)
            clear_leftovers(self._target)
            descriptor = locked_file(self._partial)
        except OSError as error:
            raise self._failure(error) from error
        if descriptor is None:
            raise OutputError(
                f"another process is writing to {self.path} just now: wait until it has ended, or "
                "choose another place with -o"
            )
        self._file = os.fdopen(descriptor, "r+b")
        try:
            # A journal alone is of a process that was killed once its file was in place.
            self._found = os.fstat(descriptor).st_size > 0
            self._begin()
        except BaseException as error:
            self._leave(keep=self._resume and self._found)
            if isinstance(error, OSError) and not isinstance(error, OutputError):
                raise self._failure(error) from error
            raise
        self._last = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._leave(keep=self._resume and self._n_kept > 0)
            return
        try:
            self._finish()
        except BaseException as failure:
            placed = self._leave(keep=self._resume and self._n_kept > 0)
            if isinstance(failure, OSError):
                raise self._failure(failure) from failure
            if isinstance(failure, KeyboardInterrupt):
                said = f"{self.path} is whole." if placed else self.kept()
                raise KeyboardInterrupt(said) from None
            raise

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises
        ------
        OutputError
            The disk is full, for one.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise self._failure(error) from error
        self._digest.update(data)
        self._n_bytes += len(data)

    def commit_if_due(self, n_rows: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Say that all that was written are the first `n_rows` rows, if that was said long ago.

        Raises
        ------
        OutputError
            It cannot be written down.
        """
        if time.monotonic() - self._last < self.interval_s:
            return
        entry = {
            "format": _FORMAT,
            "identity": self._identity,
            "bytes": self._n_bytes,
            "sha256": self._digest.hexdigest(),
            "rows": n_rows,
            "state": dict(state()),
        }
        entry = json.loads(json.dumps(entry))  # as it will be read
        entry["checksum"] = _checksum(entry)
        written = _unfinished(self._journal)
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            with written.open("wb") as file:
                file.write(json.dumps(entry).encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(written, self._journal)
        except OSError as error:
            written.unlink(missing_ok=True)
            raise self._failure(error) from error
        self._n_kept = n_rows
        self._last = time.monotonic()

    def kept(self) -> str:
        """Return what to say to someone who stopped the writing."""
        if not self._resume:
            return "nothing partial was left behind."
        if not self._n_kept:
            return "no rows were kept yet; give the same command again."
        return f"the first {self._n_kept} rows are kept; give the same command again to go on."

    def _begin(self) -> None:
        _unfinished(self._journal).unlink(missing_ok=True)
        entry = self._read_journal() if self._resume and self._found else None
        if entry is None:
            self._journal.unlink(missing_ok=True)
            self._file.truncate(0)
            return
        _require_same(entry["identity"], self._identity, self.path)
        left = entry["bytes"]
        while left and (block := self._file.read(min(left, _BLOCK_BYTES))):
            self._digest.update(block)
            left -= len(block)
        if left or self._digest.hexdigest() != entry["sha256"]:
            raise self.damaged(f"{self._partial} is not what its journal says")
        self._file.seek(entry["bytes"])
        self._file.truncate()
        self._n_bytes = entry["bytes"]
        self.n_rows = self._n_kept = entry["rows"]
        self.state = entry["state"]

    def _read_journal(self) -> dict[str, Any] | None:
        """Return the last entry; None where there is none, so that all begins anew."""
        try:
            with self._journal.open("rb") as file:
                entry: Any = json.loads(file.read(_JOURNAL_BYTES))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"{self._journal} cannot be read ({error})") from error
        types = {"identity": dict, "bytes": int, "rows": int, "state": dict}
        types |= {"sha256": str, "checksum": str}
        if not isinstance(entry, dict) or entry.get("format") != _FORMAT:
            raise self.damaged(f"{self._journal} is of another version of anomgan")
        if any(type(entry.get(name)) is not kind for name, kind in types.items()):
            raise self.damaged(f"{self._journal} lacks some of {', '.join(types)}")
        if entry["checksum"] != _checksum(entry):
            raise self.damaged(f"{self._journal} is damaged: its checksum is another one")
        if entry["bytes"] < 0 or entry["rows"] < 1:
            raise self.damaged(f"{self._journal} counts less than nothing")
        if entry["state"].get("n_rows", entry["rows"]) != entry["rows"]:
            raise self.damaged(f"{self._journal} counts its rows in two ways")
        return entry

    def _finish(self) -> None:
        self._file.flush()
        if os.name == "nt":  # an open file cannot be renamed there
            self._file.close()
        os.replace(self._partial, self._target)
        self._journal.unlink(missing_ok=True)
        self._file.close()

    def _leave(self, *, keep: bool) -> bool:
        """Close, and remove what is not kept; tell whether the file is in its place already."""
        if self._file.closed:
            placed = not self._partial.exists()
        else:  # another process may have begun one since
            placed = same_file(self._file.fileno(), self._target)
        with suppress(OSError):
            _unfinished(self._journal).unlink(missing_ok=True)
            if placed or not keep:
                self._journal.unlink(missing_ok=True)
            if not (placed or keep):
                self._partial.unlink(missing_ok=True)
        with suppress(OSError):  # that the disk is full has been told by now
            self._file.close()
        return placed

    def damaged(self, what: str) -> UsageError:
        """Return the error that tells to begin anew."""
        return UsageError(f"{self.path} cannot be continued: {what}; score again without --resume")

    def _failure(self, error: OSError) -> OutputError:
        if isinstance(error, OutputError):
            return error
        reason = error.strerror or error
        if self._resume and self._n_kept:
            return OutputError(
                f"cannot write {self.path}: {reason}; the first {self._n_kept} rows are kept: make "
                "room and give the same command again"
            )
        return OutputError(f"cannot write {self.path}: {reason}; choose another place with -o")


_OTHER: Final = {
    "table": "the table is another one, or was changed",
    "model": "the model is another one, or was changed",
    "made_by": "it was begun by another version of anomgan, Polars or onnxruntime",
}


def _require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str) -> None:
    """Refuse to go on with what follows from something else."""
    reasons = []
    for kind in wanted:
        before, now = found.get(kind), wanted[kind]
        if before == now:
            continue
        if kind in _OTHER or not isinstance(before, dict):
            reasons.append(_OTHER.get(kind, f"{kind} differ"))
            continue
        differing = [name for name in now if before.get(name) != now[name]]
        reasons += [f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in differing]
    if reasons:
        raise UsageError(
            f"{path} cannot be continued: {'; '.join(reasons)}. Resume with the same model, table "
            f"and options, {_REMEDY}"
        )
