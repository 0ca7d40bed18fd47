"""Every raw table through the command line, with no option beyond file names and the label.

    python tests/acceptance/tables.py [--sets nsl_kdd ai4i2020] [--seed 0] [-o results.csv]

For each set two CSV files are written as a user would have them (normal rows to learn from,
labelled rows to score), `anomgan fit` and `anomgan score` run on them as processes of their
own, and the scores are compared with 1-NN and IsolationForest on standardised numbers and
one-hot categories of the same split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from anomgan.evaluation.baselines import detectors
from anomgan_datasets import card, csv_files, load, names, table_split


def run(*arguments: str) -> float:
    """Run the command line; return its seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "anomgan_cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stderr}")
    return time.perf_counter() - started


def baselines(name: str, seed: int) -> dict[str, float]:
    """Return AUROC of 1-NN and IsolationForest on the same split, plainly prepared."""
    split = table_split(load(name), seed)
    found = {
        method: make(seed).fit(split.X_train).score(split.X_test)
        for method, make in detectors(["knn1", "iforest"]).items()
    }
    return {
        f"{m}{k}": 100 * metric(split.y_test, s)
        for m, s in found.items()
        for k, metric in (("", roc_auc_score), ("_ap", average_precision_score))
    }


def evaluate(name: str, seed: int) -> dict[str, object]:
    """Fit, score and judge one set."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        train, test, label, normal = csv_files(name, place, seed)
        model, out = str(place / "model"), str(place / "scores.csv")
        fit_s = run("fit", str(train), "--label", label, "--normal", normal, "-m", model)
        score_s = run("score", str(test), "-m", model, "-o", out, "--keep-columns")
        scores = pd.read_csv(out, low_memory=False, dtype={label: str})
        labels = scores[label].str.strip()
        y = (labels != normal).to_numpy().astype(int)
        if not y.any():
            raise SystemExit(f"{name}: no anomaly found with label {label} != {normal!r}")
    flagged = scores["is_anomaly"].astype(str).str.lower().eq("true").to_numpy()
    return {
        "set": name,
        "use": card(name).use,
        "rows": len(y),
        "anomgan": 100 * roc_auc_score(y, scores["score"]),
        "anomgan_ap": 100 * average_precision_score(y, scores["score"]),
        **baselines(name, seed),
        "far": float(flagged[y == 0].mean()),
        "recall": float(flagged[y == 1].mean()),
        "fit_s": fit_s,
        "score_s": score_s,
    }


def main() -> None:
    """Run the sets and print the table."""

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=list(names("tables")))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", default=None, help="CSV file to write")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        rows.append(evaluate(name, arguments.seed))
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}
        print(*(f"{k}={v}" for k, v in shown.items()), flush=True)
        if arguments.output:
            pd.DataFrame(rows).to_csv(arguments.output, index=False)
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    quality = table[table.use.str.contains("quality")]
    print(f"above IsolationForest on {(quality.anomgan > quality.iforest).sum()} of {len(quality)}")


if __name__ == "__main__":
    main()
