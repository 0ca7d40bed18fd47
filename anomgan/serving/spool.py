"""Flags that depend on the whole table: scored rows wait on disk until they are decided."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.errors import OutputError
from anomgan.false_discovery import Discoveries, FdrMethod, discover
from anomgan.serving.writers import Format, Writer, open_writer

__all__ = ["Spool", "open_spool", "write_discoveries"]

_CHUNK_BYTES = 1 << 22  # of p-values read at once
_LENGTH_BYTES = 8  # before each frame


class Spool:
    """Scored frames and their p-values in temporary files, to be read several times.

    Parameters
    ----------
    frames, p_values : binary files
        Empty, open for writing and reading.
    """

    def __init__(self, frames: IO[bytes], p_values: IO[bytes]) -> None:
        self._frames = frames
        self._p_values = p_values

    def write(self, frame: pl.DataFrame, p_values: NDArray[np.float32]) -> None:
        """Append a frame, and the p-values [n] that decide on its rows; NaN where there is none.

        Raises
        ------
        OutputError
            The temporary files cannot hold it.
        """
        buffer = io.BytesIO()
        column = pl.Series(_unlike(frame.columns), p_values, dtype=pl.Float32)
        try:
            frame.with_columns(column).write_ipc_stream(buffer, compression="lz4")
            data = buffer.getbuffer()
            self._frames.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
            self._frames.write(data)
            self._p_values.write(p_values[~np.isnan(p_values)].tobytes())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _failure(error) from error

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the p-values of all rows that have one, in order."""
        self._rewind(self._p_values)
        while data := self._p_values.read(_CHUNK_BYTES):
            yield np.frombuffer(data, dtype=np.float32)

    def frames(self) -> Iterator[tuple[pl.DataFrame, pl.Series]]:
        """Yield the frames as they were written, each with its p-values."""
        self._rewind(self._frames)
        while length := self._frames.read(_LENGTH_BYTES):
            data = self._frames.read(int.from_bytes(length, "little"))
            frame = pl.read_ipc_stream(data)
            yield frame[:, :-1], frame.to_series(-1)

    def _rewind(self, file: IO[bytes]) -> None:
        try:
            file.seek(0)  # writes what is still buffered
        except OSError as error:
            raise _failure(error) from error


@contextmanager
def open_spool() -> Iterator[Spool]:
    """Open an empty spool; its files have no name and go with the process, however it ends.

    Raises
    ------
    OutputError
        There is no place for temporary files.
    """
    with _temporary_file() as frames, _temporary_file() as p_values:
        yield Spool(frames, p_values)


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError as error:
        raise _failure(error) from error
    try:
        yield file
    finally:
        with suppress(OSError):  # that the disk is full has been told by now
            file.close()


def _unlike(names: list[str]) -> str:
    """Return a name that is none of `names`."""
    return max(names, key=len, default="") + "_"


def write_discoveries(
    frames: Iterable[tuple[pl.DataFrame, NDArray[np.float32]]],
    writer: Writer,
    fmt: Format,
    rate: float,
    *,
    method: FdrMethod,
) -> Discoveries:
    """Write `frames` with ``is_anomaly`` decided by false-discovery control over all of them.

    Nothing is written before the last frame has come.

    Parameters
    ----------
    frames : iterable of (DataFrame, float32 array [n])
        As they are to be written, and the p-values to decide by: NaN for a row that could not be
        read, whose ``is_anomaly`` becomes null.
    writer : Writer
        Of format `fmt`.
    fmt : "csv", "parquet" or "jsonl"
    rate : float
        False-discovery rate, in (0, 1).
    method : "bh" or "storey"

    Raises
    ------
    OutputError
        The output, or the temporary files, cannot be written.
    UsageError
        A column cannot be written in this format.
    """
    with open_spool() as spool:
        for i, (frame, p_values) in enumerate(frames):
            if i == 0:
                _require_fit(frame, fmt)
            spool.write(frame, p_values)
        decided = discover(spool.chunks, rate, method=method)
        cutoff = pl.Series([decided.cutoff], dtype=pl.Float32)
        for frame, ruling in spool.frames():
            flags = (ruling.fill_nan(None) <= cutoff).alias("is_anomaly")
            writer.write(frame.with_columns(flags))
    return decided


def _require_fit(frame: pl.DataFrame, fmt: Format) -> None:
    """Tell a column that the format cannot hold before the whole table has been scored."""
    with (
        tempfile.TemporaryDirectory(prefix="anomgan-") as folder,
        open_writer(str(Path(folder) / "empty"), fmt) as writer,
    ):
        writer.write(frame.clear())


def _failure(error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
    return OutputError(
        f"cannot keep scored rows in {tempfile.gettempdir()}: {reason}; false-discovery control "
        "needs room there for all of them, set TMPDIR to a directory that has it"
    )
