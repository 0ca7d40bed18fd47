"""``anomgan benchmark speed``: how fast, beside others and beside what the machine allows."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomgan_cli.commands.benchmark_accuracy import Markdown
from anomgan_cli.exits import FAILURE, guarded
from anomgan_cli.options import Debug, Quiet

if TYPE_CHECKING:
    from anomgan.evaluation.speed import Figure, SpeedPlan

__all__ = ["speed"]

_QUICK: dict[str, Any] = {
    "batches": (1, 512),
    "rows": (500, 2000),
    "columns": (8, 16),
    "training_rows": (400, 800),
    "csv_rows": 2000,
    "steps": 20,
    "budget_s": 0.1,
    "repeats": 2,
    "stream_bytes": 2**24,
}
"""What `--quick` changes: figures that show that everything works, and little more."""

What = Annotated[
    str | None,
    typer.Option(
        metavar="PART,PART",
        help="training, throughput, latency, start, csv, growth.",
        show_default="all",
    ),
]
Batches = Annotated[
    str | None,
    typer.Option(metavar="N,N", help="Rows a call.", show_default="1,64,1024,8192"),
]
Rows = Annotated[
    str | None,
    typer.Option(
        metavar="N,N",
        help="Rows that growth is followed over.",
        show_default="1000,10000,100000,1000000",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="N,N",
        help="Columns that growth is followed over; the first are those of all other figures.",
        show_default="30,5,100,500",
    ),
]
TrainingRows = Annotated[
    str | None,
    typer.Option(
        metavar="N,N",
        help="Training rows that growth is followed over; the first are those of all other "
        "figures.",
        show_default="5000,1000,20000,100000",
    ),
]
CsvRows = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Rows of the CSV file.", show_default="100000"),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Training steps; fewer are extrapolated to the default. How fast a model scores "
        "hardly depends on them.",
        show_default="those of fit",
    ),
]
Threads = Annotated[
    int, typer.Option(metavar="N", min=1, help="Threads of every contender; fits take one.")
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="What the slowest contender of a figure gets.", show_default="5"
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Small sizes and few repeats: under a minute.")
]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="CSV of all figures; those in it are not measured again. What the machine is goes "
        "to a JSON file beside it.",
    ),
]
Report = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.md",
        help="Write a page as well, and its plots in a folder beside it. Needs matplotlib (the "
        "extra `plots`).",
    ),
]


@guarded
def speed(
    what: What = None,
    batches: Batches = None,
    rows: Rows = None,
    columns: Columns = None,
    training_rows: TrainingRows = None,
    csv_rows: CsvRows = None,
    steps: Steps = None,
    threads: Threads = 1,
    budget: Budget = None,
    quick: Quick = False,
    output: Output = "benchmark-speed.csv",
    report: Report = None,
    markdown: Markdown = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time training and scoring beside other detectors and beside the machine's limits."""
    from anomgan.errors import TrainingInterrupted, UsageError

    sizes = {
        "batches": _numbers("--batches", batches),
        "rows": _numbers("--rows", rows),
        "columns": _numbers("--columns", columns),
        "training_rows": _numbers("--training-rows", training_rows),
    }
    if report is not None and not report.endswith(".md"):
        raise UsageError(f"--report {report}: name a page that ends in .md")
    given = sizes | {"csv_rows": csv_rows, "steps": steps, "budget_s": budget}
    plan = _plan(what, given, threads, quick=quick)
    if report is not None:
        from anomgan.report.speed import require_matplotlib

        require_matplotlib()  # said before an hour of measuring, not after it
    try:
        figures, facts = _measure(plan, output, quiet=quiet)
    except KeyboardInterrupt:
        raise TrainingInterrupted(
            f"stopped; the figures of ended cases are in {output}, and the same command goes on "
            "from there"
        ) from None
    _conclude(figures, facts, output, report, markdown=markdown, quiet=quiet)


def _plan(what: str | None, given: dict[str, Any], threads: int, *, quick: bool) -> SpeedPlan:
    """Return the plan; what is given goes before what `--quick` means."""
    from anomgan.evaluation.speed import WHAT, SpeedPlan

    values = (_QUICK if quick else {}) | {k: v for k, v in given.items() if v is not None}
    parts = WHAT if what is None else tuple(name.strip() for name in what.split(","))
    command = (sys.executable, "-m", "anomgan_cli")
    return SpeedPlan(what=parts, threads=threads, score_command=command, **values)


def _measure(
    plan: SpeedPlan, output: str, *, quiet: bool
) -> tuple[list[Figure], dict[str, str | int]]:
    from anomgan.evaluation.machine_rates import machine_facts
    from anomgan.evaluation.speed import run_speed
    from anomgan.evaluation.speed_cases import Meter
    from anomgan_cli.render import benchmark_progress

    facts = machine_facts()
    with benchmark_progress(quiet=quiet, words=_measured) as progress:
        figures = run_speed(plan, output, measure=Meter(), facts=facts, progress=progress)
    return figures, facts | plan.settings()


def _measured(figures: Sequence[Figure]) -> str:
    """Word what a case found, by its first figure."""
    first = figures[0]
    what = f"{first.what}, {first.rows} rows, {first.columns} columns, {first.training_rows} learnt"
    if math.isnan(first.value):
        return f"{what}: {first.quantity}"
    return f"{what}: {first.contender} {first.value:.3g} {first.unit}"


def _conclude(
    figures: list[Figure],
    facts: dict[str, str | int],
    output: str,
    report: str | None,
    *,
    markdown: bool,
    quiet: bool,
) -> None:
    """Write the tables and the page, and say what could not be measured."""
    from anomgan.evaluation.speed import FAILED
    from anomgan.report.speed import markdown_section, sections, write_page
    from anomgan_cli.render import say, table

    for section in sections(figures):
        if markdown:
            sys.stdout.write(markdown_section(section) + "\n")
        else:
            sys.stdout.write(f"{section.title}\n")
            sys.stdout.flush()
            table(section.headers, section.rows)
            sys.stdout.write(f"{section.note}\n\n" if section.note else "\n")
    failed = [f for f in figures if f.quantity == FAILED]
    for f in failed:
        say(f"Failed: {f.what}, {f.rows} rows, {f.columns} columns: {f.note}", "red")
    if report is not None:
        command = f"anomgan benchmark speed -o {_shown(output)} --report {_shown(report)}"
        write_page(report, figures, facts, command=command)
    if not quiet:
        say(f"Every figure: {output}" + (f"; page: {report}" if report else ""))
    if failed:
        raise typer.Exit(FAILURE)


def _shown(path: str) -> str:
    """Keep places of one machine out of a page."""
    return os.path.basename(path) if os.path.isabs(path) else path


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    from anomgan.errors import UsageError

    if text is None:
        return None
    found = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in found):
        raise UsageError(f"{option} {text}: whole numbers with commas are expected, as 10,100")
    return tuple(dict.fromkeys(int(part) for part in found))
