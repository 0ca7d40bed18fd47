"""``anomgan fit``: normal rows in, a model directory out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anomgan_cli.exits import FAILURE, guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    FalseAlarmRate,
    Model,
    Quiet,
    parse_duration,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["fit"]

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
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")]
MaxTime = Annotated[
    float | None,
    typer.Option(
        metavar="TIME", parser=parse_duration, help="Longest time for training: 90, 30s, 5m, 1h."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model that is already there.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
]


@guarded
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
    seed: Seed = 0,
    max_time: MaxTime = None,
    force: Force = False,
    resume: Resume = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Learn what normal rows look like; writes a model directory."""
    from anomgan.bundle import require_free
    from anomgan.calibration import require_rate
    from anomgan.tables import Schema, SchemaOptions, read_table
    from anomgan_cli.render import say_fit, say_schema, training_progress

    rate = 0.01 if false_alarm_rate is None else false_alarm_rate
    require_rate(rate, n=0, has_tail=True)
    require_free(model, overwrite=force)
    source = "<stdin>" if table == "-" else table
    frame = read_table(table, delimiter=delimiter, encoding=encoding)
    frame = _normal_rows(frame, label, normal, source)
    options = SchemaOptions(
        drop=tuple(drop or ()),
        categorical=tuple(categorical or ()),
        numeric=tuple(numeric or ()),
        id_column=id_column,
        label=label,
    )
    schema = Schema.infer(frame, options, source=source)  # bad input is told before torch loads
    if not quiet:
        say_schema(schema)
    from anomgan.estimator import fit_table

    with training_progress(quiet=quiet) as progress:
        bundle = fit_table(
            frame,
            options=options,
            parameters={"false_alarm_rate": rate, "random_state": seed},
            source=source,
            output=model,
            overwrite=force,
            progress=progress,
            resume=resume,
            max_time=max_time,
        )
    if not quiet:
        say_fit(bundle.manifest, model)
    if bundle.manifest.health["verdict"] == "failed":
        raise typer.Exit(FAILURE)


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
