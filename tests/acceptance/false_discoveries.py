"""Realised false-discovery rates over batches with planted shares of anomalies.

    python tests/acceptance/false_discoveries.py [--splits 20] [--steps N] [-o FILE]

For every development set (ADBench and raw tables) with at least 1 000 normal rows, up to 10 000 of
these are shuffled; the first half trains and calibrates the default detector. Batches of 500 rows
are drawn from the other half and from the set's real anomalies, in planted shares, and flagged as
``anomgan score --fdr 0.1`` flags them, and as it does with ``--fdr-extrapolate``. Of each batch the
share of flags that are false is counted, 0 where nothing is flagged; its mean over batches, splits
and sets is the false-discovery rate.

With Benjamini and Hochberg's procedure on counted p-values the rate is at most 0.1 times the share
of normal rows. The command prints the rate and its standard error for every share, and fails if the
mean over the sets exceeds 0.1 for a share.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from false_alarms import LEAST, MOST

from anomgan import GANDetector
from anomgan.calibration import Calibrator
from anomgan.false_discovery import FdrMethod, step_up_cutoff
from anomgan_datasets import Dataset, load, names

RATE, BATCH_ROWS, BATCHES = 0.1, 500, 20
METHODS: tuple[tuple[str, FdrMethod, bool], ...] = (
    ("bh", "bh", False),
    ("storey", "storey", False),
    ("bh, extrapolated", "bh", True),
)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
FIELDS = (
    *("set", "split", "calibration", "share", "method", "batch"),
    *("flagged", "false"),
)


def measure(name: str, split: int, steps: int | None) -> list[dict[str, object]]:
    """Fit one split and flag its batches; one row a batch and method."""
    data = load(name)
    normal = data.X[data.y == 0]
    order = np.random.default_rng(split).permutation(len(normal))[:MOST]
    half = len(order) // 2
    parameters = {} if steps is None else {"n_steps": steps}
    detector = GANDetector(random_state=split, **parameters).fit(normal.iloc[order[:half]])
    p_normal = detector.p_values(normal.iloc[order[half:]])
    p_anomalous = detector.p_values(anomalies(data, split))
    calibrator = detector.model_.calibrator
    assert isinstance(calibrator, Calibrator)
    resolution = np.float32(calibrator.resolution)
    rng = np.random.default_rng([split, 1])
    rows: list[dict[str, object]] = []
    for share in SHARES:
        n_planted = round(share * BATCH_ROWS)
        n_normal = BATCH_ROWS - n_planted
        if n_planted > len(p_anomalous) or n_normal > len(p_normal):
            continue
        for batch in range(BATCHES):
            p = np.concatenate(
                [
                    rng.choice(p_normal, n_normal, replace=False),
                    rng.choice(p_anomalous, n_planted, replace=False),
                ]
            )
            for name_of_rule, method, extrapolated in METHODS:
                ruled = p if extrapolated else np.maximum(p, resolution)
                flags = ruled <= np.float32(step_up_cutoff(ruled, RATE, method=method))
                rows.append(
                    {
                        "set": name,
                        "split": split,
                        "calibration": calibrator.n,
                        "share": share,
                        "method": name_of_rule,
                        "batch": batch,
                        "flagged": int(flags.sum()),
                        "false": int(flags[:n_normal].sum()),
                    }
                )
    return rows


def anomalies(data: Dataset, split: int) -> pd.DataFrame:
    """At most `MOST` of the set's anomalies."""
    found = data.X[data.y == 1]
    return found.iloc[np.random.default_rng(split).permutation(len(found))[:MOST]]


def rate_of(table: pd.DataFrame) -> tuple[float, float]:
    """Mean share of false flags, and its standard error over splits."""
    splits = table.groupby(["set", "split"])["proportion"].mean()
    # Each set counts alike, however many shares its anomalies suffice for.
    spread = splits.groupby("set").agg(["var", "count", "mean"])
    error = np.sqrt((spread["var"] / spread["count"]).sum()) / len(spread)
    return float(spread["mean"].mean()), float(error)


def judge(table: pd.DataFrame) -> bool:
    """Print rates by method and share; tell whether Benjamini and Hochberg's holds."""
    table["proportion"] = table["false"] / table["flagged"].clip(lower=1)
    good = True
    for method, runs in table.groupby("method", sort=False):
        for share, part in runs.groupby("share"):
            rate, error = rate_of(part)
            good &= method != "bh" or rate <= RATE
            print(
                f"{method}, {share:.0%} planted: {rate:.4f} +- {error:.4f} over "
                f"{part['set'].nunique()} sets, {len(part)} batches; {part['flagged'].mean():.1f} "
                "flags a batch"
            )
        rate, error = rate_of(runs)
        by_set = runs.groupby("set")["proportion"].mean().sort_values(ascending=False)
        largest = ", ".join(f"{name} {value:.3f}" for name, value in by_set[:4].items())
        print(f"{method}, all shares: {rate:.4f} +- {error:.4f}; largest: {largest}")
    return good


def missing(
    names_: Iterable[str], n_splits: int, known: set[tuple[str, int]]
) -> list[tuple[str, int]]:
    """Sets with enough rows, and splits, that are still to be measured."""
    large = [n for n in names_ if int((load(n).y == 0).sum()) >= LEAST]
    return [(n, s) for s in range(n_splits) for n in large if (n, s) not in known]


def main() -> None:
    """Run what is missing, then judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sets", nargs="*", default=[*names("adbench"), *names("tables")])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("false-discoveries.csv"))
    arguments = parser.parse_args()
    if not arguments.output.exists():
        arguments.output.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    before = pd.read_csv(arguments.output)
    known = set(zip(before["set"], before["split"], strict=True))
    tasks = missing(arguments.sets, arguments.splits, known)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(measure, *task, arguments.steps) for task in tasks]
        for done, future in enumerate(as_completed(waiting), start=1):
            with arguments.output.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerows(future.result())
            print(f"{done}/{len(tasks)}", end="\r", file=sys.stderr, flush=True)
    if not judge(pd.read_csv(arguments.output)):
        sys.exit(f"more than {RATE:.0%} of the flags are false")


if __name__ == "__main__":
    main()
