"""Cases of `anomgan benchmark`: the registered suites, and a user's own labelled file.

The functions here are handed to other processes, so they belong to a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from anomgan.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from anomgan.evaluation.benchmark import Case
    from anomgan_datasets import Dataset, Split

__all__ = ["TABLE_PROTOCOL", "file_cases", "protocol_label", "split_set", "suite_cases"]

PAPERS_PROTOCOL = "papers"
"""What results on sets of papers carry, as `papers-clean` (`anomgan_datasets.papers_split`)."""
TABLE_PROTOCOL = "table"
"""What results of raw tables carry: their own files, or 60/40 (`anomgan_datasets.table_split`)."""


def suite_cases(
    suites: Sequence[str],
    protocols: Sequence[str],
    sets: Sequence[str],
    *,
    contamination: Sequence[float] = (0.0,),
    split_seed: int | None = None,
) -> list[Case]:
    """Return the cases of registered suites.

    Parameters
    ----------
    suites : sequence of str
        `adbench`, `tables`, `embedded`, `papers`.
    protocols : sequence of str
        `clean`, `published`; for raw tables only `clean` is possible, and is `table_split`. For
        sets of papers both have the papers' halves, and `published` leaves anomalies in the
        training half, as their code does for Arrhythmia.
    sets : sequence of str
        Names of sets to keep; none keeps all.
    contamination : sequence of float
        Shares of training rows replaced by anomalies, for protocol `clean`; results carry
        `clean+5%` for 0.05.
    split_seed : int, optional
        Seed of all splits, so that the seeds of a run are those of the methods alone; results
        carry `clean@0` for 0.

    Raises
    ------
    UsageError
        A set is in none of the suites, a raw table is to be split as `published`, or anything but
        `clean` is to be contaminated.
    """
    from anomgan.evaluation.benchmark import Case
    from anomgan_datasets import names
    from anomgan_datasets.splits import PAPER_SHARES

    known = {suite: names(suite) for suite in suites}
    absent = sorted(set(sets) - {name for found in known.values() for name in found})
    if absent:
        there = ", ".join(name for found in known.values() for name in found)
        raise UsageError(f"no set {', '.join(absent)} in {', '.join(suites)}; there are {there}")
    if "tables" in suites and "published" in protocols:
        raise UsageError("protocol published is for arrays: leave --suite tables to another run")
    if any(contamination) and ({"tables", "papers"} & set(suites) or "published" in protocols):
        raise UsageError("only protocol clean of arrays can be contaminated (--contamination)")
    return [
        Case(
            suite,
            name,
            protocol_label(kind, share, split_seed),
            partial(split_set, name, kind, share, split_seed),
            PAPER_SHARES.get(name) if suite == "papers" else None,
            score_once=suite == "papers",  # two of three rows of KDD-99 are copies
        )
        for suite, found in known.items()
        for protocol in protocols
        for kind in (_kind(suite, protocol),)
        for share in contamination
        for name in found
        if not sets or name in sets
    ]


def _kind(suite: str, protocol: str) -> str:
    """Return the kind of split that a protocol means in a suite."""
    if suite == "papers":
        return f"{PAPERS_PROTOCOL}-{protocol}"
    return TABLE_PROTOCOL if suite == "tables" else protocol


def protocol_label(protocol: str, contamination: float, split_seed: int | None) -> str:
    """Return what results of a protocol carry: `clean`, `clean+5%`, `clean@0`."""
    label = protocol + (f"+{100 * contamination:g}%" if contamination else "")
    return label if split_seed is None else f"{label}@{split_seed}"


def split_set(
    name: str, protocol: str, contamination: float, split_seed: int | None, seed: int
) -> Split:
    """Split a registered set."""
    from anomgan_datasets import clean_split, papers_split, published_split, table_split

    dataset = _dataset(name)
    if protocol.startswith(PAPERS_PROTOCOL):
        return papers_split(dataset, contaminated=protocol.endswith("published"))
    chosen = seed if split_seed is None else split_seed
    if protocol == TABLE_PROTOCOL:
        return table_split(dataset, chosen)
    values = dataset.X.to_numpy(dtype=float)
    if protocol == "published":
        return published_split(values, dataset.y, chosen)
    return clean_split(values, dataset.y, chosen, contamination=contamination)


@lru_cache(maxsize=1)  # the methods on one set follow each other
def _dataset(name: str) -> Dataset:
    from anomgan_datasets import load

    return load(name)


def file_cases(
    path: str, label: str | None, normal: Sequence[str], protocols: Sequence[str]
) -> list[Case]:
    """Return the cases of a labelled file.

    Parameters
    ----------
    path : str
        CSV, Parquet or Arrow file.
    label : str
        Column that tells normal rows; it is no feature.
    normal : sequence of str
        Its values in normal rows; empty where they are 0 and 1, false and true, or normal and
        anomaly.
    protocols : sequence of str
        `clean`, `published`.

    Raises
    ------
    InputError
        The file cannot be read, or its labels do not tell normal rows from others.
    """
    from anomgan.evaluation.benchmark import Case

    if path == "-":
        raise UsageError("a benchmark reads its table more than once: give a file, not -")
    if label is None:
        raise UsageError(f"{path} needs --label COLUMN: the column that tells normal rows")
    split = partial(split_file, path, label, tuple(normal))
    _labelled(path, label, tuple(normal))  # faults are told before anything runs
    return [Case("file", Path(path).name, name, partial(split, name)) for name in protocols]


def split_file(path: str, label: str, normal: tuple[str, ...], protocol: str, seed: int) -> Split:
    """Split a labelled file."""
    import numpy as np

    from anomgan_datasets import clean_split, published_split

    frame, y = _labelled(path, label, normal)
    split = (published_split if protocol == "published" else clean_split)(
        np.arange(frame.height), y, seed
    )
    return replace(split, X_train=frame[split.train_rows], X_test=frame[split.test_rows])


@lru_cache(maxsize=1)
def _labelled(
    path: str, label: str, normal: tuple[str, ...]
) -> tuple[pl.DataFrame, NDArray[np.int8]]:
    import numpy as np

    from anomgan.tables import read_table
    from anomgan.tables.labels import anomalous

    frame = read_table(path)
    if label not in frame.columns:
        raise UsageError(
            f"{path} has no column {label!r} (--label); it has {', '.join(frame.columns)}"
        )
    return frame.drop(label), anomalous(frame, label, normal, path).astype(np.int8)
