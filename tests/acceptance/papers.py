"""Precision, recall and F1 on the papers' halves, beside what the papers print.

    anomgan benchmark accuracy --suite papers --seeds 0,1,2,3,4,5,6,7,8,9 \
        --methods anomgan,alad,egbad,anogan,ganomaly -o papers.csv
    python tests/acceptance/papers.py papers.csv

KDD-99: attacks are the normal class, and the highest fifth of the scores is called anomalous;
Arrhythmia: the highest 15 %. Printed figures are those of the ALAD paper's tables (Zenati et al.,
2018), written down from memory.

The command fails where ALAD's F1 on KDD-99 is more than 0.02 below the printed 0.950, or the
flagship's is not above that.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from anomgan.evaluation.benchmark import Run, read_runs

PRINTED = {
    ("kdd99_10percent", "alad"): (0.9427, 0.9577, 0.9501),
    ("kdd99_10percent", "anogan"): (0.8786, 0.8297, 0.8865),
    ("kdd99_10percent", "egbad"): (0.9200, 0.9582, 0.9372),
    ("arrhythmia_odds", "alad"): (0.5000, 0.5313, 0.5152),
    ("arrhythmia_odds", "anogan"): (0.4118, 0.4375, 0.4242),
}
KDD, MARK, SLACK = "kdd99_10percent", 0.950, 0.02


def table(runs: list[Run]) -> tuple[list[str], dict[tuple[str, str], float]]:
    """Lines of the table, and the mean F1 by set and method."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.set, run.protocol, run.method].append(run)
    lines = [
        "| set | protocol | method | seeds | precision | recall | F1 | spread | worst | printed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    means = {}
    for (name, protocol, method), own in sorted(groups.items()):
        f1 = np.array([run.f1 for run in own])
        means[name, method] = float(f1.mean())
        spread = f"{f1.std(ddof=1):.4f}" if len(f1) > 1 else "-"
        printed = PRINTED.get((name, method.partition("(")[0]))
        lines.append(
            f"| {name} | {protocol} | {method} | {len(own)} "
            f"| {np.mean([run.precision for run in own]):.4f} "
            f"| {np.mean([run.recall for run in own]):.4f} | {f1.mean():.4f} | {spread} "
            f"| {f1.min():.4f} | {'-' if printed is None else f'{printed[2]:.4f}'} |"
        )
    return lines, means


def main() -> None:
    """Print the table, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    lines, means = table([run for run in read_runs(parser.parse_args().runs) if not run.error])
    print("\n".join(lines))
    alad, ours = means.get((KDD, "alad")), means.get((KDD, "anomgan"))
    if alad is None or ours is None:
        sys.exit("not judged: there are no runs of alad and anomgan on KDD-99")
    if alad < MARK - SLACK or ours <= MARK:
        sys.exit(
            f"ALAD has {alad:.4f} (at least {MARK - SLACK}), anomgan {ours:.4f} (above {MARK})"
        )


if __name__ == "__main__":
    main()
