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
    if fast:
        scorer = _fast(model, output, quiet=quiet)
    elif precision is Precision.FP16:
        scorer = _half(model, output, quiet=quiet)
    else:
        scorer = copy_scorer(model, output)
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


def _half(model: str, output: str, *, quiet: bool) -> Scorer:
    """Write the scorer with networks in float16."""
    from anomgan.bundle import Bundle
    from anomgan.persistence import export_half, load_fitted
    from anomgan.serving.files import write_scorer
    from anomgan_cli.render import say_rounding

    created_at = Bundle.open(model).manifest.created_at
    graph, _, facts = export_half(load_fitted(model), created_at=created_at)
    scorer = write_scorer(graph, output)
    if not quiet:
        say_rounding(facts)
    return scorer
