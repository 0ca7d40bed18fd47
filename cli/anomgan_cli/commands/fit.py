"""``anomgan fit``: normal rows in, a model directory out."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from anomgan_cli.exits import FAILURE, ended_promptly, guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    FalseAlarmRate,
    Model,
    OnBadRow,
    Quiet,
    parse_duration,
    parse_parameter,
    time_left,
)

if TYPE_CHECKING:
    import polars as pl

    from anomgan.bundle import Manifest
    from anomgan.tables import SchemaOptions, TableReader

__all__ = ["Calibration", "fit"]


_OPTIONS = {"false_alarm_rate", "calibrate_by", "random_state", "calibration", "max_time"}
"""Parameters that are options of the command."""


class Calibration(StrEnum):
    """Which rows the threshold comes from."""

    SPLIT = "split"
    CROSS = "cross"


Table = Annotated[
    str,
    typer.Argument(
        metavar="TABLE", help="CSV, Parquet or Arrow file of normal rows; - reads CSV from stdin."
    ),
]
Label = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column that tells normal rows; it is no feature."),
]
Normal = Annotated[
    list[str] | None,
    typer.Option(metavar="VALUE", help="Label of the rows to learn from; may be repeated."),
]
Drop = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Leave a column out; may be repeated.")
]
Categorical = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Read a column as categories; may be repeated."),
]
Numeric = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Read a column as numbers; may be repeated."),
]
IdColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column that names the rows; copied to the scores."),
]
CalibrateBy = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Keep the false-alarm rate within each group of this column: machine, site, product.",
    ),
]
CalibrationOption = Annotated[
    Calibration,
    typer.Option(
        help="Calibrate on a fifth of the rows, held out, or on all rows, each by a network that "
        "never saw it: for a few hundred rows or fewer.",
    ),
]
DetectorName = Annotated[
    str,
    typer.Option(metavar="NAME", help="What is trained; `anomgan detectors` lists all there are."),
]
Context = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,COLUMN",
        help="Columns that are given, with --detector conditional: the others are scored in their "
        "context, as load by shift.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of the detector, as n_steps=500; repeatable.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")]
MaxTime = Annotated[
    float | None,
    typer.Option(
        metavar="TIME", parser=parse_duration, help="Longest time for all of it: 90, 30s, 5m, 1h."
    ),
]
BadRow = Annotated[
    OnBadRow,
    typer.Option(help="A line with too few or too many fields: stop, or leave it out."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is already there.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
]


@guarded
@ended_promptly
def fit(
    table: Table,
    model: Model = "anomgan-model",
    label: Label = None,
    normal: Normal = None,
    drop: Drop = None,
    categorical: Categorical = None,
    numeric: Numeric = None,
    id_column: IdColumn = None,
    false_alarm_rate: FalseAlarmRate = None,
    calibrate_by: CalibrateBy = None,
    calibration: CalibrationOption = Calibration.SPLIT,
    detector: DetectorName = "anomgan",
    context: Context = None,
    parameter: Parameters = None,
    seed: Seed = 0,
    max_time: MaxTime = None,
    force: Force = False,
    resume: Resume = False,
    on_bad_row: BadRow = OnBadRow.ERROR,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Learn what normal rows look like; writes a model directory."""
    started = time.monotonic()
    from anomgan.tables import SchemaOptions, open_table
    from anomgan_cli.render import training_progress

    _require_possible(model, false_alarm_rate, force=force)
    bad: Literal["error", "skip"] = "skip" if on_bad_row is OnBadRow.SKIP else "error"
    with open_table(table, delimiter=delimiter, encoding=encoding, on_bad_row=bad) as reader:
        source = reader.source
        frame = _normal_rows(_read(reader), label, normal, source)
    kinds = [tuple(names or ()) for names in (drop, categorical, numeric)]
    options = SchemaOptions(kinds[0], kinds[1], kinds[2], id_column, label)
    shared = {"false_alarm_rate": false_alarm_rate, "calibrate_by": calibrate_by}
    parameters = _parameters(detector, calibration, context, parameter) | shared
    _study(frame, options, calibrate_by, source, quiet=quiet)
    _say_if_new(model, resume=resume and not quiet)
    from anomgan.estimator import fit_table

    with training_progress(quiet=quiet) as progress:
        bundle = fit_table(
            frame,
            options=options,
            detector=detector,
            parameters=parameters | {"random_state": seed},
            source=source,
            output=model,
            overwrite=force,
            progress=progress,
            resume=resume,
            max_time=time_left(max_time, started),
        )
    _conclude(bundle.manifest, model, quiet=quiet)


def _require_possible(model: str, false_alarm_rate: float | None, *, force: bool) -> None:
    """Tell what cannot be before anything is read."""
    from anomgan.bundle import require_free
    from anomgan.calibration import require_rate
    from anomgan.locks import sole_writer

    if false_alarm_rate is not None:
        require_rate(false_alarm_rate, n=0, has_tail=True)
    require_free(model, overwrite=force)
    with sole_writer(Path(os.path.realpath(model)), shown=model):
        pass  # another process that is fitting there is told now, not after reading


def _parameters(
    detector: str, calibration: Calibration, context: str | None, texts: list[str] | None
) -> dict[str, Any]:
    """Return what the detector is made with; an unknown one is told before anything is read."""
    from anomgan.errors import UsageError
    from anomgan.presets import DETECTOR_NAMES

    if detector not in DETECTOR_NAMES:
        raise UsageError(
            f"there is no detector {detector!r} (--detector): choose one of "
            f"{', '.join(DETECTOR_NAMES)}"
        )
    own = dict(parse_parameter(text) for text in texts or ())
    if context is not None:
        if detector != "conditional":
            raise UsageError(f"{detector} knows no --context: add --detector conditional")
        own["context"] = context
    taken = sorted(set(own) & _OPTIONS)
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be --set: there are options for these")
    if detector == DETECTOR_NAMES[0]:
        return own | {"calibration": calibration.value}
    if calibration is not Calibration.SPLIT:
        raise UsageError(
            f"--calibration {calibration.value} takes an ensemble, and {detector} is one network: "
            "leave it out, or take the detector anomgan"
        )
    return own


def _conclude(manifest: Manifest, model: str, *, quiet: bool) -> None:
    """Say what came out; a training that failed is a failure of the command."""
    from anomgan_cli.render import say_fit

    if not quiet:
        say_fit(manifest, model)
    if manifest.health["verdict"] == "failed":
        raise typer.Exit(FAILURE)


def _say_if_new(model: str, *, resume: bool) -> None:
    """Say where there is nothing to resume."""
    from anomgan.bundle import checkpoint_path
    from anomgan_cli.render import say

    if resume and not checkpoint_path(model).exists():
        say(f"There is no checkpoint of {model} to go on from: training from the start.", "yellow")


def _study(
    frame: pl.DataFrame,
    options: SchemaOptions,
    calibrate_by: str | None,
    source: str,
    *,
    quiet: bool,
) -> None:
    """Say what the columns are; bad input is told before torch loads."""
    from anomgan.groups import group_options
    from anomgan.tables import Schema
    from anomgan_cli.render import say_schema

    if calibrate_by is not None:
        options = group_options(frame, options, calibrate_by, source=source)
    schema = Schema.infer(frame, options, source=source)
    if not quiet:
        say_schema(schema)


def _read(reader: TableReader) -> pl.DataFrame:
    """Read everything; lines that could not be read are left out and counted."""
    import polars as pl

    from anomgan_cli.render import count, say

    frames, n_bad = [], 0
    for batch in reader:
        n_bad += len(batch.faults)
        good = [i not in batch.faults for i in range(batch.frame.height)]
        frames.append(batch.frame.filter(good) if batch.faults else batch.frame)
    if n_bad:
        say(f"Left out: {count(n_bad, 'line')} of {reader.source} that could not be read", "yellow")
    return pl.concat(frames)


def _normal_rows(
    frame: pl.DataFrame, label: str | None, normal: list[str] | None, source: str
) -> pl.DataFrame:
    """Keep the rows to learn from."""
    from anomgan.errors import UsageError
    from anomgan.tables import keep_normal

    if label is None and normal:
        raise UsageError("--normal needs --label COLUMN: the column that holds the value")
    if label is None:
        return frame
    if not normal:
        raise UsageError(
            f"--label {label} needs --normal VALUE: the value that normal rows have in it"
        )
    return keep_normal(frame, label, normal, source=source)
