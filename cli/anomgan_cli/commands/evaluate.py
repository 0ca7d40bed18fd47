"""``anomgan evaluate``: what a model is worth on labelled rows."""

from __future__ import annotations

import math
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    FalseAlarmRate,
    Model,
    NormalLabels,
    OnBadRow,
    Provider,
    ProviderOption,
    Quiet,
)
from anomgan_cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from anomgan.evaluation.known import KnownRows
    from anomgan.evaluation.labelled import Evaluation
    from anomgan.groups import AnyCalibrator
    from anomgan.report.evaluated import EvaluationReport
    from anomgan.serving import Scorer

__all__ = ["evaluate"]

Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="Labelled CSV, Parquet or Arrow file; - is stdin."),
]
Label = Annotated[
    str, typer.Option(metavar="COLUMN", help="Column that tells anomalies from normal rows.")
]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="IsolationForest and 1-NN distance beside ours, on the rows that the model keeps.",
    ),
]
BadRow = Annotated[
    OnBadRow, typer.Option(help="A row that cannot be read: stop, or leave it out and say so.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of intervals and baselines.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]
ReportFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write an HTML page as well: charts, the rows that matter, the model; one file.",
    ),
]


@guarded
def evaluate(
    table: Table,
    label: Label,
    normal: NormalLabels = None,
    model: Model = "anomgan-model",
    false_alarm_rate: FalseAlarmRate = None,
    baselines: Baselines = True,
    on_bad_row: BadRow = OnBadRow.ERROR,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    provider: ProviderOption = Provider.AUTO,
    seed: Seed = 0,
    report: ReportFile = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Judge a model by labelled rows: ranking, decisions and calibration, with intervals."""
    from anomgan.evaluation.labelled import evaluate_scores, score_labelled
    from anomgan.serving import Scorer
    from anomgan.tables import LabelReader
    from anomgan.tables.readers import open_table
    from anomgan_cli.render import say, scoring_progress

    scorer = Scorer.open(model, providers=provider.value)
    known, calibrator = _of_model(model, baselines=baselines)
    bad: Literal["error", "skip"] = "skip" if on_bad_row is OnBadRow.SKIP else "error"
    with ExitStack() as opened:
        reader = opened.enter_context(
            open_table(table, delimiter=delimiter, encoding=encoding, on_bad_row=bad)
        )
        page = None if report is None else _page(report, reader.source, model, scorer, label)
        if page is not None:  # before scoring: a place that cannot be written is said at once
            opened.enter_context(page)
        with scoring_progress(reader, quiet=quiet) as progress:
            scored = score_labelled(
                *(scorer, reader, LabelReader(label, normal or (), reader.source)),
                label=label,
                known=known,
                calibrator=calibrator,
                false_alarm_rate=false_alarm_rate,
                on_bad_row=bad,
                seed=seed,
                progress=progress,
                observe=None if page is None else page.add,
            )
        result = evaluate_scores(scored, seed=seed)
        if page is not None:
            page.write(scored, result, made_at=datetime.now(UTC), seed=seed)
    if as_json:
        echo_json(result.to_dict())
    else:
        _write(result)
    if report is not None and not quiet:
        say(f"Report: {report}")


def _page(output: str, table: str, model: str, scorer: Scorer, label: str) -> EvaluationReport:
    from anomgan.report.evaluated import EvaluationReport

    return EvaluationReport(output, table=table, model=model, scorer=scorer, label=label)


def _of_model(model: str, *, baselines: bool) -> tuple[KnownRows | None, AnyCalibrator | None]:
    """Return what a model directory keeps beside its scorer; a bare scorer keeps neither."""
    from pathlib import Path

    from anomgan.bundle import Bundle
    from anomgan.evaluation.known import KnownRows
    from anomgan.groups import calibrator_from_arrays
    from anomgan_cli.render import say

    if Path(model).is_file():
        if baselines:
            say("No baselines: a scorer on its own keeps no rows that they could learn from.")
        return None, None
    bundle = Bundle.open(model, verify=False)
    known = KnownRows.of(bundle) if baselines else None
    return known, calibrator_from_arrays(bundle.arrays("calibration.npz"))


def _write(result: Evaluation) -> None:
    """Print the result as people read it."""
    from anomgan.evaluation.labelled import OURS
    from anomgan.report.wording import band, measure_name, span
    from anomgan_cli.render import table

    share = 100.0 * result.n_anomalies / result.n_rows
    echo(f"{result.source}: {result.n_rows} rows, {result.n_anomalies} anomalies ({share:.3g} %)")
    echo()
    detectors = list(result.measures)
    headers = ["ranking", *(result.called(name) for name in detectors)]
    table(
        headers,
        [
            [measure_name(measure), *(span(result.measures[d][measure]) for d in detectors)]
            for measure in result.measures[OURS]
        ],
    )
    echo()
    for line in (*_decision_lines(result), ""):
        echo(line)
    table(
        ["false-alarm rate asked for", "realised on normal rows", "expected in 95 of 100 cases"],
        [
            [f"{point.rate:g}", span(point.realised), band(point.band)]
            for point in result.calibration
        ],
    )
    echo()
    for line in (result.verdict(), *(f"Note: {note}." for note in result.notes)):
        if line:
            echo(line)
    echo(
        f"In brackets: 95 % intervals, of rankings by {result.n_draws} bootstrap draws, of shares "
        "by Clopper and Pearson."
    )


def _decision_lines(result: Evaluation) -> list[str]:
    from anomgan.report.wording import span

    decision = result.decision
    flagged = decision.true_positives + decision.false_positives
    from_score = "" if math.isnan(result.threshold) else f" (score from {result.threshold:.6g})"
    return [
        f"At a false-alarm rate of {decision.rate:g}{from_score}: {flagged} of {result.n_rows} "
        f"rows flagged; {decision.true_positives} of {result.n_anomalies} anomalies found, "
        f"{decision.false_positives} of {result.n_rows - result.n_anomalies} normal rows flagged.",
        f"precision {span(decision.precision)}, recall {span(decision.recall)}, "
        f"F1 {decision.f1:.4f}, realised false-alarm rate {span(decision.false_alarms)}",
    ]
