"""A report as a file, which appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from anomgan.errors import UsageError
from anomgan.serving.outputs import STANDARD_OUTPUT, AtomicFile

__all__ = ["ReportFile"]


class ReportFile:
    """A place for a report, and what is written there.

    A context manager: a place that cannot be written is said on entry, before any row is scored;
    on an error, what was there stays.

    Parameters
    ----------
    output : str
        The file; one that is there is replaced.
    others : mapping of str to str
        Files that it must not be, by what they are called, such as ``the table``.
    model : str
        Model directory or scorer.

    Raises
    ------
    UsageError
        `output` is standard output, one of `others`, or inside the model directory.
    """

    def __init__(self, output: str, others: Mapping[str, str], *, model: str) -> None:
        _require_own_place(output, others, model)
        self._file = AtomicFile(output, option="--report")

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, traceback)

    def write_page(self, content: str) -> None:
        """Write the page.

        Raises
        ------
        OutputError
            The disk is full, for one.
        """
        self._file.write(content.encode())


def _require_own_place(output: str, others: Mapping[str, str], model: str) -> None:
    if output == STANDARD_OUTPUT:
        raise UsageError(
            "--report - is standard output, where figures or scores go; name a file, such as "
            "report.html"
        )
    for what, place in (*others.items(), ("the model", model)):
        if _same(output, place):
            raise UsageError(f"{output} is {what} itself; name another file with --report")
    folder = os.path.realpath(os.path.dirname(output) or ".")
    if os.path.isdir(model) and folder == os.path.realpath(model):
        raise UsageError(
            f"{output} lies in the model directory, which holds the model's own files alone; name "
            "another place with --report"
        )


def _same(output: str, place: str) -> bool:
    """Tell whether two names are of one file, be it there or not."""
    if place == STANDARD_OUTPUT:
        return False
    if os.path.exists(output) and os.path.exists(place):
        return os.path.samefile(output, place)
    return os.path.realpath(output) == os.path.realpath(place)
