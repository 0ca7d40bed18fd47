"""``anomgan benchmark``: comparisons with other detectors, in accuracy and in speed."""

from __future__ import annotations

import typer

from anomgan_cli.commands.benchmark_accuracy import accuracy
from anomgan_cli.commands.benchmark_speed import speed

__all__ = ["benchmark"]

benchmark = typer.Typer(
    name="benchmark",
    help="Compare anomgan with other detectors, on suites of datasets or on your own file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
benchmark.command()(accuracy)
benchmark.command()(speed)
