"""``anomgan detectors``: what `fit --detector` can train."""

from __future__ import annotations

from typing import Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug

__all__ = ["detectors"]

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Show one in full: its paper and parameters.")
]
FLAGSHIP = "ensemble of GANs whose discriminator also grades noise; density, inversion and log-odds"


@guarded
def detectors(name: Name = None, debug: Debug = False) -> None:
    """List the detectors that `fit --detector` can train."""
    from anomgan.detectors.registry import DETECTORS
    from anomgan.estimator import detector_class
    from anomgan.presets import DETECTOR_NAMES

    if name is not None:
        kind = detector_class(name)
        typer.echo(_text(kind.__doc__ or ""))
        typer.echo("\nDefaults:")
        for parameter, default in kind().get_params().items():
            typer.echo(f"    {parameter}={default}")
        return
    width = max(map(len, DETECTOR_NAMES))
    for known in DETECTOR_NAMES:
        summary = DETECTORS[known].summary if known in DETECTORS else FLAGSHIP
        typer.echo(f"{known:<{width}}  {summary}")


def _text(docstring: str) -> str:
    import inspect

    return inspect.cleandoc(docstring)
