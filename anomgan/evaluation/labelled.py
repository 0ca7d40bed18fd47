"""What a model is worth on labelled rows: ranking, decisions, calibration, and baselines beside it.

The rows are read and scored batch by batch; what stays in memory is a few numbers a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.evaluation.bootstrap import LEVEL, Estimate, compare, ranking_measures
from anomgan.evaluation.known import BASELINES, KnownRows, Yardstick
from anomgan.evaluation.metrics import BestF1, best_f1, conformal_band, share_interval
from anomgan.groups import AnyCalibrator, GroupedCalibrator, stated_groups
from anomgan.serving.scorer import OnBadRow, ScoredBatch, Scorer
from anomgan.tables.labels import LabelReader
from anomgan.tables.readers import TableReader

__all__ = [
    "OURS",
    "CalibrationPoint",
    "Decision",
    "Evaluation",
    "LabelledScores",
    "Observer",
    "evaluate_scores",
    "score_labelled",
]

OURS: Final = "anomgan"
"""Key of the model among the baselines, whatever its detector; `Evaluation.called` has its name."""
RATES: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""False-alarm rates at which the p-values are judged."""

Numbers = NDArray[np.float64]
Observer = Callable[[ScoredBatch, NDArray[np.bool_]], None]


@dataclass(frozen=True)
class LabelledScores:
    """Scores of labelled rows.

    Parameters
    ----------
    labels : bool [n]
        True = anomaly.
    scores : dict of str to float64 [n]
        By detector, ours first.
    p_values : float64 [n]
        Ours.
    rows : int64 [n]
        1-based numbers of the rows in their table.
    rate : float
        False-alarm rate of the decision.
    threshold : float
        Score from which rows are flagged at that rate; NaN where the model does not state it.
    n_calibration : int or None
        Rows behind the p-values.
    source : str
        The table.
    unreadable : tuple of str
        Rows without a score, and why; the first few.
    n_unreadable : int
    calibrated_by : str or None
        Column within whose groups the p-values are calibrated.
    detector : str
        Of the model.
    """

    labels: NDArray[np.bool_]
    scores: dict[str, Numbers]
    p_values: Numbers
    rows: NDArray[np.int64]
    rate: float
    threshold: float
    n_calibration: int | None
    source: str
    unreadable: tuple[str, ...] = ()
    n_unreadable: int = 0
    calibrated_by: str | None = None
    detector: str = "anomgan"


@dataclass(frozen=True)
class Decision:
    """What flagging at one false-alarm rate does to labelled rows.

    Parameters
    ----------
    rate : float
        The rate that was asked for.
    true_positives, false_positives, false_negatives, true_negatives : int
    precision, recall, false_alarms : Estimate
        Intervals by Clopper & Pearson (1934): of these rows as a sample. Precision is NaN where
        nothing is flagged.
    f1 : float
        0 where nothing is flagged.
    """

    rate: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision: Estimate
    recall: Estimate
    false_alarms: Estimate
    f1: float

    @classmethod
    def of(cls, labels: NDArray[np.bool_], flags: NDArray[np.bool_], rate: float) -> Decision:
        """Count, [n] labels and flags."""
        tp, fp = int((labels & flags).sum()), int((~labels & flags).sum())
        fn, tn = int(labels.sum()) - tp, int((~labels).sum()) - fp
        return cls(
            rate=rate,
            true_positives=tp,
            false_positives=fp,
            false_negatives=fn,
            true_negatives=tn,
            precision=_share(tp, tp + fp),
            recall=_share(tp, tp + fn),
            false_alarms=_share(fp, fp + tn),
            f1=2.0 * tp / (2.0 * tp + fp + fn),
        )


@dataclass(frozen=True)
class CalibrationPoint:
    """How often normal rows were flagged at one rate.

    Parameters
    ----------
    rate : float
        Asked for.
    realised : Estimate
        Share of normal rows with a p-value of at most `rate`; interval by Clopper & Pearson.
    band : (float, float) or None
        Where the realised share lies in 95 % of all draws of calibration and new rows, if they
        are alike (`anomgan.evaluation.metrics.conformal_band`); None where the rate is below the
        resolution of the calibration rows, their number is not known, or they are grouped.
    """

    rate: float
    realised: Estimate
    band: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate_scores`.

    Parameters
    ----------
    source : str
    n_rows, n_anomalies, n_unreadable : int
        Rows that were scored; anomalies among them; rows left out.
    measures : dict
        Estimates by detector, ours first, and measure.
    leads : dict of str to Estimate
        Our AUROC less the other's, by detector; intervals from paired draws.
    n_draws : int
        Bootstrap draws behind these intervals.
    best : BestF1
        Of ours.
    threshold : float
        Score from which rows are flagged at the rate of `decision`.
    decision : Decision
    calibration : tuple of CalibrationPoint
    notes : tuple of str
        What limits the figures.
    detector : str
        Of the model.
    """

    source: str
    n_rows: int
    n_anomalies: int
    n_unreadable: int
    measures: dict[str, dict[str, Estimate]]
    leads: dict[str, Estimate]
    n_draws: int
    best: BestF1
    threshold: float
    decision: Decision
    calibration: tuple[CalibrationPoint, ...]
    notes: tuple[str, ...]
    detector: str = "anomgan"

    def called(self, name: str) -> str:
        """Return what people read for a key of `measures`: the model's detector, or a baseline."""
        return self.detector if name == OURS else BASELINES[name]

    def verdict(self) -> str:
        """Return one plain sentence on the best baseline and us; empty without baselines."""
        if not self.leads:
            return ""
        other = min(self.leads, key=lambda name: self.leads[name].value)
        lead = self.leads[other]
        values = [100.0 * self.measures[d]["auroc"].value for d in (OURS, other)]
        digits = next((k for k in (1, 2, 3) if round(values[0], k) != round(values[1], k)), 1)
        ours, theirs = (f"{value:.{digits}f}" for value in values)
        sure = "beyond chance" if lead.low > 0.0 or lead.high < 0.0 else "within chance"
        span = f"95 % of the lead: {100 * lead.low:+.1f} to {100 * lead.high:+.1f} points"
        us, them = self.detector, self.called(other)
        if lead.value < 0.0:
            return (
                f"{them} ranks these rows better than {us}: AUROC {theirs} "
                f"against {ours}, {sure} ({span})."
            )
        return (
            f"{us} ranks these rows {'better than' if lead.value > 0.0 else 'as well as'} the "
            f"best baseline, {them}: AUROC {ours} against {theirs}, {sure} "
            f"({span})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; numbers that do not exist are None."""
        decision = self.decision
        return {
            "source": self.source,
            "detector": self.detector,
            "n_rows": self.n_rows,
            "n_anomalies": self.n_anomalies,
            "n_unreadable": self.n_unreadable,
            "confidence": LEVEL,
            "n_bootstrap_draws": self.n_draws,
            "detectors": {
                self.detector if key == OURS else key: {
                    name: estimate.to_dict() for name, estimate in found.items()
                }
                for key, found in self.measures.items()
            },
            "auroc_leads": {name: lead.to_dict() for name, lead in self.leads.items()},
            "best_f1": {
                "f1": self.best.f1,
                "precision": self.best.precision,
                "recall": self.best.recall,
                "threshold": self.best.threshold,
            },
            "decision": {
                "false_alarm_rate": decision.rate,
                "threshold": _finite(self.threshold),
                "true_positives": decision.true_positives,
                "false_positives": decision.false_positives,
                "false_negatives": decision.false_negatives,
                "true_negatives": decision.true_negatives,
                "precision": _dict(decision.precision),
                "recall": _dict(decision.recall),
                "f1": decision.f1,
                "realised_false_alarm_rate": _dict(decision.false_alarms),
            },
            "calibration": [
                {
                    "false_alarm_rate": point.rate,
                    "realised": _dict(point.realised),
                    "expected_band": None if point.band is None else list(point.band),
                }
                for point in self.calibration
            ],
            "verdict": self.verdict(),
            "notes": list(self.notes),
        }


def score_labelled(
    scorer: Scorer,
    reader: TableReader,
    labels: LabelReader,
    *,
    label: str,
    known: KnownRows | None,
    calibrator: AnyCalibrator | None = None,
    false_alarm_rate: float | None = None,
    on_bad_row: OnBadRow = "error",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    observe: Observer | None = None,
) -> LabelledScores:
    """Score a labelled table, by ours and by baselines.

    Parameters
    ----------
    scorer : Scorer
    reader : TableReader
    labels : LabelReader
        Fresh; tells anomalies by the column `label`.
    label : str
    known : KnownRows or None
        What baselines learn from; None: no baselines.
    calibrator : Calibrator or GroupedCalibrator, optional
        Of the model, to state the threshold of the decision in units of the score; by group there
        is no single one.
    false_alarm_rate : float, optional
        In place of the model's own.
    on_bad_row : "error" or "skip"
    seed : int
        Of the baselines.
    progress : callable, optional
        Called with the rows done after each batch.
    observe : callable, optional
        Called with each batch as scored and which of its rows are anomalies, [n] (False where a
        row could not be read): for what a report keeps of single rows.

    Raises
    ------
    SchemaError, TableError
        The table does not fit the model, or cannot be read.
    UsageError
        The labels do not tell normal rows from others, or the model reads the label as a feature.
    """
    if label in scorer.schema.feature_names:
        raise UsageError(
            f"the model reads {label!r} as a feature, so it cannot be judged by it: fit again with "
            f"--label {label}"
        )
    yardsticks = {name: Yardstick(name, known, seed) for name in BASELINES if known is not None}
    kept: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("labels", "p_values", "rows", OURS, *yardsticks)
    }
    rate, faults, n_unreadable = scorer.false_alarm_rate, list[str](), 0
    scored = scorer.stream_batches(reader, false_alarm_rate=false_alarm_rate, on_bad_row=on_bad_row)
    for item in scored:
        batch, verdicts = item.batch, item.verdicts
        rate, readable = verdicts.false_alarm_rate, ~np.isnan(verdicts.score)
        marks = labels.read(batch.frame, batch.first_row, batch.line_numbers, unreadable=~readable)
        kept["labels"].append(marks[readable])
        kept["p_values"].append(verdicts.p_value[readable].astype(np.float64))
        kept["rows"].append(verdicts.first_row + np.flatnonzero(readable))
        kept[OURS].append(verdicts.score[readable].astype(np.float64))
        for name, yardstick in yardsticks.items():
            kept[name].append(yardstick.score(item.rows)[readable])
        bad = item.rows.faults
        n_unreadable += len(bad)
        faults += [f"{batch.place(i)}, {bad[i]}" for i in sorted(bad)[: 5 - len(faults)]]
        if observe is not None:
            observe(item, marks)
        if progress is not None:
            progress(int(verdicts.first_row + len(verdicts) - 1))
    labels.finish()
    columns = {name: np.concatenate(parts) for name, parts in kept.items()}
    return LabelledScores(
        labels=columns["labels"],
        scores={name: columns[name] for name in (OURS, *yardsticks)},
        p_values=columns["p_values"],
        rows=columns["rows"],
        rate=rate,
        threshold=_threshold(calibrator, rate),
        n_calibration=scorer.calibration.get("n"),
        calibrated_by=scorer.calibration.get("by") if stated_groups(scorer.calibration) else None,
        detector=scorer.detector,
        source=reader.source,
        unreadable=tuple(faults),
        n_unreadable=n_unreadable,
    )


def evaluate_scores(scored: LabelledScores, *, seed: int = 0) -> Evaluation:
    """Judge scores by labels.

    Parameters
    ----------
    scored : LabelledScores
        Both kinds of rows occur.
    seed : int
        Of the bootstrap.

    Raises
    ------
    UsageError
        One kind of rows is absent, as may happen where rows could not be read.
    """
    labels, ours = scored.labels, scored.scores[OURS]
    n, n_anomalies = len(labels), int(labels.sum())
    best = best_f1(labels, ours)
    ks = sorted({k for k in (10, 100, n_anomalies) if k <= n})
    measures, leads, n_draws = compare(labels, scored.scores, ranking_measures(ks), seed=seed)
    normal_p = scored.p_values[~labels]
    # Within groups each has a band of its own, and they do not add up to one of this law.
    n_calibration = scored.n_calibration if scored.calibrated_by is None else None
    points = tuple(_point(normal_p, rate, n_calibration) for rate in RATES)
    return Evaluation(
        source=scored.source,
        n_rows=n,
        n_anomalies=n_anomalies,
        n_unreadable=scored.n_unreadable,
        measures=measures,
        leads=leads,
        n_draws=n_draws,
        best=best,
        threshold=scored.threshold,
        decision=Decision.of(labels, scored.p_values <= np.float32(scored.rate), scored.rate),
        calibration=points,
        notes=_notes(scored),
        detector=scored.detector,
    )


def _threshold(calibrator: AnyCalibrator | None, rate: float) -> float:
    if calibrator is None or isinstance(calibrator, GroupedCalibrator):
        return float("nan")
    return calibrator.threshold(rate)


def _point(p_values: Numbers, rate: float, n_calibration: int | None) -> CalibrationPoint:
    hits = int((p_values <= np.float32(rate)).sum())
    band = None
    if n_calibration is not None and rate * (n_calibration + 1) >= 1.0:
        band = conformal_band(n_calibration, len(p_values), rate)
    return CalibrationPoint(rate, _share(hits, len(p_values)), band)


def _notes(scored: LabelledScores) -> tuple[str, ...]:
    notes = []
    n_anomalies = int(scored.labels.sum())
    if n_anomalies < 20:
        kind = "anomaly" if n_anomalies == 1 else "anomalies"
        notes.append(
            f"only {n_anomalies} {kind}: the intervals understate how little is known of others"
        )
    if scored.calibrated_by is not None:
        notes.append(
            f"the model is calibrated within each group of {scored.calibrated_by!r}: no expected "
            "shares of false alarms are given for all rows together"
        )
    if scored.n_unreadable:
        first = "; ".join(scored.unreadable)
        notes.append(f"{scored.n_unreadable} rows could not be read and are left out: {first}")
    return tuple(notes)


def _share(hits: int, n: int) -> Estimate:
    return Estimate(hits / n if n else float("nan"), *share_interval(hits, n))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _dict(estimate: Estimate) -> Mapping[str, float | None]:
    return {name: _finite(value) for name, value in estimate.to_dict().items()}
