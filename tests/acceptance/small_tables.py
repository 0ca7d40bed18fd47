"""False-alarm rates on small tables: split against cross-conformal calibration.

    python tests/acceptance/small_tables.py [--splits 10] [--steps 150] [-o small-tables.csv]

The normal rows of each small set are shuffled and halved: one half is fitted, with
`calibration="split"` and with `"cross"`, the other half is scored. For each rate that the
calibration rows of a fit can count (1/(n + 1) or more), the share of the scored rows that is
flagged should be the largest multiple of 1/(n + 1) within the rate, on the mean over splits. The
command prints that expectation beside the mean found and its standard deviation over splits, set
by set, and fails if the mean over sets is further from the expectation than 0.03 at 0.1, 0.02 at
0.05 or 0.01 at 0.01 (five standard errors or more at the first two), or if "cross" varies more over
splits than "split".

A model of "split" that cannot count a rate is left out of the means for that rate.

Ten halves of one small set have luck of their own. As a control the command repeats them, and 200
halves, with a score that needs no training: the distance to the nearest other row, calibrated on
all rows with themselves left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
from false_alarms import FIELDS, gather, measure
from scipy.spatial.distance import cdist

from anomgan_datasets import load, names

SETS = (
    *("15_Hepatitis", "18_Ionosphere", "37_Stamps", "43_WDBC", "45_wine", "46_WPBC", "47_yeast"),
    *(name for name in names("embedded") if name != "breast_cancer"),  # 43_WDBC: the same rows
)
MODES = ("split", "cross")
TOLERANCES = {0.1: 0.03, 0.05: 0.02, 0.01: 0.01}
ALL_FIELDS = ("set", "split", "mode", *FIELDS[2:])

Figures = dict[str, tuple[float, float, float, int]]


def measure_mode(name: str, split: int, mode: str, *, steps: int) -> list[dict[str, object]]:
    """Fit and score one split by one calibration; one row a rate."""
    return [{"mode": mode, **r} for r in measure(name, split, steps=steps, calibration=mode)]


def figures(rows: list[dict[str, str]], rate: float, mode: str) -> Figures:
    """Expected and mean rate, its deviation over splits, and calibration rows, set by set."""
    runs: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for row in rows:
        n = int(row["calibration"])
        count = int(np.floor(rate * (n + 1) + 1e-9))
        if float(row["rate"]) == rate and row["mode"] == mode and count:
            runs[row["set"]].append((count / (n + 1), int(row["flagged"]) / int(row["scored"]), n))
    found = {}
    for name, values in runs.items():
        expected, realised, n_rows = (np.array(column) for column in zip(*values, strict=True))
        spread = float(realised.std(ddof=1)) if len(realised) > 1 else float("nan")
        found[name] = (float(expected.mean()), float(realised.mean()), spread, int(n_rows[0]))
    return found


def control(name: str, splits: int, rate: float) -> float:
    """Mean realised rate of the leave-one-out distance to the nearest row."""
    data = load(name)
    normal = data.X[data.y == 0].to_numpy(dtype=float)
    realised = []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(normal))
        known, new = np.split(normal[order], [len(order) // 2])
        mean, deviation = known.mean(axis=0), known.std(axis=0)
        deviation[deviation == 0.0] = 1.0
        known, new = (known - mean) / deviation, (new - mean) / deviation
        between = cdist(known, known)
        np.fill_diagonal(between, np.inf)
        calibration = np.sort(between.min(axis=1))
        above = len(known) - np.searchsorted(calibration, cdist(new, known).min(axis=1))
        realised.append(float(np.mean((1 + above) / (len(known) + 1) <= rate)))
    return float(np.mean(realised))


def judge(rows: list[dict[str, str]]) -> bool:
    """Print the tables; tell whether "cross" keeps what it promises."""
    good = True
    for rate, tolerance in TOLERANCES.items():
        by_mode = {mode: figures(rows, rate, mode) for mode in MODES}
        print(
            f"\n| rate {rate:g} | split: rows | expected | mean | spread "
            "| cross: rows | expected | mean | spread |\n|---|" + 8 * "--:|"
        )
        for name in sorted(by_mode["cross"], key=lambda s: by_mode["cross"][s][3]):
            print(
                f"| {name} | "
                + " | ".join(_cells(by_mode[mode].get(name)) for mode in MODES)
                + " |"
            )
        both = [name for name in by_mode["cross"] if name in by_mode["split"]]
        for mode in MODES:
            values = np.array([v[:3] for v in by_mode[mode].values()])
            if not len(values):
                continue
            expected, mean, spread = values.mean(axis=0)
            shared = float(np.mean([by_mode[mode][name][2] for name in both])) if both else spread
            print(
                f"{mode}, rate {rate:g}: mean over {len(values)} sets {mean:.4f}, expected "
                f"{expected:.4f}; spread over splits {spread:.4f} (on the {len(both)} sets that "
                f"both count {shared:.4f})"
            )
            if mode == "cross":
                good &= abs(mean - expected) <= tolerance
        if both:
            spreads = [np.mean([by_mode[mode][name][2] for name in both]) for mode in MODES]
            good &= bool(spreads[1] <= spreads[0])
    return good


def _cells(found: tuple[float, float, float, int] | None) -> str:
    if found is None:
        return "- | - | - | -"
    expected, mean, spread, n = found
    return f"{n} | {expected:.3f} | {mean:.3f} | {spread:.3f}"


def main() -> None:
    """Run what is missing, then judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("small-tables.csv"))
    arguments = parser.parse_args()
    tasks = [(n, s, m) for s in range(arguments.splits) for n in arguments.sets for m in MODES]
    work = partial(measure_mode, steps=arguments.steps)
    rows = gather(arguments.output, ALL_FIELDS, tasks, work, arguments.jobs)
    small = [name for name in arguments.sets if name != "digits"]  # distances of which take long
    for rate in (0.1, 0.05):
        for splits in (arguments.splits, 200):
            rates = {name: control(name, splits, rate) for name in small}
            shown = ", ".join(f"{name} {value:.3f}" for name, value in rates.items())
            print(
                f"control, rate {rate:g}, {splits} halves: {np.mean(list(rates.values())):.4f} "
                f"({shown})"
            )
    if not judge([row for row in rows if row["set"] in arguments.sets]):
        sys.exit("false-alarm rates are not what the calibration promises")


if __name__ == "__main__":
    main()
