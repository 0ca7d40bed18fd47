"""The page: what is said in words, and the template that puts everything in its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from pathlib import PurePath
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomgan.evaluation.bootstrap import Estimate
from anomgan.evaluation.known import BASELINES
from anomgan.evaluation.labelled import OURS, Evaluation, LabelledScores
from anomgan.evaluation.metrics import conformal_band
from anomgan.report import wording
from anomgan.report.charts import Grid, calibration_plot, ranking_curves, score_histogram
from anomgan.report.facts import ModelFacts, Provenance, schema_grid
from anomgan.report.rows import NotableRows

__all__ = ["Report", "Status", "render"]

_SHOWN_SHARES: Final = 15
# What HTML does not allow, and what would turn the direction of the text around a cell.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Report:
    """What a page shows; sections of what is None are left out.

    Parameters
    ----------
    model : ModelFacts
    provenance : Provenance
    rows : NotableRows, optional
    scored : LabelledScores, optional
        With `evaluation`.
    evaluation : Evaluation, optional
        Of `scored`.
    """

    model: ModelFacts
    provenance: Provenance
    rows: NotableRows | None = None
    scored: LabelledScores | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Status:
    """A judgement in a word or two.

    Parameters
    ----------
    kind : "good", "warn" or "bad"
    text : str
    detail : str
        The sentence behind it.
    """

    kind: str
    text: str
    detail: str


@dataclass(frozen=True)
class _Figure:
    name: str
    value: str
    note: str


def render(report: Report) -> str:
    """Return the page as HTML; a function of `report` alone."""
    provenance = report.provenance
    shares = [c for c in report.rows.shares if c.share > 0.0] if report.rows else []
    content: dict[str, Any] = {
        "report": report,
        "model": report.model,
        "provenance": provenance,
        "title": PurePath(provenance.table).name or provenance.table,
        "made_at": wording.moment(provenance.made_at.isoformat()),
        "made_at_iso": provenance.made_at.astimezone(UTC).isoformat(timespec="seconds"),
        "columns": schema_grid(report.model.schema),
        "rows": report.rows,
        "shares": shares[:_SHOWN_SHARES],
        "n_more_shares": max(len(shares) - _SHOWN_SHARES, 0),
        "statuses": [*_health(report.model)],
        "evaluation": None,
        "sentences": (),
        "figures": (),
        "charts": (),
    }
    if report.evaluation is not None and report.scored is not None:
        content |= _evaluated(report, report.evaluation, report.scored)
    return _environment().get_template("report.html").render(content)


def _evaluated(report: Report, result: Evaluation, scored: LabelledScores) -> dict[str, Any]:
    false_alarms = _false_alarms(result, scored)
    seed = report.provenance.seed or 0
    return {
        "evaluation": result,
        "sentences": (_decision_sentence(result, report.model.rate), result.verdict()),
        "statuses": [false_alarms, *_health(report.model)],
        "figures": _figures(result),
        "charts": (
            score_histogram(scored),
            calibration_plot(result.calibration, result.decision.rate),
            *ranking_curves(scored, result, seed=seed),
        ),
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


def _health(model: ModelFacts) -> list[Status]:
    if not model.health:
        return []
    kind = {"healthy": "good", "degraded": "warn"}.get(model.health, "bad")
    detail = "; ".join(model.reasons) or "no fault was found in it"
    return [Status(kind, f"Training {model.health}", f"{detail[0].upper()}{detail[1:]}.")]


def _figures(result: Evaluation) -> tuple[_Figure, ...]:
    decision, auroc = result.decision, result.measures[OURS]["auroc"]
    ends = f"{auroc.low:.3f} to {auroc.high:.3f}"
    return (
        _Figure("AUROC", f"{auroc.value:.3f}", ends),
        _share("Anomalies found", decision.recall),
        _share("Flagged rows that are anomalies", decision.precision),
        _share("Normal rows flagged", decision.false_alarms),
    )


def _share(name: str, estimate: Estimate) -> _Figure:
    value = wording.percent(estimate.value)
    if value == "–":
        return _Figure(name, value, "nothing is flagged")
    return _Figure(name, value, wording.percent_span(estimate))


def _measures(result: Evaluation) -> Grid:
    detectors = list(result.measures)
    return Grid(
        ("ranking", *(BASELINES.get(name, name) for name in detectors)),
        tuple(
            (
                wording.measure_name(measure),
                *(wording.span(result.measures[d][measure]) for d in detectors),
            )
            for measure in result.measures[OURS]
        ),
    )


def _leads(result: Evaluation) -> Grid:
    rows = tuple((BASELINES[name], wording.span(lead)) for name, lead in result.leads.items())
    return Grid(("AUROC of anomgan less that of", "lead"), rows)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("anomgan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.tests["extrapolated"] = wording.is_extrapolated
    environment.filters |= {
        "grouped": wording.grouped,
        "moment": wording.moment,
        "percent": wording.percent,
        "span": wording.span,
    }
    return environment


def _printable(value: Any) -> Any:
    """Replace characters that a page may not hold; texts of tables may hold any."""
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        return type(value)(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value))
    return value
