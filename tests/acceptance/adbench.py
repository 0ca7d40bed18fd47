"""Default detector against scikit-learn's on the ADBench development sets, with ONNX parity.

    python tests/acceptance/adbench.py [--sets 44_Wilt 38_thyroid] [--seed 0] [-o results.csv]

Protocol `clean` of the findings page (`anomgan_datasets.clean_split`): train on half of the
normal rows, test on the other half and all anomalies. Prints a row a set and the means; every
model is exported, and the graph's scores are compared with torch's on all test rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from anomgan import GANDetector, Scorer
from anomgan.evaluation.baselines import detectors
from anomgan.export.parity import compare
from anomgan_datasets import clean_split, load, names


def evaluate(name: str, seed: int) -> dict[str, object]:
    """Fit ours and the baselines on one set."""
    data = load(name)
    split = clean_split(data.X.to_numpy(dtype=float), data.y, seed)
    train, test, y = np.asarray(split.X_train), np.asarray(split.X_test), split.y_test
    started = time.perf_counter()
    detector = GANDetector(random_state=seed).fit(train)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    ours = detector.anomaly_score(test)
    torch_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        detector.save(Path(folder) / "model")
        scorer = Scorer.open(Path(folder) / "model", threads=1)
        model_mb = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) / 1e6
        started = time.perf_counter()
        verdicts = scorer.score(test)
        onnx_s = time.perf_counter() - started
    parity = compare(ours, verdicts.score.astype(np.float64), verdicts.contributions)
    others = {
        method: make(seed).fit(train).score(test)
        for method, make in detectors(["knn1", "lof", "iforest"]).items()
    }
    row: dict[str, object] = {"set": name, "rows": len(train), "columns": train.shape[1]}
    for method, score in {"anomgan": ours, **others}.items():
        row[f"{method}"] = 100 * roc_auc_score(y, score)
        row[f"{method}_ap"] = 100 * average_precision_score(y, score)
    return row | {
        "far": float(verdicts.is_anomaly[y == 0].mean()),
        "fit_s": fit_s,
        "torch_rows_s": len(test) / torch_s,
        "onnx_rows_s": len(test) / onnx_s,
        "model_mb": model_mb,
        "p99": parity.p99_relative,
        "max": parity.max_relative,
        "spearman": parity.spearman,
        "same_top": parity.same_top,
        "health": str(detector.health_.verdict),
    }


def main() -> None:
    """Run the sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=list(names("adbench")))
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
    print("\nmeans over", len(table), "sets, seed", arguments.seed)
    print(table.select_dtypes("number").mean().round(3).to_string())
    print("parity: worst p99", table.p99.max(), "worst max", table["max"].max())
    print("Spearman at least", table.spearman.min(), "same top 100 on", table.same_top.sum())


if __name__ == "__main__":
    main()
