"""Train and test rows of a dataset: the project's two protocols, and a published one.

Training rows are always normal ones, unless contamination is asked for to see what it costs. In the
project's own protocols no row is duplicated, and none is in both halves; `published_split` repeats
what others printed, duplicates and all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.errors import DatasetError
from anomgan_datasets.loaders import Dataset

__all__ = ["PAPER_SHARES", "Split", "clean_split", "papers_split", "published_split", "table_split"]

_CLEAN_ROWS = 10_000
_PUBLISHED_LEAST, _PUBLISHED_MOST = 1_000, 50_000
_TABLE_TRAIN_SHARE = 0.6
_PAPERS_SEED = 42

PAPER_SHARES = {"kdd99_10percent": 0.2, "arrhythmia_odds": 0.15}
"""Share of the test rows that the papers call anomalous, by set."""


@dataclass(frozen=True)
class Split:
    """Normal rows to train on, and labelled rows to score.

    Parameters
    ----------
    X_train : DataFrame or ndarray [n_train, d]
        Normal rows only (unless contamination was asked for), as they were handed in.
    X_test : DataFrame or ndarray [n_test, d]
        Other normal rows and every anomalous row.
    y_test : int8 [n_test]
        1 = anomaly.
    train_rows, test_rows : int64 [n_train], [n_test]
        0-based positions of these rows in the tables they were taken from.
    """

    X_train: Any
    X_test: Any
    y_test: NDArray[np.int8]
    train_rows: NDArray[np.int64]
    test_rows: NDArray[np.int64]

    def standardised(self) -> Split:
        """Both halves scaled by the mean and standard deviation of the training rows.

        Values come back as float64 arrays; a column that is constant in training is only centred.

        Raises
        ------
        DatasetError
            When a column is not numeric.
        """
        try:
            train = np.asarray(self.X_train, dtype=np.float64)  # [n_train, d]
            test = np.asarray(self.X_test, dtype=np.float64)  # [n_test, d]
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"cannot standardise columns that are not numeric ({error}); "
                "encode text and dates first"
            ) from error
        mean, scale = train.mean(axis=0), train.std(axis=0)
        scale[scale == 0.0] = 1.0
        return replace(self, X_train=(train - mean) / scale, X_test=(test - mean) / scale)


def clean_split(X: Any, y: ArrayLike, seed: int, *, contamination: float = 0.0) -> Split:
    """Protocol `clean`: half of the normal rows train, the other half and all anomalies test.

    All rows are shuffled with `numpy.random.default_rng(seed)` and the first 10 000 kept. Of the n
    normal rows among them the first round(n / 2) train, an odd half going to the even number as
    Python rounds (33.5 to 34, 112.5 to 112): with it the project's tables of baselines are met to
    all printed digits. Rows stay in the shuffled order; test has its normal rows first.

    Parameters
    ----------
    X : DataFrame or array_like [n, d]
        Handed back by rows, unscaled: `Split.standardised` is the protocol's last step.
    y : array_like [n]
        1 (or True) for an anomaly, 0 for a normal row.
    seed : int
        Seed of the shuffle; the protocol asks for 0, 1 and 2.
    contamination : float
        Share of the training rows, in [0, 0.5], that are replaced by anomalies, the first in the
        shuffled order; at most half of all anomalies go there, so that enough are left to find.
        The normal rows that make way are in neither half, the anomalies in training not in test.

    Raises
    ------
    DatasetError
        When lengths differ, a label is neither 0 nor 1, no two normal rows are there to split, or
        `contamination` is out of range.
    """
    if not 0.0 <= contamination <= 0.5:
        raise DatasetError(f"contamination is {contamination}, it must lie in [0, 0.5]")
    labels = _labels(y)
    n_rows = _check_lengths(X, labels)
    kept = np.random.default_rng(seed).permutation(n_rows)[:_CLEAN_ROWS]
    normal, anomalous = kept[labels[kept] == 0], kept[labels[kept] == 1]
    _check_enough_normal(normal)
    n_train = round(len(normal) / 2)
    n_foul = min(round(contamination * n_train), len(anomalous) // 2)
    train = np.concatenate([normal[: n_train - n_foul], anomalous[:n_foul]])
    test = np.concatenate([normal[n_train:], anomalous[n_foul:]])
    return _split(X, labels, train, test)


def published_split(X: Any, y: ArrayLike, seed: int) -> Split:
    """Protocol `published`: what the table of "On Diffusion Modeling for Anomaly Detection" shows.

    The first half of the normal rows in file order trains, the second half and all anomalies test.
    Sets under 1 000 rows are first resampled with replacement to 1 000, sets over 50 000 rows
    subsampled to 50 000 without. It leaks copies of training rows into the test of small sets, and
    has a shift between the halves of others: use its figures against printed ones only.

    The findings leave open how rows are drawn, their order and the odd row; these follow the code
    of the paper's authors: drawn rows are numpy's legacy `RandomState(seed).choice`, they stay in
    the order in which they were drawn, and round(n / 2) of n normal rows train. Between 1 000 and
    50 000 rows the seed changes nothing.

    Parameters
    ----------
    X : DataFrame or array_like [n, d]
        Handed back by rows, unscaled: `Split.standardised` is the protocol's last step.
    y : array_like [n]
        1 (or True) for an anomaly, 0 for a normal row.
    seed : int
        Seed of the draws; printed figures are means over 0 to 4.

    Raises
    ------
    DatasetError
        When lengths differ, a label is neither 0 nor 1, or no two normal rows are there to split.
    """
    labels = _labels(y)
    n_rows = _check_lengths(X, labels)
    kept = np.arange(n_rows, dtype=np.int64)
    if n_rows < _PUBLISHED_LEAST:
        kept = np.random.RandomState(seed).choice(kept, _PUBLISHED_LEAST, replace=True)
    elif n_rows > _PUBLISHED_MOST:
        kept = np.random.RandomState(seed).choice(kept, _PUBLISHED_MOST, replace=False)
    normal, anomalous = kept[labels[kept] == 0], kept[labels[kept] == 1]
    _check_enough_normal(normal)
    n_train = round(len(normal) / 2)
    return _split(X, labels, normal[:n_train], np.concatenate([normal[n_train:], anomalous]))


def table_split(dataset: Dataset, seed: int) -> Split:
    """Split as suggested for tables: the set's own files, else 60/40 of the normal rows.

    Where the set has its own training file, its normal rows train, every row of its test file is
    scored, and the seed changes nothing. Else `numpy.random.default_rng(seed)` draws 60 % of the
    normal rows (rounded down) to train; the others and all anomalies are scored. Rows keep the
    order of the file.

    Raises
    ------
    DatasetError
        When no two normal rows are there to split.
    """
    if dataset.train is not None:
        X_train, y_train = dataset.train
        train_rows = np.flatnonzero(y_train == 0)
        test_rows = np.arange(len(dataset.y), dtype=np.int64)
        return Split(
            X_train=_take(X_train, train_rows),
            X_test=dataset.X,
            y_test=dataset.y,
            train_rows=train_rows,
            test_rows=test_rows,
        )
    normal = np.flatnonzero(dataset.y == 0)
    _check_enough_normal(normal)
    drawn = np.random.default_rng(seed).permutation(normal)
    train_rows = np.sort(drawn[: int(_TABLE_TRAIN_SHARE * len(normal))])
    test_rows = np.setdiff1d(np.arange(len(dataset.y)), train_rows)
    return _split(dataset.X, dataset.y, train_rows, test_rows)


def papers_split(dataset: Dataset, *, contaminated: bool = False) -> Split:
    """Split as the code of EGBAD and ALAD does: the same halves for every seed of a method.

    Half of the rows train, drawn as their code draws them (pandas' `sample` for KDD-99, where
    attacks are the normal class; scikit-learn's `train_test_split` for Arrhythmia, both seeded with
    42); the other half is scored.

    Parameters
    ----------
    dataset : Dataset
        `kdd99_10percent` or `arrhythmia_odds`.
    contaminated : bool
        Leave the anomalous rows in the training half, as their code does for Arrhythmia.

    Raises
    ------
    DatasetError
        The set is of no paper.
    """
    name, labels = dataset.card.name, dataset.y
    if name not in PAPER_SHARES:
        raise DatasetError(f"{name} is in no paper's protocol: there are {', '.join(PAPER_SHARES)}")
    order = np.random.RandomState(_PAPERS_SEED).permutation(len(labels))
    half = len(labels) // 2
    train, test = order[:half], order[half:]
    if name == "arrhythmia_odds":
        train, test = test, train
    if not contaminated:
        train = train[labels[train] == 0]
    return _split(dataset.X, labels, np.sort(train), np.sort(test))


def _labels(y: ArrayLike) -> NDArray[np.int8]:
    labels = np.asarray(y)
    unknown = sorted({str(value) for value in np.unique(labels)} - {"0", "1", "False", "True"})
    if labels.ndim != 1 or labels.dtype.kind not in "biu" or unknown:
        found = ", ".join(unknown[:5]) or f"{labels.dtype} {list(labels.shape)}"
        raise DatasetError(
            f"labels must be one 0 (normal) or 1 (anomaly) a row, as integers; found {found}"
        )
    return labels.astype(np.int8)


def _check_lengths(X: Any, labels: NDArray[np.int8]) -> int:
    n_rows = len(X)
    if n_rows != len(labels):
        raise DatasetError(f"{n_rows} rows but {len(labels)} labels: one label a row is expected")
    return n_rows


def _check_enough_normal(normal: NDArray[np.int64]) -> None:
    if len(normal) < 2:
        raise DatasetError(f"{len(normal)} normal rows: at least 2 are needed to split them")


def _split(
    X: Any, y: NDArray[np.int8], train_rows: NDArray[np.int64], test_rows: NDArray[np.int64]
) -> Split:
    return Split(
        X_train=_take(X, train_rows),
        X_test=_take(X, test_rows),
        y_test=y[test_rows],
        train_rows=train_rows,
        test_rows=test_rows,
    )


def _take(X: Any, rows: NDArray[np.int64]) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[rows].reset_index(drop=True)
    return np.asarray(X)[rows]
