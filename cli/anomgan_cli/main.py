"""The command ``anomgan``. Nothing but typer is imported here: help must be instant."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from anomgan_cli.exits import leave

__all__ = ["COMMANDS", "application", "main"]

COMMANDS: Final = (
    *("fit", "score", "explain", "evaluate", "inspect", "threshold", "export"),
    *("detectors", "demo", "benchmark"),
)
"""In the order of the help; each stands in the module of its name."""


def _version(asked: bool) -> None:
    if asked:
        from anomgan import __version__

        typer.echo(f"anomgan {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Find the rows that do not belong: learn from normal rows, score new ones."""
    # Commands say themselves what there is to say; Python would print the log's warnings again.
    logging.getLogger("anomgan").addHandler(logging.NullHandler())


def application(words: Sequence[str] = ()) -> typer.Typer:
    """Return the application with all commands, or with the one that the first of `words` names.

    The modules of ten commands take longer to load than a row takes to be scored.
    """
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
    app.callback()(_main)
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        command = getattr(importlib.import_module(f"anomgan_cli.commands.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command)
        else:
            app.command()(command)
    return app


def main() -> None:
    """Run the command that this process was started for, and end the process.

    All is written and closed by then. To tear down what was imported and trained, as Python does at
    its end, takes up to seconds that nobody gains from, and a signal then finds nobody to answer.
    """
    try:
        application(sys.argv[1:])()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            leave(end.code or 0)
        raise
