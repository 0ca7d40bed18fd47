"""The report of an evaluation as a file, which appears whole or not at all."""

from __future__ import annotations

import os
from datetime import datetime
from types import TracebackType
from typing import Self

from anomgan.errors import UsageError
from anomgan.evaluation.labelled import Evaluation, LabelledScores
from anomgan.report.facts import ModelFacts, Provenance
from anomgan.report.page import Report, render
from anomgan.report.rows import NotableRows
from anomgan.serving.outputs import STANDARD_OUTPUT, AtomicFile
from anomgan.serving.scorer import Scorer

__all__ = ["EvaluationReport"]


class EvaluationReport:
    """A report to write: `rows` watches the scoring, `write` adds the result.

    A context manager: a place that cannot be written is said on entry, before any row is scored;
    on an error, what was there stays.

    Parameters
    ----------
    output : str
        The file; one that is there is replaced.
    table : str
        The labelled table.
    model : path-like
        What `scorer` was opened from.
    scorer : Scorer
    label : str
        Label column.

    Attributes
    ----------
    rows : NotableRows

    Raises
    ------
    UsageError
        `output` is standard output, the table, or inside the model directory.
    """

    def __init__(
        self,
        output: str,
        *,
        table: str,
        model: str | os.PathLike[str],
        scorer: Scorer,
        label: str,
    ) -> None:
        _require_own_place(output, table, os.fspath(model))
        self.rows = NotableRows(scorer.schema, label=label)
        self._file = AtomicFile(output, option="--report")
        self._table, self._model, self._scorer = table, model, scorer

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

    def write(
        self, scored: LabelledScores, result: Evaluation, *, made_at: datetime, seed: int
    ) -> None:
        """Write the page.

        Parameters
        ----------
        scored : LabelledScores
            Of the same walk that `rows` watched.
        result : Evaluation
            Of `scored`.
        made_at : datetime
            With a time zone.
        seed : int
            Of the bootstrap and the baselines.

        Raises
        ------
        OutputError
            The disk is full, for one.
        """
        report = Report(
            model=ModelFacts.of(self._model, self._scorer),
            provenance=Provenance.of(self._table, self._scorer, made_at=made_at, seed=seed),
            rows=self.rows,
            scored=scored,
            evaluation=result,
        )
        self._file.write(render(report).encode())


def _require_own_place(output: str, table: str, model: str) -> None:
    if output == STANDARD_OUTPUT:
        raise UsageError(
            "--report - is standard output, where the figures go; name a file, such as report.html"
        )
    for place, what in ((table, "the table"), (model, "the model")):
        if os.path.exists(output) and os.path.exists(place) and os.path.samefile(output, place):
            raise UsageError(f"{output} is {what} itself; name another file with --report")
    folder = os.path.realpath(os.path.dirname(output) or ".")
    if os.path.isdir(model) and folder == os.path.realpath(model):
        raise UsageError(
            f"{output} lies in the model directory, which holds the model's own files alone; name "
            "another place with --report"
        )
