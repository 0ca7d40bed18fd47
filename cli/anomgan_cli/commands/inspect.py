"""``anomgan inspect``: what a model says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Model

__all__ = ["inspect"]

AsJson = Annotated[bool, typer.Option("--json", help="Write the manifest as JSON.")]
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
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a model: columns, training, health, calibration, checksums."""
    import json

    from anomgan.bundle import Bundle
    from anomgan.tables import Schema
    from anomgan_cli.render import say, write_inspection

    manifest = Bundle.open(model).manifest
    drawn: list[str] = []
    if plots is not None:  # first: where it fails nothing else is said
        from anomgan.report.plots import draw_model

        drawn = draw_model(model, plots)
    if as_json:
        typer.echo(json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False))
    else:
        write_inspection(manifest, model, Schema.from_dict(manifest.schema))
    if drawn:
        say(f"Pictures: {', '.join(drawn)}")
