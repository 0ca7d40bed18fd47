"""``anomgan inspect``: what a model says of itself."""

from __future__ import annotations

from typing import Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Model

__all__ = ["inspect"]

AsJson = Annotated[bool, typer.Option("--json", help="Write the manifest as JSON.")]


@guarded
def inspect(model: Model = "anomgan-model", as_json: AsJson = False, debug: Debug = False) -> None:
    """Show a model: columns, training, health, calibration, checksums."""
    import json

    from anomgan.bundle import Bundle
    from anomgan.tables import Schema
    from anomgan_cli.render import write_inspection

    manifest = Bundle.open(model).manifest
    if as_json:
        typer.echo(json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False))
        return
    write_inspection(manifest, model, Schema.from_dict(manifest.schema))
