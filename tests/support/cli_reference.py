"""Write docs/cli-reference.md from the commands themselves.

    python tests/support/cli_reference.py > docs/cli-reference.md

A test compares the file with what this gives.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

from anomgan_cli.app import app

__all__ = ["cli_reference"]

_HEADER = """\
# Command line reference

Written by `python tests/support/cli_reference.py`; do not edit. `anomgan COMMAND --help` says the
same.
"""


def cli_reference() -> str:
    """Return the page: every command with its arguments and options."""
    sections = [_section(name, command) for name, command in _commands(app, "anomgan")]
    return "\n".join([_HEADER, f"{app.info.epilog}\n", *sections])


def _commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command with its full name, those of groups after the others."""
    for known in group.registered_commands:
        if known.callback is not None:
            yield f"{prefix} {known.callback.__name__}", known.callback
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _commands(inner.typer_instance, f"{prefix} {inner.typer_instance.info.name}")


def _section(name: str, command: Callable[..., Any]) -> str:
    hints = typing.get_type_hints(command, include_extras=True)
    rows = [
        _row(option, hints[option], parameter.default)
        for option, parameter in inspect.signature(command).parameters.items()
    ]
    lines = [f"## {name}", "", (inspect.getdoc(command) or "").strip(), ""]
    return "\n".join([*lines, "| option | meaning | default |", "|---|---|---|", *rows, ""])


def _row(name: str, hint: Any, default: Any) -> str:
    kind, *extras = typing.get_args(hint)
    (info,) = [e for e in extras if isinstance(e, (ArgumentInfo, OptionInfo))]
    text = (info.help or "").replace("|", "\\|")
    if isinstance(info, ArgumentInfo):
        needed = "needed" if default is inspect.Parameter.empty else ""
        return f"| {info.metavar or name.upper()} | {text} | {needed} |"
    # In an annotation the first spelling stands where a default would.
    spellings = [s for s in (info.default, *(info.param_decls or ())) if isinstance(s, str)]
    spellings = spellings or ["--" + name.replace("_", "-")]
    spellings = [part for spelling in spellings for part in spelling.split("/")]
    names = ", ".join(f"`{spelling}`" for spelling in spellings)
    shown = info.show_default if isinstance(info.show_default, str) else default
    return f"| {names}{_value(kind, info)} | {text} | {_default(shown)} |"


def _value(kind: Any, info: OptionInfo) -> str:
    for choice in (kind, *typing.get_args(kind)):
        if isinstance(choice, type) and issubclass(choice, Enum):
            return " " + " or ".join(f"`{member.value}`" for member in choice)
    return "" if kind is bool else f" {info.metavar}"


def _default(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "needed"
    if default is None or default is False:
        return ""
    return f"`{default.value if isinstance(default, Enum) else default}`"


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
