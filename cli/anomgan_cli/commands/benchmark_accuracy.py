"""``anomgan benchmark accuracy``: anomgan against what a user would pick instead."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from anomgan_cli.exits import FAILURE, guarded
from anomgan_cli.options import (
    Debug,
    NormalLabels,
    Precision,
    Quiet,
    parse_parameter,
)

if TYPE_CHECKING:
    from anomgan.evaluation.baselines import Exported as ExportKind
    from anomgan.evaluation.benchmark import Case

__all__ = ["Markdown", "accuracy"]


class Suite(StrEnum):
    """Registered groups of datasets."""

    ADBENCH = "adbench"
    TABLES = "tables"
    EMBEDDED = "embedded"
    PAPERS = "papers"


class Protocol(StrEnum):
    """How rows are split."""

    CLEAN = "clean"
    PUBLISHED = "published"


Table = Annotated[
    str | None,
    typer.Argument(metavar="TABLE", help="Your own labelled file; without it, a suite is run."),
]
Label = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of TABLE that tells normal rows; no feature."),
]
Suites = Annotated[
    list[Suite] | None,
    typer.Option(
        "--suite",
        metavar="SUITE",
        help="adbench (default), tables (raw ones), embedded (scikit-learn's) or papers (KDD-99, "
        "Arrhythmia); repeatable.",
    ),
]
Protocols = Annotated[
    list[Protocol] | None,
    typer.Option(
        "--protocol",
        metavar="PROTOCOL",
        help="clean (default), or published: only to compare with printed figures; repeatable.",
    ),
]
Contamination = Annotated[
    str,
    typer.Option(
        metavar="SHARE,SHARE",
        help="Shares of the training rows replaced by anomalies, protocol clean only.",
    ),
]
SplitSeed = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="One seed for every split: --seeds then vary the methods alone."
    ),
]
Seeds = Annotated[str, typer.Option(metavar="N,N", help="Seeds of splits and methods.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,NAME",
        help="Methods, repeatable; anomgan, knn1, knn5mean, lof, iforest, ocsvm by default.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME,NAME", help="Only these sets of the suites; repeatable."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of our detectors, as n_steps=500; repeatable.",
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="FILE", help="CSV of every run; runs in it are not repeated."
    ),
]
Jobs = Annotated[
    int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Processes, one thread each.")
]
Exported = Annotated[
    bool,
    typer.Option("--exported", help="Score ours by the exported ONNX graph instead of by torch."),
]
Calibrated = Annotated[
    bool,
    typer.Option(
        "--false-alarms/--no-false-alarms",
        help="Measure the false alarms of others' methods too, which costs a second fit.",
    ),
]
Fast = Annotated[
    bool, typer.Option("--fast", help="Score ours by the graphs that `export --fast` makes.")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision", help="fp16: score ours by the graphs that `export --precision fp16` makes."
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in markdown.")]


@guarded
def accuracy(
    table: Table = None,
    label: Label = None,
    normal: NormalLabels = None,
    suite: Suites = None,
    protocol: Protocols = None,
    contamination: Contamination = "0",
    seeds: Seeds = "0,1,2",
    split_seed: SplitSeed = None,
    methods: Methods = None,
    sets: Sets = None,
    parameters: Parameters = None,
    output: Output = "benchmark-accuracy.csv",
    jobs: Jobs = 1,
    exported: Exported = False,
    fast: Fast = False,
    precision: PrecisionOption = Precision.FP32,
    false_alarms: Calibrated = True,
    markdown: Markdown = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare detectors by AUROC, average precision, false alarms and seconds; one row a run."""
    numbers = _seeds(seeds)
    values = dict(parse_parameter(text) for text in parameters or ())
    chosen = list(dict.fromkeys(p.value for p in protocol or (Protocol.CLEAN,)))
    if table is None:
        cases = _suite_cases(
            label, normal, suite, chosen, _split(sets), _shares(contamination), split_seed
        )
    else:
        special = bool(suite or sets or split_seed is not None or _shares(contamination) != [0.0])
        cases = _table_cases(table, label, normal, chosen, special=special)
    from anomgan.errors import TrainingInterrupted
    from anomgan.evaluation.baselines import DEFAULT_METHODS, detectors
    from anomgan.evaluation.benchmark import run_benchmark
    from anomgan.evaluation.summary import summarise
    from anomgan_cli.render import benchmark_progress, say_failures, write_summary

    chosen_methods = _split(methods) or DEFAULT_METHODS
    kind = _kind(exported=exported, fast=fast, precision=precision)
    factories = detectors(chosen_methods, values, exported=kind, calibrated=false_alarms)
    try:
        with benchmark_progress(quiet=quiet) as progress:
            runs = run_benchmark(cases, factories, numbers, output, jobs=jobs, progress=progress)
    except KeyboardInterrupt:
        raise TrainingInterrupted(
            f"stopped; the runs that ended are in {output}, and the same command goes on from there"
        ) from None
    against = next((name for name in factories if name.startswith("anomgan")), None)
    for summary in summarise(runs, against=against or next(iter(factories))):
        write_summary(summary, markdown=markdown)
    say_failures(runs, output, quiet=quiet)
    if any(run.error for run in runs):
        raise typer.Exit(FAILURE)


def _kind(*, exported: bool, fast: bool, precision: Precision) -> ExportKind:
    """Return what ours are scored by."""
    from anomgan.errors import UsageError

    if fast and precision is Precision.FP16:
        raise UsageError("--fast and --precision fp16 are two scorers: measure one after the other")
    if precision is Precision.FP16:
        return "fp16"
    return "fast" if fast else "exported" if exported else ""


def _suite_cases(
    label: str | None,
    normal: list[str] | None,
    suites: list[Suite] | None,
    protocols: list[str],
    sets: list[str],
    contamination: list[float],
    split_seed: int | None,
) -> list[Case]:
    from anomgan.errors import UsageError
    from anomgan_cli.benchmark_cases import suite_cases

    if label is not None or normal:
        raise UsageError("--label and --normal are for a TABLE of your own: name the file")
    chosen = list(dict.fromkeys(s.value for s in suites or (Suite.ADBENCH,)))
    return suite_cases(chosen, protocols, sets, contamination=contamination, split_seed=split_seed)


def _table_cases(
    table: str, label: str | None, normal: list[str] | None, protocols: list[str], *, special: bool
) -> list[Case]:
    from anomgan.errors import UsageError
    from anomgan_cli.benchmark_cases import file_cases

    if special:
        raise UsageError(
            "--suite, --sets, --contamination and --split-seed are for suites: give either a "
            "TABLE or these, not both"
        )
    return file_cases(table, label, normal or (), protocols)


def _shares(text: str) -> list[float]:
    from anomgan.errors import UsageError

    try:
        shares = [float(share) for share in _split([text])]
    except ValueError:
        shares = []
    if not shares or not all(0.0 <= share <= 0.5 for share in shares):
        raise UsageError(f"--contamination {text}: shares from 0 to 0.5 are expected, as 0.01,0.05")
    return list(dict.fromkeys(shares))


def _split(texts: Sequence[str] | None) -> list[str]:
    names = [name.strip() for text in texts or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _seeds(text: str) -> list[int]:
    from anomgan.errors import UsageError

    found = _split([text])
    if not found or not all(seed.isascii() and seed.isdigit() for seed in found):
        raise UsageError(f"--seeds {text}: whole numbers with commas are expected, as 0,1,2")
    return list(dict.fromkeys(int(seed) for seed in found))
