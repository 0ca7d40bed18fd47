"""The command ``anomgan``. Nothing but typer is imported here: help must be instant."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from anomgan_cli.commands.benchmark import benchmark
from anomgan_cli.commands.benchmark_speed import speed
from anomgan_cli.commands.demo import demo
from anomgan_cli.commands.detectors import detectors
from anomgan_cli.commands.evaluate import evaluate
from anomgan_cli.commands.explain import explain
from anomgan_cli.commands.export import export
from anomgan_cli.commands.fit import fit
from anomgan_cli.commands.inspect import inspect
from anomgan_cli.commands.score import score
from anomgan_cli.commands.threshold import threshold
from anomgan_cli.exits import leave

__all__ = ["app", "main"]

app = typer.Typer(
    name="anomgan",
    help="Find the rows that do not belong: learn from normal rows, score new ones.",
    epilog=(
        "Exit codes: 0 done, 1 failure, 2 bad usage or bad input, 3 anomalies found "
        "(--fail-on-anomaly), 130 interrupted."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from anomgan import __version__

        typer.echo(f"anomgan {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Find the rows that do not belong: learn from normal rows, score new ones."""
    # Commands say themselves what there is to say; Python would print the log's warnings again.
    logging.getLogger("anomgan").addHandler(logging.NullHandler())


for _command in (fit, score, explain, evaluate, inspect, threshold, export, detectors, demo):
    app.command()(_command)
benchmark.command()(speed)
app.add_typer(benchmark)


def main() -> None:
    """Run the command that this process was started for, and end the process.

    All is written and closed by then. To tear down what was imported and trained, as Python does at
    its end, takes up to seconds that nobody gains from, and a signal then finds nobody to answer.
    """
    try:
        app()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            leave(end.code or 0)
        raise
