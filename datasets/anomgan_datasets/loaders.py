"""From a card to rows: the readers of the registered datasets.

Every file is checked against the sha256 on its card before it is parsed, and the counts of rows
and anomalies after it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgan.errors import DatasetError
from anomgan_datasets import synthetic
from anomgan_datasets.registry import Card, Part, card

__all__ = ["DATA_DIR_VARIABLE", "Dataset", "data_dir", "load"]

DATA_DIR_VARIABLE = "ANOMGAN_DATA_DIR"

_Table = tuple[pd.DataFrame, NDArray[np.int8]]


@dataclass(frozen=True)
class Dataset:
    """The rows of one dataset.

    Parameters
    ----------
    card : Card
        What is known about it.
    X : pandas.DataFrame [n, d]
        Raw values and mixed types; the label and the columns in `card.reader.drop` are left out.
        Of a set with a training and a test file, the test file.
    y : int8 [n]
        1 = anomaly.
    train : tuple of (DataFrame [m, d], int8 [m]), optional
        The training file, all its rows (anomalous ones too), where the set has one of its own.
    guilty : bool [n, d], optional
        Of synthetic sets: which columns make an anomalous row anomalous.
    """

    card: Card
    X: pd.DataFrame
    y: NDArray[np.int8]
    train: _Table | None = None
    guilty: NDArray[np.bool_] | None = None


def data_dir() -> Path:
    """Where dataset files are looked for.

    The environment variable ANOMGAN_DATA_DIR where it is set and not empty; in a source checkout
    otherwise `../shared/data` beside the repository.

    Raises
    ------
    DatasetError
        When the variable is not set and anomgan is not run from a source checkout.
    """
    named = os.environ.get(DATA_DIR_VARIABLE)
    if named:
        return Path(named)
    repository = Path(__file__).parents[2]
    if (repository / "pyproject.toml").is_file():
        return repository.parent / "shared" / "data"
    raise DatasetError(
        f"no data directory: set {DATA_DIR_VARIABLE} to the folder that holds "
        "tabular/, adbench/ and papers/"
    )


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load one registered dataset.

    Parameters
    ----------
    name : str
        One of `anomgan_datasets.names()`.
    data_dir : path, optional
        Used instead of ANOMGAN_DATA_DIR. Embedded and synthetic sets need no files.

    Raises
    ------
    DatasetError
        When no set has this name, a file is absent or altered, or counts differ from the card.
    """
    found = card(name)
    if found.reader.kind == "synthetic":
        made = _GENERATORS[name]()
        dataset = Dataset(found, made.X, made.y, guilty=made.guilty)
        _check_counts(found, found.parts[0], (dataset.X, dataset.y))
        return dataset
    if found.reader.kind == "sklearn":
        X, y = _read_embedded(found)
        _check_counts(found, found.parts[0], (X, y))
        return Dataset(found, X, y)
    content = read_files(found, data_dir)
    tables: dict[str, _Table] = {}
    for part in found.parts:
        tables[part.name] = _READERS[found.reader.kind](found, part, content)
        _check_counts(found, part, tables[part.name])
    X, y = tables["test"] if "test" in tables else tables["all"]
    return Dataset(found, X, y, train=tables.get("train"))


def read_files(found: Card, directory: str | os.PathLike[str] | None = None) -> dict[str, bytes]:
    """Read all files of a card below a data directory, checked against their sha256.

    Returns
    -------
    dict of str to bytes
        Content by the path on the card.

    Raises
    ------
    DatasetError
        Naming every absent and every altered file at once.
    """
    root = data_dir() if directory is None else Path(directory)
    content: dict[str, bytes] = {}
    faults: list[str] = []
    for path, digest in found.files:
        try:
            content[path] = (root / path).read_bytes()
        except OSError as error:
            faults.append(f"{root / path}: {error.strerror or error}")
            continue
        actual = hashlib.sha256(content[path]).hexdigest()
        if actual != digest:
            faults.append(f"{root / path}: altered, sha256 {actual} instead of {digest}")
    if faults:
        raise DatasetError(
            f"dataset '{found.name}' cannot be read:\n  "
            + "\n  ".join(faults)
            + f"\nSet {DATA_DIR_VARIABLE} (now: {os.environ.get(DATA_DIR_VARIABLE) or 'not set'}) "
            f"to the folder that holds {found.files[0][0]}"
        )
    return content


def is_anomalous(found: Card, labels: pd.Series) -> NDArray[np.int8]:
    """Labels of a raw table as 0 (one of the card's normal values, blanks stripped) and 1."""
    normal = labels.astype(str).str.strip().isin(found.reader.normal_values)
    return np.asarray(~normal, dtype=np.int8)


def _read_csv(found: Card, part: Part, content: Mapping[str, bytes]) -> _Table:
    reader = found.reader
    frame = pd.read_csv(
        io.BytesIO(content[part.file]),
        compression="gzip",
        sep=reader.delimiter,
        encoding="utf-8-sig",
        # Only what the card calls missing: pandas' own list would eat words such as "None".
        keep_default_na=False,
        na_values=["", *reader.missing],
        skipinitialspace=reader.strip,
        dtype={reader.label: str},
        low_memory=False,
    )
    y = is_anomalous(found, frame[reader.label])
    return frame.drop(columns=[reader.label, *reader.drop]), y


def _read_npz(found: Card, part: Part, content: Mapping[str, bytes]) -> _Table:
    with np.load(io.BytesIO(content[part.file]), allow_pickle=False) as arrays:
        X, y = arrays["X"], arrays["y"]
    return _named(X), y.astype(np.int8)


def _read_mat(found: Card, part: Part, content: Mapping[str, bytes]) -> _Table:
    from scipy.io import loadmat

    arrays = loadmat(io.BytesIO(content[part.file]), variable_names=("X", "y"))
    return _named(arrays["X"]), arrays["y"].ravel().astype(np.int8)


def _read_kdd99(found: Card, part: Part, content: Mapping[str, bytes]) -> _Table:
    header = next(text for path, text in content.items() if path.endswith("columns.txt"))
    columns = header.decode("ascii").split()
    frame = pd.read_csv(
        io.BytesIO(content[part.file]),
        compression="gzip",
        header=None,
        names=columns,
        keep_default_na=False,
        low_memory=False,
    )
    label = frame.pop("label")
    # The papers turn it round: attacks are the 80 % and so the normal class.
    return frame, np.asarray(label == "normal.", dtype=np.int8)


def _read_embedded(found: Card) -> _Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{found.name}")(as_frame=True)
    frame, target = bunch.data, bunch.target.to_numpy()
    anomalous = {"breast_cancer": 0, "digits": 9, "iris": 2, "wine": 2}[found.name]
    y = (target == anomalous).astype(np.int8)
    if found.name == "digits":
        keep = np.ones(len(y), dtype=bool)
        keep[np.flatnonzero(y)[1::2]] = False  # every second nine makes the digit rare
        frame, y = frame[keep].reset_index(drop=True), y[keep]
    return frame, y


def _named(X: NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame(X, columns=[f"x{column}" for column in range(X.shape[1])])


def _check_counts(found: Card, part: Part, table: _Table) -> None:
    X, y = table
    got = (len(X), int(y.sum()), X.shape[1])
    expected = (part.n_rows, part.n_anomalies, found.n_columns)
    if got != expected:
        raise DatasetError(
            f"dataset '{found.name}', part '{part.name}': (rows, anomalies, columns) are {got}, "
            f"the card says {expected}; another release of the package that ships it, or a fault "
            "in its reader"
        )


_READERS: Mapping[str, Callable[[Card, Part, Mapping[str, bytes]], _Table]] = MappingProxyType(
    {"csv": _read_csv, "npz": _read_npz, "mat": _read_mat, "kdd99": _read_kdd99}
)
_GENERATORS: Mapping[str, Callable[[], synthetic.Synthetic]] = MappingProxyType(
    {
        "gaussian_blocks": synthetic.gaussian_blocks,
        "gaussian_grid": synthetic.gaussian_grid,
        "gaussian_ring": synthetic.gaussian_ring,
        "machine_log": synthetic.machine_log,
    }
)
