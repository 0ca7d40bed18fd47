"""``anomgan export``: the self-contained scorer as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, Model, Precision, Quiet

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
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="What the networks compute in. fp16 is for GPUs that have units for it; it changes "
        "scores a little, and how much is measured and said.",
    ),
]


@guarded
def export(
    model: Model = "anomgan-model",
    output: Output = "scorer.onnx",
    fast: Fast = False,
    precision: PrecisionOption = Precision.FP32,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the scorer as one ONNX file that needs no anomgan to run."""
    from anomgan.errors import UsageError
    from anomgan.serving.files import copy_scorer
    from anomgan_cli.render import say_interface

    if fast and precision is Precision.FP16:
        raise UsageError(
            "--fast and --precision fp16 are two scorers: the small network computes in float32; "
            "export one of them"
        )
    if fast or precision is Precision.FP16:
        scorer = _made(model, output, fast=fast, quiet=quiet)
    else:
        scorer = copy_scorer(model, output)
    if not quiet:
        say_interface(scorer, output)


def _made(model: str, output: str, *, fast: bool, quiet: bool) -> Scorer:
    """Make another scorer of the model than it has, and write it."""
    from anomgan.bundle import Bundle
    from anomgan.persistence import export_fast, export_half, load_fitted
    from anomgan.serving.files import write_scorer
    from anomgan_cli.render import say_rounding, say_student, training_progress

    created_at = Bundle.open(model).manifest.created_at
    fitted = load_fitted(model)
    if fast:
        with training_progress(quiet=quiet) as progress:
            graph, _, facts = export_fast(fitted, created_at=created_at, progress=progress)
    else:
        graph, _, facts = export_half(fitted, created_at=created_at)
    scorer = write_scorer(graph, output)
    if not quiet:
        (say_student if fast else say_rounding)(facts)
    return scorer
