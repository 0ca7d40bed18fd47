"""The CSV files that a user would have: training rows that are normal, and labelled rows to score.

Of raw tables the cells are written as they stand in the source file (separator, quotes,
blanks, `?`, line ends and byte order mark kept), so that reading them is part of the trial.
"""

from __future__ import annotations

import gzip
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import DatasetError
from anomgan_datasets.loaders import load, read_files
from anomgan_datasets.registry import Card, card
from anomgan_datasets.splits import table_split

__all__ = ["csv_files"]

_PLAIN_LABEL = "label"
_PLAIN_NORMAL = "normal"
_PLAIN_ANOMALY = "anomaly"


@dataclass(frozen=True)
class _RawTable:
    header: list[str]
    rows: list[list[str]]
    newline: str
    encoding: str


def csv_files(
    name: str,
    directory: str | os.PathLike[str],
    seed: int = 0,
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[Path, Path, str, str]:
    """Write `NAME-train.csv` and `NAME-test.csv`, split as by `table_split`.

    Both keep the label column, for `--label COLUMN --normal VALUE`; the columns that the card
    drops are gone. A set whose normal rows go by several label values (`<=50K` and `<=50K.`) is
    written with the first one of its training rows. A set that is not a raw table gets a column
    `label` with the values `normal` and `anomaly`.

    Parameters
    ----------
    name : str
        A registered dataset.
    directory : path
        Made where it does not exist; files of these names in it are replaced.
    seed : int
        Seed of the split where the set has no training file of its own.
    data_dir : path, optional
        Used instead of ANOMGAN_DATA_DIR.

    Returns
    -------
    tuple of (Path, Path, str, str)
        Training file (normal rows only), test file, label column, its value for normal rows.

    Raises
    ------
    DatasetError
        When no set has this name, or its files are absent or altered.
    """
    found = card(name)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    train_csv, test_csv = folder / f"{name}-train.csv", folder / f"{name}-test.csv"
    if found.reader.kind == "csv":
        label, normal = _write_raw(found, train_csv, test_csv, seed, data_dir)
    else:
        label, normal = _write_plain(name, train_csv, test_csv, seed, data_dir)
    return train_csv, test_csv, label, normal


def _write_raw(
    found: Card,
    train_csv: Path,
    test_csv: Path,
    seed: int,
    data_dir: str | os.PathLike[str] | None,
) -> tuple[str, str]:
    split = table_split(load(found.name, data_dir=data_dir), seed)
    content = read_files(found, data_dir)
    tables = {part.name: _parse(content[part.file], found) for part in found.parts}
    train = tables["train"] if "train" in tables else tables["all"]
    test = tables["test"] if "test" in tables else tables["all"]
    names = [_bare(cell) for cell in train.header]
    keep = [i for i, column in enumerate(names) if column not in found.reader.drop]
    label = names.index(str(found.reader.label))
    written = train.rows[split.train_rows[0]][label]
    for path, table, chosen in (
        (train_csv, train, split.train_rows),
        (test_csv, test, split.test_rows),
    ):
        picked = [table.header]
        for row in (table.rows[i] for i in chosen):
            same = _bare(row[label]) in found.reader.normal_values
            picked.append([*row[:label], written, *row[label + 1 :]] if same else row)
        _write(path, ([row[i] for i in keep] for row in picked), table, found.reader.delimiter)
    return names[label], _bare(written)


def _write_plain(
    name: str,
    train_csv: Path,
    test_csv: Path,
    seed: int,
    data_dir: str | os.PathLike[str] | None,
) -> tuple[str, str]:
    split = table_split(load(name, data_dir=data_dir), seed)
    if _PLAIN_LABEL in split.X_train.columns:
        raise DatasetError(f"dataset '{name}' has a column '{_PLAIN_LABEL}' of its own")
    normal: NDArray[np.int8] = np.zeros(len(split.X_train), dtype=np.int8)
    for path, frame, y in (
        (train_csv, split.X_train, normal),
        (test_csv, split.X_test, split.y_test),
    ):
        labels = np.where(y == 1, _PLAIN_ANOMALY, _PLAIN_NORMAL)
        frame.assign(**{_PLAIN_LABEL: labels}).to_csv(path, index=False, lineterminator="\n")
    return _PLAIN_LABEL, _PLAIN_NORMAL


def _parse(content: bytes, found: Card) -> _RawTable:
    """Cut a table into cells of raw text; no cell of the registered tables spans lines."""
    plain = gzip.decompress(content)
    text = plain.decode("utf-8-sig")
    newline = "\r\n" if "\r\n" in text else "\n"
    mark = re.escape(found.reader.delimiter)
    field = re.compile(rf'(?:^|{mark})(\s*"(?:[^"]|"")*"|[^{mark}]*)')
    rows = [
        field.findall(line) if '"' in line else line.split(found.reader.delimiter)
        for line in text.split(newline)
        if line
    ]
    encoding = "utf-8-sig" if plain.startswith(BOM_UTF8) else "utf-8"
    return _RawTable(rows[0], rows[1:], newline, encoding)


def _bare(cell: str) -> str:
    return cell.strip().strip('"')


def _write(path: Path, rows: Iterable[list[str]], like: _RawTable, delimiter: str) -> None:
    with path.open("w", encoding=like.encoding, newline="") as file:
        file.writelines(delimiter.join(row) + like.newline for row in rows)
