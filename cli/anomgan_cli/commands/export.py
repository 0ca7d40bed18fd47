"""``anomgan export``: the self-contained scorer as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Model, Quiet

if TYPE_CHECKING:
    from anomgan.serving import Scorer

__all__ = ["export"]

Output = Annotated[
    str, typer.Option("-o", "--output", metavar="FILE", help="Where the scorer goes; - is stdout.")
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Write a small network that was taught the score, calibrated anew: many times faster, "
        "nearly as good. What it loses is measured and said. Takes up to a minute.",
    ),
]


@guarded
def export(
    model: Model = "anomgan-model",
    output: Output = "scorer.onnx",
    fast: Fast = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the scorer as one ONNX file that needs no anomgan to run."""
    from anomgan.serving.files import copy_scorer
    from anomgan_cli.render import say_interface

    scorer = _fast(model, output, quiet=quiet) if fast else copy_scorer(model, output)
    if not quiet:
        say_interface(scorer, output)


def _fast(model: str, output: str, *, quiet: bool) -> Scorer:
    """Teach a student and write it."""
    from anomgan.bundle import Bundle
    from anomgan.persistence import export_fast, load_fitted
    from anomgan.serving.files import write_scorer
    from anomgan_cli.render import say_student, training_progress

    created_at = Bundle.open(model).manifest.created_at
    fitted = load_fitted(model)
    with training_progress(quiet=quiet) as progress:
        graph, _, facts = export_fast(fitted, created_at=created_at, progress=progress)
    scorer = write_scorer(graph, output)
    if not quiet:
        say_student(facts)
    return scorer
