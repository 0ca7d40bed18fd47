"""The register of datasets: one card a set, read from `cards.json` beside this file.

A card says where a set comes from, under which licence, how large it is, what its normal rows
are, and what to beware of. Reading cards needs neither the data nor pandas.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from anomgan.errors import DatasetError

__all__ = ["GROUPS", "Card", "Part", "Reader", "Yardstick", "card", "names"]

GROUPS: tuple[str, ...] = ("embedded", "tables", "adbench", "papers", "synthetic")
"""Sets inside scikit-learn, raw CSV tables, ADBench arrays, sets of papers, generated sets."""


@dataclass(frozen=True)
class Part:
    """One file of a set with its own role (`all`, `train` or `test`) and its expected counts.

    `file` is relative to the data directory, and empty where the set needs no file.
    """

    name: str
    n_rows: int
    n_anomalies: int
    file: str


@dataclass(frozen=True)
class Reader:
    """How the files of a set are read.

    Parameters
    ----------
    kind : str
        `csv`, `npz`, `mat`, `kdd99`, `sklearn` or `synthetic`.
    label : str or None
        The label column of a CSV table.
    normal_values : tuple of str
        Its values (blanks stripped) that mean normal.
    drop : tuple of str
        Columns left out: identifiers, or columns that give the label away.
    delimiter : str
        Between the cells of a CSV table.
    missing : tuple of str
        Cells that mean missing, beside the empty one.
    strip : bool
        Whether cells have leading blanks to strip.
    """

    kind: str
    label: str | None = None
    normal_values: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    delimiter: str = ","
    missing: tuple[str, ...] = ()
    strip: bool = False


@dataclass(frozen=True)
class Yardstick:
    """What simple methods reach on a set.

    Measured with plain reading, scaled columns, at most 3 000 training and 4 000 test rows, seed 0;
    `anomaly_rate` is that of the test rows.
    """

    knn1_auroc: float
    iforest_auroc: float
    knn1_average_precision: float
    anomaly_rate: float


@dataclass(frozen=True)
class Card:
    """What is known about one dataset.

    `n_columns` counts feature columns: the label and the columns in `reader.drop` are left out.
    `files` pairs each file's path below the data directory with its sha256.
    """

    name: str
    group: str
    title: str
    source: str
    origin: tuple[str, ...]
    licence: str
    n_columns: int
    normal: str
    anomalous: str
    protocol: str
    caveats: tuple[str, ...]
    use: str
    parts: tuple[Part, ...]
    files: tuple[tuple[str, str], ...]
    reader: Reader
    yardstick: Yardstick | None

    @property
    def n_rows(self) -> int:
        """Rows of all parts together."""
        return sum(part.n_rows for part in self.parts)

    @property
    def n_anomalies(self) -> int:
        """Anomalous rows of all parts together."""
        return sum(part.n_anomalies for part in self.parts)

    @property
    def anomaly_rate(self) -> float:
        """Share of anomalous rows over all parts, between 0 and 1."""
        return self.n_anomalies / self.n_rows

    @property
    def offline(self) -> bool:
        """Whether the set loads without any file of the data directory."""
        return not self.files


def names(group: str | None = None) -> tuple[str, ...]:
    """Names of the registered datasets, group after group.

    Parameters
    ----------
    group : str, optional
        One of `GROUPS`; all groups without it.

    Raises
    ------
    DatasetError
        When there is no such group.
    """
    if group is not None and group not in GROUPS:
        raise DatasetError(f"no dataset group '{group}'; the groups are: {', '.join(GROUPS)}")
    return tuple(c.name for c in _cards().values() if group is None or c.group == group)


def card(name: str) -> Card:
    """Return the card of one dataset.

    Raises
    ------
    DatasetError
        When no dataset has this name; the message offers the closest ones.
    """
    cards = _cards()
    if name in cards:
        return cards[name]
    folded = {known.casefold(): known for known in cards}
    folded |= {known.split("_", 1)[1].casefold(): known for known in names("adbench")}
    close = [folded[key] for key in get_close_matches(name.casefold(), folded, n=3)]
    hint = f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
    raise DatasetError(
        f"no dataset is called '{name}'{hint} (anomgan_datasets.names() lists all {len(cards)})"
    )


@cache
def _cards() -> MappingProxyType[str, Card]:
    text = resources.files(__package__).joinpath("cards.json").read_text(encoding="utf-8")
    return MappingProxyType({entry["name"]: _card_from(entry) for entry in json.loads(text)})


def _card_from(entry: dict[str, Any]) -> Card:
    reader: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entry["reader"].items()
    }
    nested = {
        "origin": tuple(entry["origin"]),
        "caveats": tuple(entry["caveats"]),
        "parts": tuple(Part(**part) for part in entry["parts"]),
        "files": tuple((path, digest) for path, digest in entry["files"]),
        "reader": Reader(**reader),
        "yardstick": Yardstick(**entry["yardstick"]) if entry["yardstick"] else None,
    }
    return Card(**{**entry, **nested})
