"""``anomgan inspect``: what a model says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Delimiter, Encoding, Model, OnBadRow
from anomgan_cli.terminal import echo_json

if TYPE_CHECKING:
    from anomgan.evaluation.generators import ModelQuality

__all__ = ["inspect"]

AsJson = Annotated[bool, typer.Option("--json", help="Write the manifest as JSON.")]
BadRow = Annotated[
    OnBadRow, typer.Option(help="A row that cannot be read: stop, or leave it out and say so.")
]
Quality = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE",
        help="Measure the generators by normal rows that the model has not seen: CSV, Parquet or "
        "Arrow file; - is stdin.",
    ),
]
Plots = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Draw pictures too: training curves, generated beside real rows, latent "
        "interpolations. Needs matplotlib (the extra `plots`).",
    ),
]


@guarded
def inspect(
    model: Model = "anomgan-model",
    plots: Plots = None,
    quality: Quality = None,
    on_bad_row: BadRow = OnBadRow.ERROR,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a model: columns, training, health, calibration, checksums."""
    from anomgan.bundle import Bundle
    from anomgan.tables import Schema
    from anomgan_cli.render import say, say_quality, write_inspection, write_quality

    manifest = Bundle.open(model).manifest
    # First: where they fail nothing else is said.
    reading = {"delimiter": delimiter, "encoding": encoding, "on_bad_row": on_bad_row.value}
    measured = _measured(model, quality, reading)
    drawn: list[str] = []
    if plots is not None:
        from anomgan.report.plots import draw_model

        drawn = draw_model(model, plots)
    if as_json:
        shown = manifest.to_dict()
        if measured is not None:
            shown["generator_quality"] = measured.to_dict()
        echo_json(shown, allow_nan=True)
    else:
        write_inspection(manifest, model, Schema.from_dict(manifest.schema))
        if measured is not None:
            write_quality(measured)
    if measured is not None:
        say_quality(measured)
    if drawn:
        say(f"Pictures: {', '.join(drawn)}")


def _measured(model: str, rows: str | None, reading: Mapping[str, Any]) -> ModelQuality | None:
    """Measure the generators where that is asked for; options for the table want one."""
    from anomgan.errors import UsageError
    from anomgan.tables.readers import open_table

    if rows is None:
        unused = [name for name, value in reading.items() if value not in (None, "error")]
        if unused:
            options = ", ".join("--" + name.replace("_", "-") for name in unused)
            raise UsageError(f"{options} is for the table of --quality, and none is named")
        return None
    from anomgan.evaluation.generators import judge_on_rows
    from anomgan.persistence import load_fitted

    with open_table(rows, **reading) as reader:
        return judge_on_rows(
            load_fitted(model), reader, asked="--quality", on_bad_row=reading["on_bad_row"]
        )
