"""``anomgan explain``: why a row has its score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import (
    Debug,
    Delimiter,
    Encoding,
    Model,
    Provider,
    ProviderOption,
    Quiet,
)
from anomgan_cli.terminal import echo, echo_json

if TYPE_CHECKING:
    from anomgan.evaluation.expectation import Expected, NormalRows
    from anomgan.explanation import ColumnReason, Explanation
    from anomgan.serving import Scorer
    from anomgan.tables.decoding import Cell

__all__ = ["explain"]

_SHOWN_COLUMNS = 12
_COMPARED_COLUMNS = 6
_MAX_CELL_CHARS = 40
_WHOLE = "the columns together"

Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="CSV, Parquet or Arrow file; - reads CSV from stdin."),
]
RowOption = Annotated[
    list[int] | None,
    typer.Option(
        "--row",
        metavar="N",
        min=1,
        help="Data row to explain, from 1, as in the column `row` of the scores; may be repeated.",
    ),
]
IdOption = Annotated[
    list[str] | None,
    typer.Option(
        "--id",
        metavar="VALUE",
        help="Row to explain by its value in the identifier column; may be repeated.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Explain the N rows with the highest scores.",
        show_default="1, without --row and --id",
    ),
]
Neighbours = Annotated[
    int, typer.Option(metavar="N", min=0, help="Nearest normal rows to show beside each row.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the explanations as JSON.")]


@guarded
def explain(
    table: Table,
    row: RowOption = None,
    id_: IdOption = None,
    top: Top = None,
    model: Model = "anomgan-model",
    neighbours: Neighbours = 3,
    as_json: AsJson = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    provider: ProviderOption = Provider.AUTO,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say why rows have their scores: column by column, beside what normal rows have there."""
    from anomgan.explanation import explain_rows
    from anomgan.serving import Scorer
    from anomgan.serving.selection import select_rows
    from anomgan.tables.readers import open_table
    from anomgan_cli.render import count, say, scoring_progress

    scorer = Scorer.open(model, providers=provider.value)
    normal = _normal_rows(model, quiet=quiet)
    with (
        open_table(table, delimiter=delimiter, encoding=encoding, on_bad_row="skip") as reader,
        scoring_progress(reader, quiet=quiet) as progress,
    ):
        selection = select_rows(
            *(scorer, reader),
            numbers=row or (),
            identifiers=id_ or (),
            top=top,
            progress=progress,
        )
    if selection.n_unreadable and not quiet:
        say(f"{count(selection.n_unreadable, 'row')} could not be read, hence no score.", "yellow")
    explanations = [
        why
        for item in selection.rows
        for why in explain_rows(
            scorer, normal, item.rows, verdicts=item.verdicts, neighbours=neighbours
        )
    ]
    if as_json:
        content = {"source": reader.source, "rows": [why.to_dict() for why in explanations]}
        echo_json(content)
        return
    for place, why in enumerate(explanations):
        if place:
            echo()
        _write(why, scorer, reader.source, compared=normal is not None)


def _normal_rows(model: str, *, quiet: bool) -> NormalRows | None:
    """Return the normal rows that a model keeps; say so where it keeps none."""
    from pathlib import Path

    from anomgan.bundle import Bundle
    from anomgan.evaluation.expectation import NormalRows
    from anomgan_cli.render import say

    alone = Path(model).is_file()
    normal = None if alone else NormalRows.of(Bundle.open(model, verify=False))
    if normal is None and not quiet:
        what = "A scorer on its own" if alone else f"{model}, of an earlier format,"
        remedy = "name the model directory with -m" if alone else "fit it again"
        say(
            f"{what} keeps no normal rows: contributions only, no expected values and no nearest "
            f"rows. To have them, {remedy}."
        )
    return normal


def _write(why: Explanation, scorer: Scorer, source: str, *, compared: bool) -> None:
    """Print one explanation as people read it."""
    from anomgan.explanation import DISCRIMINATOR_MEANING
    from anomgan_cli.render import table

    for line in (*_heading(why, source), ""):
        echo(line)
    headers = ["column", "observed", "expected", "10 to 90 %", "nats", "% of score", "note"]
    lines = [_line(column) for column in why.columns[:_SHOWN_COLUMNS]]
    rest = why.columns[_SHOWN_COLUMNS:]
    if rest:
        total = (sum(c.contribution for c in rest), sum(max(c.share, 0.0) for c in rest))
        lines.append([f"{len(rest)} more columns", "", "", "", *_amounts(*total), "see --json"])
    amounts = _amounts(why.discriminator, why.discriminator_share)
    lines.append([_WHOLE, "", "", "", *amounts, "see below"])
    kept = [j for j in range(len(headers)) if compared or headers[j] not in headers[2:4]]
    table([headers[j] for j in kept], [[line[j] for j in kept] for line in lines])
    echo()
    echo(f"{_WHOLE[0].upper()}{_WHOLE[1:]}: {DISCRIMINATOR_MEANING}.")
    if why.neighbours:
        echo()
        echo("The nearest normal rows, in the columns that matter most:")
        table(["", "this row", *_numbered(why)], _beside(why))


def _heading(why: Explanation, source: str) -> Iterator[str]:
    from anomgan.explanation import rarity

    name = "" if why.identifier is None else f" ({_short(why.identifier)})"
    doubt = " (extrapolated beyond the calibration rows)" if why.extrapolated else ""
    yield f"{source}, row {why.row}{name}: score {why.score:.4g}, p-value {why.p_value:.2g}{doubt}"
    from_score = "" if why.threshold is None else f" (score from {why.threshold:.4g})"
    flagged = "Flagged" if why.is_anomaly else "Not flagged"
    yield (
        f"{flagged} at the model's false-alarm rate of {why.false_alarm_rate:g}{from_score}; "
        f"{rarity(why.p_value)} would score as high."
    )


def _line(column: ColumnReason) -> list[str]:
    expected, interval = _expectation(column.expected)
    amounts = _amounts(column.contribution, column.share)
    return [_short(column.name), _cell(column.observed), expected, interval, *amounts, column.note]


def _amounts(contribution: float, share: float) -> tuple[str, str]:
    return f"{contribution:.2f}", f"{100.0 * max(share, 0.0):.1f}"


def _expectation(expected: Expected | None) -> tuple[str, str]:
    """Return the expected value and its interval, or how sure it is."""
    if expected is None:
        return "", ""
    text = _cell(expected.value)
    if expected.low is None or expected.high is None:
        return f"{text} ({100.0 * expected.weight:.0f} %)", ""
    return text, f"{_cell(expected.low)} to {_cell(expected.high)}"


def _numbered(why: Explanation) -> Iterator[str]:
    for place in range(1, len(why.neighbours) + 1):
        yield f"normal row {place}"


def _beside(why: Explanation) -> Iterator[Sequence[str]]:
    for column in why.columns[:_COMPARED_COLUMNS]:
        cells = [near.cells[column.name] for near in why.neighbours]
        yield [_short(column.name), _cell(column.observed), *map(_cell, cells)]
    yield ["distance (std. deviations)", "", *(f"{n.distance:.3g}" for n in why.neighbours)]
    yield ["training rows like it", "", *(str(n.n_rows) for n in why.neighbours)]


def _cell(cell: Cell) -> str:
    from anomgan.explanation import cell_text

    return _short(cell_text(cell))


def _short(text: str) -> str:
    """Keep a table on its line, and a terminal from what a file may hold."""
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= _MAX_CELL_CHARS else shown[: _MAX_CELL_CHARS - 1] + "…"
