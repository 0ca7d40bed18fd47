"""What people read: summaries, tables and progress on stderr; data alone on stdout.

rich is imported inside the functions: ``anomgan --help`` must stay quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anomgan_cli.terminal import printer, say, stderr, table

if TYPE_CHECKING:
    from anomgan.bundle import Manifest
    from anomgan.evaluation.benchmark import Run
    from anomgan.evaluation.generators import ModelQuality
    from anomgan.evaluation.summary import Summary
    from anomgan.serving.drift import DriftReport
    from anomgan.serving.files import ScoreSummary
    from anomgan.serving.scorer import Scorer
    from anomgan.tables.readers import TableReader
    from anomgan.tables.schema import Schema

__all__ = [
    "benchmark_progress",
    "say",
    "say_failures",
    "say_fit",
    "say_interface",
    "say_quality",
    "say_rounding",
    "say_schema",
    "say_score",
    "say_student",
    "scoring_progress",
    "stderr",
    "table",
    "training_progress",
    "write_groups",
    "write_inspection",
    "write_quality",
    "write_summary",
]

_NOTABLE_LOSS = 1.0
"""Points of AUROC that a fast scorer may lose before that is said to be a loss."""

_SHOWN_CATEGORIES = 6
_SHOWN_DEPARTURES = 5
_SHOWN_GROUPS = 12

TrainingProgress = Callable[[int, int, Mapping[str, float | str]], None]
BenchmarkProgress = Callable[[int, int, Any], None]


def count(n: int, noun: str) -> str:
    """Return ``1 row`` or ``12 345 rows``."""
    grouped = f"{n:,}".replace(",", " ")
    return f"{grouped} {noun}" if n == 1 else f"{grouped} {noun}s"


@contextmanager
def scoring_progress(reader: TableReader, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Show how far a table has come; nothing where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}")
    with Progress(
        text, BarColumn(), TimeRemainingColumn(), console=stderr(), transient=True
    ) as bar:
        task = bar.add_task("Scoring", total=reader.bytes_total)

        def advance(n_rows: int) -> None:
            done = min(reader.bytes_read, reader.bytes_total or 0)
            bar.update(task, completed=done, description=f"Scored {count(n_rows, 'row')}")

        yield advance


@contextmanager
def training_progress(*, quiet: bool) -> Iterator[TrainingProgress | None]:
    """Show the steps of training with losses and health; nothing where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn("Training", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1)),
    )
    with Progress(*columns, console=stderr(), transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)

        def advance(step: int, total: int, facts: Mapping[str, float | str]) -> None:
            shown = "  ".join(
                f"{_short(name)} {_fact(value)}" for name, value in facts.items() if name != "step"
            )
            bar.update(task, completed=step, total=total, description=shown)

        yield advance


def _result(run: Run) -> str:
    what = f"{run.set} {run.protocol} seed {run.seed} {run.method}"
    if run.error:
        return f"{what}: failed"
    return f"{what}: AUROC {100 * run.auroc:.2f}, fit {run.fit_s:.3g} s"


@contextmanager
def benchmark_progress(
    *, quiet: bool, words: Callable[[Any], str] = _result
) -> Iterator[BenchmarkProgress | None]:
    """Show a bar of results in words; where stderr is no terminal, a line a result."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        yield lambda done, total, run: say(f"{done}/{total} {words(run)}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=stderr(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, run: bar.update(
            task, completed=done, total=total, description=words(run)
        )


def write_summary(summary: Summary, *, markdown: bool) -> None:
    """Write the table of a suite and a protocol on stdout."""
    from anomgan.evaluation.summary import markdown_table, plain_table

    if markdown:
        sys.stdout.write(markdown_table(summary) + "\n")
    else:
        table(*plain_table(summary))
    what = f"{summary.suite}, protocol {summary.protocol}, {count(len(summary.sets), 'set')}"
    say(f"{what}; lead, wins and losses are those of {summary.against} over each method.")
    if summary.left_out:
        say(f"Left out, a method has no result: {', '.join(summary.left_out)}", "yellow")


def say_failures(runs: Sequence[Run], output: str, *, quiet: bool) -> None:
    """Say which runs failed, and where all of them are."""
    for run in runs:
        if run.error:
            say(f"Failed: {run.set} seed {run.seed} {run.method}: {run.error}", "red")
    if not quiet:
        say(f"Every run: {output}")


def _short(name: str) -> str:
    """Shorten the name of a loss: a terminal has eighty columns."""
    return name.replace("discriminator.", "d.").replace("generator.", "g.")


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_fact(entry) for entry in value)
    return "none" if value is None else str(value)


def say_schema(schema: Schema) -> None:
    """Say which columns are not used, and how to force them."""
    for aside in schema.set_aside:
        say(f"Set aside: {aside.detail}", "yellow")
    for note in schema.notes:
        say(f"Note: {note}", "yellow")


def say_fit(manifest: Manifest, path: str) -> None:
    """Say what was trained, how well, and what to do with it."""
    verdict = manifest.health["verdict"]
    reasons = "; ".join(manifest.health.get("reasons", ()))
    style = {"healthy": "green", "degraded": "yellow"}.get(verdict, "red")
    say(f"Training: {verdict}{': ' + reasons if reasons else ''}", style)
    for note in manifest.training.get("notes", ()):
        say(f"Note: {note}", "yellow")
    from anomgan.groups import stated_groups

    calibration = manifest.calibration
    rate, resolution = calibration["false_alarm_rate"], calibration["resolution"]
    beyond = f"; extrapolated, they resolve {resolution:.2g}" if rate < resolution else ""
    grouped = stated_groups(calibration)
    n_rows = count(calibration["n"], "held-out normal row")
    if manifest.training.get("calibration") == "cross":
        n_rows = f"{count(calibration['n'], 'normal row')}, each by a network that never saw it"
    if grouped:
        say(f"Flags rows at a false-alarm rate of {rate:g} within each group, from {n_rows}:")
        write_groups(calibration, most=_SHOWN_GROUPS, on_stderr=True)
    else:
        say(
            f"Flags rows with a score of at least {calibration['threshold']:.4g}: a false-alarm "
            f"rate of {rate:g}, from {n_rows}{beyond}."
        )
    say(f"Model: {path}. Score new rows with: anomgan score new.csv{_model_option(path)}")


def write_groups(
    calibration: Mapping[str, Any], *, most: int | None = None, on_stderr: bool = False
) -> None:
    """Write the groups that a model is calibrated by, at most so many of them."""
    from anomgan.groups import stated_groups

    groups = stated_groups(calibration)
    shown = list(groups.items())[:most]
    rate, rows = calibration["false_alarm_rate"], []
    for name, own in [*shown, ("(all other rows)", calibration)]:
        how = "extrapolated" if rate < own["resolution"] else "counted"
        rows.append([name, str(own["n"]), f"{own['threshold']:.6g}", how])
    headers = [calibration["by"], "calibration rows", "score threshold", "rate"]
    table(headers, rows, on_stderr=on_stderr)
    if len(groups) > len(shown):
        say(f"and {count(len(groups) - len(shown), 'more group')}: see anomgan inspect")


def _model_option(path: str) -> str:
    from shlex import quote

    from anomgan.bundle import DEFAULT_MODEL

    return "" if path == DEFAULT_MODEL else f" -m {quote(path)}"


def say_score(summary: ScoreSummary, scorer: Scorer, *, report: str | None = None) -> None:
    """Say how many rows were flagged, which stand out, and where scores and report are."""
    _say_ignored(summary.extra_columns)
    found = count(summary.n_anomalies, "anomaly").replace("anomalys", "anomalies")
    say(
        f"{found} in {count(summary.n_rows, 'row')} at {_rule(summary)}.",
        "bold" if summary.n_anomalies else None,
    )
    for caution in summary.cautions:
        say(caution, "yellow")
    if summary.drift is not None:
        _say_drift(summary.drift)
    if summary.n_unreadable:
        say(f"{count(summary.n_unreadable, 'row')} could not be read, hence no score:", "yellow")
        for fault in summary.faults:
            say(f"  {fault}", "yellow")
    if summary.n_anomalies:
        rows = [
            [
                _name(top.row, top.identifier),
                f"{top.score:.4g}",
                _p_value(top.p_value, top.resolution),
                top.reason,
            ]
            for top in summary.top
        ]
        table(["most abnormal", "score", "p-value", "reason"], rows, on_stderr=True)
    processor = scorer.provider.removesuffix("ExecutionProvider")
    note = f"; {scorer.provider_note}" if scorer.provider_note else ""
    speed = f"{summary.seconds:.1f} s on {processor}{note}"
    place = "standard output" if summary.output == "-" else summary.output
    say(f"Scores: {place} ({speed})")
    if report is not None:
        say(f"Report: {report}")


def _say_ignored(columns: Sequence[str]) -> None:
    if columns:
        say(f"Ignored columns that the model does not know: {', '.join(columns)}", "yellow")


def say_quality(quality: ModelQuality) -> None:
    """Say what of the table did not count."""
    _say_ignored(quality.extra_columns)
    if quality.n_unreadable:
        say(f"{count(quality.n_unreadable, 'row')} could not be read and were left out.", "yellow")


def _rule(summary: ScoreSummary) -> str:
    """Return what the flags keep to, in words that follow "at"."""
    found = summary.discoveries
    if found is None:
        rate = summary.false_alarm_rate
        about = _about(rate * (summary.n_rows - summary.n_unreadable))
        return f"a false-alarm rate of {rate:g} (normal rows alone would give about {about})"
    facts = [f"p-value up to {found.cutoff:.2g}"] if found.n_flagged else []
    if found.method == "storey":
        share = 100.0 * min(found.normal_share, 1.0)
        facts.append(f"{share:.3g} % of the rows estimated normal")
    return f"a false-discovery rate of {found.rate:g}" + (f" ({'; '.join(facts)})" if facts else "")


def _say_drift(report: DriftReport) -> None:
    """Say in which columns the rows as a whole differ from those of training."""
    if not report.departures:
        return
    tables = count(round(1.0 / report.alpha), "table")
    say(
        f"Drift: {count(report.n_rows, 'row')} taken together differ from the training rows (by "
        f"chance in at most one of {tables}):",
        "yellow",
    )
    scores = [d for d in report.departures if d.column is None]
    columns = [d for d in report.departures if d.column is not None]
    for departure in [*scores, *columns[:_SHOWN_DEPARTURES]]:
        say(f"  {departure}", "yellow")
    more = len(columns) - _SHOWN_DEPARTURES
    if more > 0:
        say(f"  and {count(more, 'more column')}", "yellow")


def _about(expected: float) -> str:
    return f"{expected:.2g}" if expected < 10 else f"{round(expected):,}".replace(",", " ")


def _name(row: int, identifier: str | None) -> str:
    return f"row {row}" if identifier is None else f"row {row} ({identifier})"


def _p_value(p_value: float, resolution: float) -> str:
    """Mark what lies beyond the resolution of the calibration rows as an extrapolation."""
    from anomgan.calibration import is_extrapolated

    return f"{p_value:.2g}{' (extrapolated)' if is_extrapolated(p_value, resolution) else ''}"


def say_interface(scorer: Scorer, path: str) -> None:
    """Say how to call an exported scorer."""
    schema = scorer.schema
    say(f"Scorer: {path if path != '-' else 'standard output'} (one file; needs onnxruntime alone)")
    rows = []
    for name, kind, columns in (
        ("numeric", "double", schema.numeric_names),
        ("categorical", "string", schema.categorical_names),
    ):
        if columns:
            rows.append([f"input {name}", f"{kind} [N, {len(columns)}]", ", ".join(columns)])
    rate = f"optional, by default {scorer.false_alarm_rate:g}"
    rows.append(["input false_alarm_rate", "float []", rate])
    rows.append(["output score", "float [N]", "rises with abnormality"])
    rows.append(["output p_value", "float [N]", "how rare so high a score is among normal rows"])
    rows.append(["output is_anomaly", "bool [N]", "p_value <= false_alarm_rate"])
    width = len(scorer.feature_names)
    names = ", ".join(scorer.feature_names)
    rows.append(["output contributions", f"float [N, {width}]", f"shares of the score: {names}"])
    table(["name", "type", "meaning"], rows, on_stderr=True)


def say_student(facts: Mapping[str, float]) -> None:
    """Say how near a fast scorer comes to the score it was taught."""
    fast, full = (100.0 * facts[name] for name in ("auroc_fast", "auroc_full"))
    say(
        f"Fast scorer: ranks held-out rows like the full score to {facts['rank_correlation']:.3f} "
        f"(rank correlation), and tells mixed rows from them with an AUROC of {fast:.2f} against "
        f"{full:.2f}."
    )
    if fast < full - _NOTABLE_LOSS:
        say("That is a loss: keep the full scorer where accuracy matters more than time.", "yellow")


def say_rounding(facts: Mapping[str, float]) -> None:
    """Say what float16 does to the scores."""
    change = 100.0 * (facts["auroc_fp16"] - facts["auroc_fp32"])
    say(
        "Networks in float16, rounded as on a GPU: scores of known rows that are left out, and of "
        f"mixtures of them, change by up to {facts['p99_relative']:.1e} of themselves in 99 of 100 "
        f"(rank correlation {facts['rank_correlation']:.6f}), and those of rows far out by up to "
        f"{facts['far_relative']:.1e}. The AUROC with which they tell mixtures from rows changes "
        f"by {change:+.3f} points of {100.0 * facts['auroc_fp32']:.2f}."
    )


def write_inspection(manifest: Manifest, path: str, schema: Schema) -> None:
    """Write everything that a model says of itself on stdout."""
    from anomgan.groups import stated_groups

    print_out = printer()
    print_out(f"{path}: {manifest.health['verdict']}, made {manifest.created_at}")
    for reason in manifest.health.get("reasons", ()):
        print_out(f"  {reason}")
    _write_schema(schema, print_out)
    calibration = {k: v for k, v in manifest.calibration.items() if k != "groups"}
    for title, facts in (
        ("Training", manifest.training),
        ("Parameters", manifest.parameters),
        ("Calibration", calibration),
        ("Versions", {"anomgan": manifest.anomgan_version, **manifest.library_versions}),
    ):
        print_out(f"\n{title}")
        table(["name", "value"], [[name, text] for name, text in _flat(facts)])
    if stated_groups(manifest.calibration):
        print_out(f"\nCalibration by {manifest.calibration['by']}")
        write_groups(manifest.calibration)
    print_out("\nFiles (checksums verified)")
    table(
        ["file", "bytes", "sha256"],
        [[name, str(r["bytes"]), r["sha256"]] for name, r in manifest.files.items()],
    )


def write_quality(quality: ModelQuality) -> None:
    """Write a table of the generators' measures on stdout, a column a member."""
    from anomgan.evaluation.generators import IDEALS

    readable = quality.n_rows - quality.n_unreadable
    drawn = "" if quality.n_judged == readable else f" of {readable}, drawn at random"
    printer()(f"\nGenerators by {count(quality.n_judged, 'row')}{drawn}: {quality.source}")
    members = [member.to_dict() for member in quality.members]
    headers = ["measure", *(f"member {k + 1}" for k in range(len(members))), "ideal"]
    table(
        headers,
        [
            [words, *(_fact(member[name]) for member in members), ideal]
            for name, (words, ideal) in IDEALS.items()
            if members[0][name] is not None
        ],
    )


def _write_schema(schema: Schema, print_out: Callable[[str], None]) -> None:
    print_out(f"\nColumns ({len(schema.columns)}, from {count(schema.n_rows, 'training row')})")
    rows = []
    for column in schema.columns:
        shown = ", ".join(column.categories[:_SHOWN_CATEGORIES])
        more = len(column.categories) - _SHOWN_CATEGORIES
        values = f"{shown}, and {more} more" if more > 0 else shown
        if column.minimum is not None and column.maximum is not None:
            values = f"{column.minimum:.6g} to {column.maximum:.6g}"
        rows.append([column.name, column.kind.value, values, str(column.n_missing)])
    table(["column", "kind", "seen in training", "missing"], rows)
    if schema.set_aside:
        print_out("\nSet aside")
        rows = [[a.name, f"{a.reason.value}: {a.detail}"] for a in schema.set_aside]
        table(["column", "why"], rows)
    if schema.id_column is not None:
        print_out(f"\nRows are named by {schema.id_column}.")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name nested facts in full; a record of many steps is left to --json."""
    for name, value in facts.items():
        if isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            yield f"{prefix}{name}", f"{count(len(value), 'record')} (see --json)"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _fact(value)
