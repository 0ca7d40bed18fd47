"""Realised false-discovery rates over batches with planted shares of anomalies.

    python tests/acceptance/false_alarms.py --keep p-values [--splits 20] [--steps N]
    python tests/acceptance/false_discoveries.py p-values

The first command fits every split of the normal rows of every development set and keeps the
p-values of the other half, and of the set's real anomalies. Batches of 500 rows are drawn from
both, in planted shares, and flagged as ``anomgan score --fdr 0.1`` flags them, and as it does with
``--fdr-extrapolate``. Of each batch the share of flags that are false is counted, 0 where nothing
is flagged; its mean over batches, splits and sets is the false-discovery rate.

With Benjamini and Hochberg's procedure on counted p-values the rate is at most 0.1 times the share
of normal rows. The command prints the rate and its standard error for every share, and fails if a
rate exceeds that by three standard errors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from anomgan.false_discovery import FdrMethod, benjamini_hochberg

RATE, BATCH_ROWS, BATCHES = 0.1, 500, 20
METHODS: tuple[tuple[str, FdrMethod, bool], ...] = (
    ("bh", "bh", False),
    ("storey", "storey", False),
    ("bh, extrapolated", "bh", True),
)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)


def batches(kept: Path) -> list[dict[str, object]]:
    """Flag batches of one split; one row a batch and method."""
    name, _, split = kept.stem.rpartition("-")
    arrays = np.load(kept)
    p_normal, p_anomalous = arrays["normal"], arrays["anomalous"]
    resolution = np.float32(1.0 / (int(arrays["calibration"]) + 1))
    rng = np.random.default_rng([int(split), 1])
    rows: list[dict[str, object]] = []
    for share in SHARES:
        n_planted = round(share * BATCH_ROWS)
        n_normal = BATCH_ROWS - n_planted
        if n_planted > len(p_anomalous) or n_normal > len(p_normal):
            continue
        for _ in range(BATCHES):
            drawn = [(p_normal, n_normal), (p_anomalous, n_planted)]
            p = np.concatenate([rng.choice(pool, n, replace=False) for pool, n in drawn])
            for rule, method, extrapolated in METHODS:
                counted = 0.0 if extrapolated else resolution
                flags = benjamini_hochberg(p, RATE, method=method, resolution=counted)
                rows.append(
                    {
                        "set": name,
                        "split": int(split),
                        "share": share,
                        "method": rule,
                        "flagged": int(flags.sum()),
                        "false": int(flags[:n_normal].sum()),
                    }
                )
    return rows


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
            good &= method != "bh" or rate <= RATE * (1.0 - float(share)) + 3.0 * error
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


def main() -> None:
    """Draw and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kept", type=Path, help="folder that false_alarms.py --keep made")
    arguments = parser.parse_args()
    files = sorted(arguments.kept.glob("*.npz"))
    if not files:
        sys.exit(f"{arguments.kept} holds no p-values: run false_alarms.py --keep first")
    if not judge(pd.DataFrame([row for kept in files for row in batches(kept)])):
        sys.exit(f"more than {RATE:.0%} of the flags are false")


if __name__ == "__main__":
    main()
