"""``anomgan export``: the self-contained scorer as one file."""

from __future__ import annotations

from typing import Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Model, Quiet

__all__ = ["export"]

Output = Annotated[
    str, typer.Option("-o", "--output", metavar="FILE", help="Where the scorer goes; - is stdout.")
]


@guarded
def export(
    model: Model = "anomgan-model",
    output: Output = "scorer.onnx",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the scorer as one ONNX file that needs no anomgan to run."""
    from anomgan.serving.files import copy_scorer
    from anomgan_cli.render import say_interface

    scorer = copy_scorer(model, output)
    if not quiet:
        say_interface(scorer, output)
