"""The report of an evaluation: a page with charts and figures that labels allow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.evaluation.bootstrap import Estimate
from anomgan.evaluation.labelled import OURS, Evaluation, LabelledScores
from anomgan.evaluation.metrics import conformal_band
from anomgan.report import wording
from anomgan.report.chart import Grid
from anomgan.report.charts import calibration_plot, ranking_curves, score_histogram
from anomgan.report.drift import DriftSection, Status
from anomgan.report.facts import ModelFacts, Provenance
from anomgan.report.files import ReportFile
from anomgan.report.page import Figure, Page, health_of, render_page
from anomgan.report.rows import NotableRows
from anomgan.serving.drift import DriftMonitor
from anomgan.serving.scorer import ScoredBatch, Scorer

__all__ = ["EvaluationReport", "Report", "render"]


@dataclass(frozen=True)
class Report:
    """What the page of an evaluation shows.

    Parameters
    ----------
    model : ModelFacts
    provenance : Provenance
    rows : NotableRows
    scored : LabelledScores
    evaluation : Evaluation
        Of `scored`.
    drift : DriftSection
    """

    model: ModelFacts
    provenance: Provenance
    rows: NotableRows
    scored: LabelledScores
    evaluation: Evaluation
    drift: DriftSection


class EvaluationReport(ReportFile):
    """A report to write: `add` watches the scoring, `write` adds the result.

    A context manager, as `ReportFile`.

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
        super().__init__(output, {"the table": table}, model=os.fspath(model))
        self._rows = NotableRows(scorer, label=label)
        self._monitor = None if scorer.profile is None else DriftMonitor(scorer)
        self._table, self._model, self._scorer = table, model, scorer

    def add(self, item: ScoredBatch, anomalies: NDArray[np.bool_]) -> None:
        """See one batch; `anomalies` [n] by their labels."""
        self._rows.add(item, anomalies)
        if self._monitor is not None:
            self._monitor.update(item.rows, item.verdicts)

    def write(
        self, scored: LabelledScores, result: Evaluation, *, made_at: datetime, seed: int
    ) -> None:
        """Write the page.

        Parameters
        ----------
        scored : LabelledScores
            Of the same walk that `add` watched.
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
        found = None if self._monitor is None else self._monitor.report()
        report = Report(
            model=ModelFacts.of(self._model, self._scorer),
            provenance=Provenance.of(self._table, self._scorer, made_at=made_at, seed=seed),
            rows=self._rows,
            scored=scored,
            evaluation=result,
            drift=DriftSection.of(found, self._scorer.schema),
        )
        self.write_page(render(report))


def render(report: Report) -> str:
    """Return the page as HTML; a function of `report` alone."""
    result, scored = report.evaluation, report.scored
    statuses = [_false_alarms(result, scored), *health_of(report.model), report.drift.status]
    statuses += [Status("warn", "Note", f"{n[0].upper()}{n[1:]}.") for n in result.notes]
    n_rows = wording.grouped(result.n_rows)
    n_anomalies = wording.grouped(result.n_anomalies)
    them = "an anomaly" if result.n_anomalies == 1 else "anomalies"
    page = Page(
        kind="evaluation",
        subject=f"on {n_rows} labelled rows, {n_anomalies} of them {them}",
        model=report.model,
        provenance=report.provenance,
        rows=report.rows,
        drift=report.drift,
        drift_note="All rows of the table are compared, anomalies too, as anomgan score does it.",
        sentences=(_decision_sentence(result, report.model.rate), result.verdict()),
        statuses=tuple(statuses),
        figures=_figures(result),
        figures_note="Below each figure: its 95 % interval.",
        charts=(
            score_histogram(scored),
            calibration_plot(result.calibration, result.decision.rate),
            *ranking_curves(scored, result, seed=report.provenance.seed or 0),
        ),
    )
    return render_page(page, **_evaluated(result))


def _evaluated(result: Evaluation) -> dict[str, Any]:
    return {
        "evaluation": result,
        "measures": _measures(result),
        "leads": _leads(result),
        "n_normal": result.n_rows - result.n_anomalies,
        "n_flagged": result.decision.true_positives + result.decision.false_positives,
    }


def _decision_sentence(result: Evaluation, stored_rate: float) -> str:
    decision = result.decision
    n_normal = result.n_rows - result.n_anomalies
    stored = "its stored" if decision.rate == stored_rate else "a"
    return (
        f"At {stored} false-alarm rate of {wording.percent(decision.rate)}, the model finds "
        f"{wording.grouped(decision.true_positives)} of "
        f"{wording.counted(result.n_anomalies, 'anomaly', 'anomalies')} "
        f"({wording.percent(decision.recall.value)}) and flags "
        f"{wording.grouped(decision.false_positives)} of {wording.counted(n_normal, 'normal row')} "
        f"by mistake ({wording.percent(decision.false_alarms.value)})."
    )


def _false_alarms(result: Evaluation, scored: LabelledScores) -> Status:
    """Judge the realised false-alarm rate by what the calibration rows allow."""
    decision, n = result.decision, scored.n_calibration
    n_normal = result.n_rows - result.n_anomalies
    realised, asked = decision.false_alarms, wording.percent(decision.rate)
    if scored.calibrated_by is not None:
        why = f"The model is calibrated within each group of {scored.calibrated_by!r}."
        return Status("warn", "False alarms not judged", why)
    if n is None:
        return Status("warn", "False alarms not judged", "The calibration rows are not known.")
    if decision.rate * (n + 1) < 1.0:
        return Status(
            "warn",
            "False alarms extrapolated",
            f"{wording.counted(n, 'calibration row')} cannot resolve a rate of {asked}, only "
            f"{wording.percent(1.0 / (n + 1))}: the threshold is an extrapolation.",
        )
    low, high = conformal_band(n, n_normal, decision.rate)
    allowed = (
        f"chance allows {wording.percent(low)} to {wording.percent(high)} at a rate of {asked}"
    )
    got = f"{wording.percent(realised.value)} of the normal rows are flagged; {allowed}"
    if realised.value > high:
        return Status(
            "bad",
            "More false alarms than asked for",
            f"{got}. The normal rows of this table are not like the training rows.",
        )
    if realised.value < low:
        return Status("warn", "Fewer false alarms than asked for", f"{got}.")
    return Status("good", "False alarms as asked for", f"{got}.")


def _figures(result: Evaluation) -> tuple[Figure, ...]:
    decision, auroc = result.decision, result.measures[OURS]["auroc"]
    ends = f"{auroc.low:.3f} to {auroc.high:.3f}"
    return (
        Figure("AUROC", f"{auroc.value:.3f}", ends),
        _share("Anomalies found", decision.recall),
        _share("Flagged rows that are anomalies", decision.precision),
        _share("Normal rows flagged", decision.false_alarms),
    )


def _share(name: str, estimate: Estimate) -> Figure:
    value = wording.percent(estimate.value)
    if value == "–":
        return Figure(name, value, "nothing is flagged")
    return Figure(name, value, wording.percent_span(estimate))


def _measures(result: Evaluation) -> Grid:
    detectors = list(result.measures)
    return Grid(
        ("ranking", *(result.called(name) for name in detectors)),
        tuple(
            (
                wording.measure_name(measure),
                *(wording.span(result.measures[d][measure]) for d in detectors),
            )
            for measure in result.measures[OURS]
        ),
    )


def _leads(result: Evaluation) -> Grid:
    rows = tuple((result.called(name), wording.span(lead)) for name, lead in result.leads.items())
    return Grid((f"AUROC of {result.detector} less that of", "lead"), rows)
