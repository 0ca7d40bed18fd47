"""Does EGBAD collapse when it trains longer? KDD-99 in the papers' halves, by epochs.

    python tests/acceptance/longer_training.py [--epochs 100,200,1000] [--minutes 30] [--seed 0]

The detector is trained with its default batches for a large table, and for no longer than the given
minutes each: `epochs run` says how far it came, its learning rate having decayed to the end by
then.

The command fails where a longer training has an F1 that is more than 0.03 below that of the
shortest one, or below 0.8.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from anomgan.evaluation.benchmark import distinct
from anomgan.literature import FACES
from anomgan_datasets import load, papers_split
from anomgan_datasets.splits import PAPER_SHARES

SET, BATCH_ROWS = "kdd99_10percent", 512
SLACK, LEAST = 0.03, 0.8
FIELDS = (
    *("epochs", "epochs_run", "minutes", "precision", "recall", "f1", "auroc", "coverage"),
    "weights_from_step",
)


def measure(epochs: float, minutes: float, seed: int) -> dict[str, float]:
    """Train for so many epochs, or as long as there is time; score, and judge."""
    split = papers_split(load(SET))
    detector = FACES["egbad"](random_state=seed, device="cpu")
    n_trained = len(split.X_train) - detector.max_calibration_rows
    n_steps = round(epochs * n_trained / BATCH_ROWS)
    plan = {"n_steps": n_steps, "batch_rows": BATCH_ROWS, "plan_rows": 0}
    detector.set_params(**plan, max_time=60.0 * minutes)
    began = time.perf_counter()
    detector.fit(split.X_train)
    took = time.perf_counter() - began
    rows, place = distinct(split.X_test)
    scores = detector.anomaly_score(rows)[place]
    called = scores >= np.quantile(scores, 1.0 - PAPER_SHARES[SET])
    training, facts = detector.model_.facts, detector.model_.health.facts
    return {
        "epochs": epochs,
        "epochs_run": training["steps"] * BATCH_ROWS / n_trained,
        "minutes": took / 60.0,
        "precision": precision_score(split.y_test, called),
        "recall": recall_score(split.y_test, called),
        "f1": f1_score(split.y_test, called),
        "auroc": roc_auc_score(split.y_test, scores),
        "coverage": facts["coverage"],
        "weights_from_step": facts["weights_from_step"],
    }


def main() -> None:
    """Measure, keep every figure as it comes, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", default="100,200,1000")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("longer-training.csv"))
    options = parser.parse_args()
    found = []
    with options.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for epochs in map(float, options.epochs.split(",")):
            found.append(measure(epochs, options.minutes, options.seed))
            writer.writerow({name: f"{value:.6g}" for name, value in found[-1].items()})
            file.flush()
            print({name: round(value, 4) for name, value in found[-1].items()}, flush=True)
    first, worst = found[0]["f1"], min(figures["f1"] for figures in found)
    if worst < LEAST:
        sys.exit(f"F1 is {worst:.4f} in one of them, at least {LEAST} is wanted")
    if worst < first - SLACK:
        sys.exit(f"F1 falls from {first:.4f} to {worst:.4f}: it collapses")


if __name__ == "__main__":
    main()
