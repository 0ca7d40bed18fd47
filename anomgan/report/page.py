"""The page: the template that puts everything in its place, for any kind of report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from pathlib import PurePath
from typing import Any, Final, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomgan.report import wording
from anomgan.report.chart import Chart
from anomgan.report.drift import DriftSection, Status
from anomgan.report.facts import ModelFacts, Provenance, schema_grid
from anomgan.report.rows import NotableRows

__all__ = ["Figure", "Page", "health_of", "render_page"]

_SHOWN_SHARES: Final = 15
# What HTML does not allow, and what would turn the direction of the text around a cell.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class Figure:
    """One of the large figures at the top.

    Parameters
    ----------
    name, value : str
    note : str
        Small, below it.
    """

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Page:
    """What every page shows.

    Parameters
    ----------
    kind : "evaluation" or "report"
        What it is called.
    subject : str
        What the model was used on, in words that follow its name.
    model : ModelFacts
    provenance : Provenance
    rows : NotableRows
    drift : DriftSection
    drift_note : str
        Which rows were compared.
    sentences : tuple of str
        The first is the lead; empty ones are left out.
    statuses : tuple of Status
    figures : tuple of Figure
    figures_note : str
    charts : tuple of Chart
        May be empty.
    """

    kind: Literal["evaluation", "report"]
    subject: str
    model: ModelFacts
    provenance: Provenance
    rows: NotableRows
    drift: DriftSection
    drift_note: str
    sentences: tuple[str, ...]
    statuses: tuple[Status, ...]
    figures: tuple[Figure, ...]
    figures_note: str
    charts: tuple[Chart, ...]


def render_page(page: Page, **sections: Any) -> str:
    """Return the page as HTML; `sections` is what the template needs for the labels' sections."""
    provenance = page.provenance
    shares = [c for c in page.rows.shares if c.share > 0.0]
    content: dict[str, Any] = {
        "page": page,
        "model": page.model,
        "provenance": provenance,
        "rows": page.rows,
        "title": PurePath(provenance.table).name or provenance.table,
        "made_at": wording.moment(provenance.made_at.isoformat()),
        "made_at_iso": provenance.made_at.astimezone(UTC).isoformat(timespec="seconds"),
        "columns": schema_grid(page.model.schema),
        "shares": shares[:_SHOWN_SHARES],
        "n_more_shares": max(len(shares) - _SHOWN_SHARES, 0),
        "evaluation": None,
    }
    return _environment().get_template("report.html").render(content | sections)


def health_of(model: ModelFacts) -> list[Status]:
    """Return how training went, where that is known."""
    if not model.health:
        return []
    kind = {"healthy": "good", "degraded": "warn"}.get(model.health, "bad")
    detail = "; ".join(model.reasons) or "no fault was found in it"
    return [Status(kind, f"Training {model.health}", f"{detail[0].upper()}{detail[1:]}.")]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("anomgan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {
        "grouped": wording.grouped,
        "moment": wording.moment,
        "percent": wording.percent,
        "span": wording.span,
    }
    return environment


def _printable(value: Any) -> Any:
    """Replace characters that a page may not hold; texts of tables may hold any."""
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        return type(value)(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value))
    return value
