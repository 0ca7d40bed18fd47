"""``anomgan score``: rows in, scores out."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from anomgan_cli.exits import ANOMALIES_FOUND, guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    FalseAlarmRate,
    Model,
    OnBadRow,
    OutputFormat,
    Provider,
    ProviderOption,
    Quiet,
)

if TYPE_CHECKING:
    from anomgan.report.scored import ScoreReport
    from anomgan.serving import Scorer

__all__ = ["default_output", "score"]


class FdrMethod(StrEnum):
    """How `--fdr` is kept."""

    BH = "bh"
    STOREY = "storey"


Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="CSV, Parquet or Arrow file; - reads CSV from stdin."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Where scores go; - is stdout.",
        show_default="TABLE.scores.csv",
    ),
]
Format = Annotated[
    OutputFormat | None,
    typer.Option("--format", help="Format of the scores; by default as FILE ends, else csv."),
]
KeepColumns = Annotated[
    bool, typer.Option("--keep-columns", help="Copy the columns of the table beside the scores.")
]
TopFeatures = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Add a column `reason` that names the N largest contributions."
    ),
]
BadRow = Annotated[
    OnBadRow,
    typer.Option(help="A row that cannot be read: stop, or keep it without a score and say why."),
]
Fdr = Annotated[
    float | None,
    typer.Option(
        "--fdr",
        metavar="RATE",
        help="Instead of --false-alarm-rate: share of the flagged rows that may be normal, decided "
        "over the whole table.",
    ),
]
Method = Annotated[
    FdrMethod | None,
    typer.Option(
        "--fdr-method",
        help="How --fdr is kept: Benjamini-Hochberg, or that with Storey's estimate of the share "
        "of normal rows, for tables with many anomalies.",
        show_default="bh",
    ),
]
Extrapolate = Annotated[
    bool,
    typer.Option(
        "--fdr-extrapolate",
        help="Let --fdr rest on p-values beyond the calibration rows, as the tail extrapolates "
        "them: more flags where few rows are abnormal, but the rate is no longer kept.",
    ),
]
NoDrift = Annotated[
    bool,
    typer.Option("--no-drift", help="Do not compare the rows as a whole with the training rows."),
]
ReportFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write an HTML page as well: charts, the rows that matter, drift, the model; one "
        "file.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a scoring that was killed, and keep what is done if this one is stopped: "
        "CSV or JSON lines of a file.",
    ),
]
FailOnAnomaly = Annotated[
    bool, typer.Option("--fail-on-anomaly", help="Exit with 3 if any row is flagged.")
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads; by default one a processor.")
]


@guarded
def score(
    table: Table,
    model: Model = "anomgan-model",
    output: Output = None,
    format_: Format = None,
    keep_columns: KeepColumns = False,
    top_features: TopFeatures = 0,
    false_alarm_rate: FalseAlarmRate = None,
    fdr: Fdr = None,
    fdr_method: Method = None,
    fdr_extrapolate: Extrapolate = False,
    on_bad_row: BadRow = OnBadRow.ERROR,
    no_drift: NoDrift = False,
    report: ReportFile = None,
    resume: Resume = False,
    fail_on_anomaly: FailOnAnomaly = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    provider: ProviderOption = Provider.AUTO,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score new rows; writes row, score, p_value and is_anomaly, one line a row."""
    from anomgan.serving import Scorer
    from anomgan.serving.files import score_table
    from anomgan.serving.writers import format_of
    from anomgan.tables.readers import open_table
    from anomgan_cli.render import say_score, scoring_progress

    target = output or default_output(table, format_)
    scorer = Scorer.open(model, providers=provider.value, threads=threads)
    bad: Literal["error", "skip"] = "skip" if on_bad_row is OnBadRow.SKIP else "error"
    method: Literal["bh", "storey"] | None = None if fdr_method is None else fdr_method.value
    with ExitStack() as opened:
        source = open_table(table, delimiter=delimiter, encoding=encoding, on_bad_row=bad)
        reader = opened.enter_context(source)
        page = _page(report, (reader.source, target), model, scorer, fdr, method, opened)
        with scoring_progress(reader, quiet=quiet) as progress:
            summary = score_table(
                *(scorer, reader, target),
                fmt=format_of(target, format_),
                false_alarm_rate=false_alarm_rate,
                false_discovery_rate=fdr,
                fdr_method=method,
                fdr_extrapolate=fdr_extrapolate,
                on_bad_row=bad,
                keep_columns=keep_columns,
                top_features=top_features,
                drift=not no_drift,
                resume=resume,
                progress=progress,
                observe=None if page is None else page.add,
            )
        if page is not None:
            page.write(summary, made_at=datetime.now(UTC), drift_switched_off=no_drift)
    if not quiet:
        _say_how_begun(summary.continued_after, resume=resume)
        say_score(summary, scorer, report=report)
    if fail_on_anomaly and summary.n_anomalies:
        raise typer.Exit(ANOMALIES_FOUND)


def _say_how_begun(n_rows: int, *, resume: bool) -> None:
    from anomgan_cli.render import count, say

    if n_rows:
        say(f"Went on after {count(n_rows, 'row')} that had been scored before.")
    elif resume:
        say("There was nothing to go on from: scored from the start.", "yellow")


def _page(
    report: str | None,
    files: tuple[str, str],
    model: str,
    scorer: Scorer,
    fdr: float | None,
    method: Literal["bh", "storey"] | None,
    opened: ExitStack,
) -> ScoreReport | None:
    """Open the page of the scores of a table, if any: `files` are the table and its scores.

    That is before scoring: a place that cannot be written is said at once.
    """
    if report is None:
        return None
    from anomgan.report.scored import ScoreReport

    page = ScoreReport(
        report,
        table=files[0],
        scores=files[1],
        model=model,
        scorer=scorer,
        false_discovery_rate=fdr,
        fdr_method=method or "bh",
    )
    return opened.enter_context(page)


def default_output(table: str, fmt: str | None) -> str:
    """Return ``new.scores.csv`` for ``data/new.csv.gz``; stdout for stdin."""
    if table == "-":
        return "-"
    path = Path(table)
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return f"{path.stem}.scores.{fmt or 'csv'}"
