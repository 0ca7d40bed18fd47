"""Every error that anomgan raises on purpose.

::

    AnomganError
    ├── InputError (ValueError)          what the user handed in is unusable      exit 2
    │   ├── TableError                   a file or table that cannot be read
    │   ├── SchemaError                  rows that do not fit the model's columns
    │   └── UsageError                   options that contradict each other or the data
    ├── ModelError (RuntimeError)        a model directory or scorer is unusable  exit 2
    │   ├── ModelNotFoundError (FileNotFoundError)
    │   ├── ModelExistsError (FileExistsError)
    │   └── ModelCorruptError            checksum, format or probe mismatch
    ├── TrainingError (RuntimeError)     training could not give a usable model   exit 1
    │   └── TrainingInterrupted          stopped by a signal; a checkpoint is kept  exit 130
    ├── ExportError (RuntimeError)       the exported graph disagrees with torch  exit 1
    ├── OutputError (OSError)            a result could not be written            exit 2
    └── DatasetError (RuntimeError)      a registered dataset is absent or altered exit 2

A message says what was found, what was expected, and what to do next. Faults found
together are reported together: `InputError.faults` keeps them one by one.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AnomganError",
    "DatasetError",
    "ExportError",
    "InputError",
    "ModelCorruptError",
    "ModelError",
    "ModelExistsError",
    "ModelNotFoundError",
    "OutputError",
    "SchemaError",
    "TableError",
    "TrainingError",
    "TrainingInterrupted",
    "UsageError",
]


class AnomganError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the CLI ends with."""

    exit_code: int = 1


class InputError(AnomganError, ValueError):
    """The data or the options handed in cannot be used.

    Parameters
    ----------
    message : str
        What was found, what was expected, what to do next.
    faults : iterable of str, optional
        The single faults behind one message, when several were found together.
    """

    exit_code = 2

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults: tuple[str, ...] = tuple(faults) or (message,)


class TableError(InputError):
    """A file or an in-memory table cannot be read as rows and columns."""


class SchemaError(InputError):
    """Rows do not fit the columns that the model was trained on."""


class UsageError(InputError):
    """Options contradict each other, or ask for what the data cannot give."""


class ModelError(AnomganError, RuntimeError):
    """A model directory, or the scorer in it, cannot be used."""

    exit_code = 2


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model directory at the given path."""


class ModelExistsError(ModelError, FileExistsError):
    """A model is already there and overwriting was not asked for."""


class ModelCorruptError(ModelError):
    """A model directory fails its checksums, its format, or its probe rows."""


class TrainingError(AnomganError, RuntimeError):
    """Training ended without a usable model."""


class TrainingInterrupted(TrainingError):
    """Training was stopped by a signal; the message says how to go on."""

    exit_code = 130


class ExportError(AnomganError, RuntimeError):
    """The exported graph does not give the scores of the torch module."""


class OutputError(AnomganError, OSError):
    """A result could not be written; nothing partial was left behind."""

    exit_code = 2


class DatasetError(AnomganError, RuntimeError):
    """A registered dataset is absent, or its files are not what the card says."""

    exit_code = 2
