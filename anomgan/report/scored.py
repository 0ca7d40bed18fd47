"""The report of scored rows: no labels, no scikit-learn, and no row kept but the notable ones."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anomgan.bundle import Bundle
from anomgan.false_discovery import FdrMethod
from anomgan.groups import AnyCalibrator, GroupedCalibrator, calibrator_from_arrays, stated_groups
from anomgan.report import wording
from anomgan.report.chance import chance_band
from anomgan.report.chart import Chart
from anomgan.report.counts import FloatCounts
from anomgan.report.drift import DriftSection, Status
from anomgan.report.facts import ModelFacts, Provenance
from anomgan.report.files import ReportFile
from anomgan.report.page import Figure, Page, health_of, render_page
from anomgan.report.rows import NotableRows, Undecided
from anomgan.report.score_charts import RATES, p_value_plot, scored_histogram
from anomgan.serving.files import ScoreSummary
from anomgan.serving.scorer import ScoredBatch, Scorer
from anomgan.serving.spool import open_spool

__all__ = ["Report", "ScoreReport", "Tally", "render"]

_SHOWN_NAMES = 20


@dataclass
class Tally:
    """Counts over the rows with a score.

    Attributes
    ----------
    scores, p_values : FloatCounts
    up_to : int64 [n_rates]
        Rows with a p-value up to each of `anomgan.report.score_charts.RATES`.
    """

    scores: FloatCounts = field(default_factory=FloatCounts)
    p_values: FloatCounts = field(default_factory=FloatCounts)
    up_to: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(RATES), dtype=np.int64))

    def add(self, scores: NDArray[np.float32], p_values: NDArray[np.float32]) -> None:
        """Count one batch, [n]; NaN for a row without a score."""
        known = ~np.isnan(scores)
        found = p_values[known]
        self.scores.add(scores[known])
        self.p_values.add(found)
        self.up_to += [int((found <= np.float32(rate)).sum()) for rate in RATES]


@dataclass(frozen=True)
class Report:
    """What the page of scored rows shows.

    Parameters
    ----------
    model : ModelFacts
    provenance : Provenance
    rows : NotableRows
        Decided.
    tally : Tally
    summary : ScoreSummary
        Of the same rows.
    drift : DriftSection
    held_out : float32 [n] or None
        Scores of the normal rows that calibrate the model; None where they are not known.
    threshold : float
        Score from which rows are flagged; NaN where there is no single one, or it is not known.
    """

    model: ModelFacts
    provenance: Provenance
    rows: NotableRows
    tally: Tally
    summary: ScoreSummary
    drift: DriftSection
    held_out: NDArray[np.float32] | None
    threshold: float

    @property
    def n_scored(self) -> int:
        """Rows with a score."""
        return self.summary.n_rows - self.summary.n_unreadable

    @property
    def n_calibration(self) -> int | None:
        """Calibration rows behind every p-value; None where not known, or grouped."""
        calibration = self.model.calibration
        return None if stated_groups(calibration) else calibration.get("n")


class ScoreReport(ReportFile):
    """A report to write: `add` watches the scoring, `write` adds the summary.

    A context manager, as `ReportFile`.

    Parameters
    ----------
    output : str
        The file; one that is there is replaced.
    table, scores : str
        The table, and where its scores go.
    model : path-like
        What `scorer` was opened from.
    scorer : Scorer
    false_discovery_rate : float, optional
        Where flags are decided by it over the whole table: what they may need waits in a
        temporary file.
    fdr_method : "bh" or "storey"

    Raises
    ------
    UsageError
        `output` is standard output, the table, the scores, or inside the model directory.
    """

    def __init__(
        self,
        output: str,
        *,
        table: str,
        scores: str,
        model: str | os.PathLike[str],
        scorer: Scorer,
        false_discovery_rate: float | None = None,
        fdr_method: FdrMethod = "bh",
    ) -> None:
        others = {"the table": table, "the file of scores": scores}
        super().__init__(output, others, model=os.fspath(model))
        self._table, self._model, self._scorer = table, model, scorer
        self._discovery_rate, self._method = false_discovery_rate, fdr_method
        self._opened = ExitStack()
        self._rows = NotableRows(scorer)
        self._tally = Tally()

    def __enter__(self) -> Self:
        if self._discovery_rate is not None:
            spool = self._opened.enter_context(open_spool())
            undecided = Undecided(spool, self._discovery_rate, self._method)
            self._rows = NotableRows(self._scorer, undecided=undecided)
        with self._opened.pop_all() as opened:
            super().__enter__()
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._opened:
            super().__exit__(kind, error, traceback)

    def add(self, item: ScoredBatch, ruling: NDArray[np.float32]) -> None:
        """See one batch, and the p-values [n] that its flags rest on."""
        self._rows.add(item, ruling=ruling)
        self._tally.add(item.verdicts.score, item.verdicts.p_value)

    def write(
        self, summary: ScoreSummary, *, made_at: datetime, drift_switched_off: bool = False
    ) -> None:
        """Write the page.

        Parameters
        ----------
        summary : ScoreSummary
            Of the same walk that `add` watched.
        made_at : datetime
            With a time zone.
        drift_switched_off : bool
            Whether that is why the summary has none.

        Raises
        ------
        OutputError
            The disk is full, for one.
        """
        if summary.discoveries is not None:
            self._rows.decide(summary.discoveries.cutoff)
        calibrator = self._calibrator()
        schema = self._scorer.schema
        report = Report(
            model=ModelFacts.of(self._model, self._scorer),
            provenance=Provenance.of(self._table, self._scorer, made_at=made_at),
            rows=self._rows,
            tally=self._tally,
            summary=summary,
            drift=DriftSection.of(summary.drift, schema, switched_off=drift_switched_off),
            held_out=None if calibrator is None else calibrator.scores,
            threshold=_threshold(calibrator, self._scorer, summary),
        )
        self.write_page(render(report))

    def _calibrator(self) -> AnyCalibrator | None:
        """Read the held-out scores; a scorer on its own keeps none."""
        if os.path.isfile(self._model):
            return None
        bundle = Bundle.open(self._model, verify=False)
        return calibrator_from_arrays(bundle.arrays("calibration.npz"))


def _threshold(calibrator: AnyCalibrator | None, scorer: Scorer, summary: ScoreSummary) -> float:
    found = summary.discoveries
    rate = summary.false_alarm_rate if found is None else found.cutoff
    if stated_groups(scorer.calibration) or isinstance(calibrator, GroupedCalibrator):
        return math.nan
    if calibrator is None:
        stated = scorer.calibration
        same = found is None and stated.get("false_alarm_rate") == rate
        return float(stated.get("threshold", math.nan)) if same else math.nan
    if found is not None:
        rate *= 1.0 + 1e-6  # a p-value was rounded to float32: its own score must reach it
    return calibrator.threshold(rate) if 0.0 < rate < 1.0 else math.nan


def render(report: Report) -> str:
    """Return the page as HTML; a function of `report` alone."""
    summary, n = report.summary, report.n_scored
    page = Page(
        kind="report",
        subject=f"on {wording.counted(summary.n_rows, 'row')}",
        model=report.model,
        provenance=report.provenance,
        rows=report.rows,
        drift=report.drift,
        drift_note="All rows with a score are compared, flagged ones too." if n else "",
        sentences=(_lead(report), *summary.cautions),
        statuses=tuple(_statuses(report)),
        figures=_figures(report),
        figures_note="",
        charts=_charts(report) if n else (),
    )
    return render_page(page)


def _lead(report: Report) -> str:
    summary, n = report.summary, report.n_scored
    if not summary.n_rows:
        return "The table has no rows."
    if not n:
        rows = wording.counted(summary.n_rows, "row")
        return f"None of {rows} could be read, hence none has a score."
    flagged = wording.grouped(summary.n_anomalies) if summary.n_anomalies else "none"
    result = f"the model flags {flagged} of {wording.counted(n, 'row')}"
    if summary.n_anomalies:
        result += f" ({wording.percent(summary.n_anomalies / n)})"
    found = summary.discoveries
    if found is not None:
        start = f"At a false-discovery rate of {wording.percent(found.rate)}, {result}"
        if not found.n_flagged:
            return f"{start}."
        bound = "at most" if found.method == "bh" else "about"
        return f"{start}: on average {bound} that share of the flagged rows are normal ones."
    rate = summary.false_alarm_rate
    stored = "its stored" if rate == report.model.rate else "a"
    return (
        f"At {stored} false-alarm rate of {wording.percent(rate)}, {result}; normal rows alone "
        f"would give about {_about(rate * n)}."
    )


def _about(expected: float) -> str:
    return f"{expected:.2g}" if expected < 10 else wording.grouped(round(expected))


def _statuses(report: Report) -> list[Status]:
    summary = report.summary
    statuses = [report.drift.status]
    if summary.n_unreadable:
        rows = wording.counted(summary.n_unreadable, "row")
        first = "; ".join(summary.faults)
        more = "; and more" if summary.n_unreadable > len(summary.faults) else ""
        statuses.append(Status("warn", f"{rows} without a score", f"{first}{more}."))
    if summary.extra_columns:
        names = ", ".join(summary.extra_columns[:_SHOWN_NAMES])
        n_more = len(summary.extra_columns) - _SHOWN_NAMES
        names += f", and {wording.grouped(n_more)} more" if n_more > 0 else ""
        statuses.append(
            Status("warn", "Columns ignored", f"The model does not know them: {names}.")
        )
    return [*statuses, *health_of(report.model)]


def _figures(report: Report) -> tuple[Figure, ...]:
    summary, n = report.summary, report.n_scored
    found, n_flagged = summary.discoveries, summary.n_anomalies
    if found is not None:
        flagged = f"p-value up to {found.cutoff:.2g}" if found.n_flagged else "nothing is flagged"
        share = f"false-discovery rate {wording.percent(found.rate)}"
    else:
        rate = summary.false_alarm_rate
        flagged = f"about {_about(rate * n)} of normal rows alone"
        share = f"asked for {wording.percent(rate)}"
        calibration = report.n_calibration
        if n and calibration is not None and rate * (calibration + 1) >= 1.0:
            low, high = chance_band(calibration, n, rate)
            ends = f"{wording.percent(low)} to {wording.percent(high)}"
            share = f"by chance {ends}"
    unread = "every row could be read" if not summary.n_unreadable else "could not be read"
    return (
        Figure("Rows scored", wording.grouped(n), f"of {wording.grouped(summary.n_rows)}"),
        Figure("Rows flagged", wording.grouped(n_flagged), flagged),
        Figure("Share flagged", wording.percent(n_flagged / n if n else math.nan), share),
        Figure("Without a score", wording.grouped(summary.n_unreadable), unread),
    )


def _charts(report: Report) -> tuple[Chart, ...]:
    summary, tally = report.summary, report.tally
    found = summary.discoveries
    rate = summary.false_alarm_rate if found is None else found.cutoff
    rule = f"at a false-alarm rate of {wording.percent(rate)}"
    if found is not None:
        rule = f"at a false-discovery rate of {wording.percent(found.rate)}"
    return (
        scored_histogram(
            *(tally.scores, report.held_out),
            threshold=report.threshold if math.isfinite(report.threshold) else math.nan,
            n_flagged=summary.n_anomalies,
            rule=rule,
        ),
        p_value_plot(
            *(tally.p_values, tally.up_to),
            n_calibration=report.n_calibration,
            # Rows of a group that counts less are not flagged though they stand to the left.
            decision=math.nan if found is not None and report.n_calibration is None else rate,
            rule=rule,
        ),
    )
