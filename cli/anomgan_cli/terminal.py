"""Words and tables for a terminal, with nothing in them that could steer it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["echo", "echo_json", "plain", "printer", "say", "stderr", "table"]

_PLAIN_WIDTH = 160  # of tables where there is no terminal to measure

# Control characters but for tab and line feed; halves of characters, which no encoding has; and
# what turns the direction of writing around.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def stderr() -> Console:
    """Return a console on the present stderr."""
    from rich.console import Console

    return Console(stderr=True)


def plain(text: str) -> str:
    """Return a text in which what would steer a terminal is written out, as ``ascii`` does.

    Names and texts come from tables and models that others made.
    """
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def echo(text: str = "") -> None:
    """Print a line on stdout."""
    import typer

    typer.echo(plain(text))


def echo_json(content: Any, *, allow_nan: bool = False) -> None:
    """Print JSON on stdout, readable, and with its own escapes for what would steer a terminal."""
    import json

    import typer

    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=allow_nan)
    typer.echo(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def printer() -> Callable[[str], None]:
    """Return what prints paragraphs on stdout, as `say` does on stderr."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    return lambda text: console.print(Text(plain(text)), soft_wrap=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Print one paragraph on stderr, never cut or wrapped, markup left as it is."""
    from rich.text import Text

    stderr().print(Text(plain(message), style=style or ""), soft_wrap=True, highlight=False)


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, on_stderr: bool = False
) -> None:
    """Print an aligned table; columns after the first that hold numbers go to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = sys.stderr if on_stderr else sys.stdout
    console = Console(stderr=on_stderr, width=None if stream.isatty() else _PLAIN_WIDTH)
    cells = [list(row) for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for j, header in enumerate(headers):
        numbers = j > 0 and all(_is_number(row[j]) for row in cells)
        grid.add_column(
            Text(plain(header)), justify="right" if numbers else "left", overflow="fold"
        )
    for row in cells:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    console.print(grid)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(" ", ""))
    except ValueError:
        return text == "-"
    return True
