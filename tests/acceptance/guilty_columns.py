"""Do contributions name the guilty column? Real rows with one column permuted.

    python tests/acceptance/guilty_columns.py [--suite adbench] [--seed 0] [--steps N]

For every set the default detector is fitted on the normal training rows. Of the normal test rows
(at most 1 000) those that are not flagged are taken, and one column at a time is permuted among
them; the *strong* column is the one whose permutation gets the most rows flagged. Of the rows that
are flagged then, the share is counted whose largest column contribution is that column's, and whose
three largest hold it. Sets on which fewer than 20 rows are flagged have no strong column: they are
named and left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomgan import GANDetector
from anomgan.persistence import export_scorer
from anomgan.serving import Scorer
from anomgan.serving.providers import make_session
from anomgan_datasets import clean_split, load, names, table_split

FIELDS = ("set", "column", "rows", "flagged", "top1", "top3", "top1_with_bucket", "sum_gap")
MOST_ROWS, FEWEST_FLAGGED = 1000, 20


def scorer_of(detector: GANDetector) -> Scorer:
    """The exported graph of a fitted detector."""
    model, _, _ = export_scorer(detector.model_, created_at="")
    session, _ = make_session(model, providers="cpu")
    return Scorer(session, calibration=detector.model_.calibrator.summary())


def rows_of(name: str, suite: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Normal training rows, and normal test rows."""
    data = load(name)
    split = table_split(data, seed) if suite == "tables" else clean_split(data.X, data.y, seed)
    test = pd.DataFrame(split.X_test)[np.asarray(split.y_test) == 0].reset_index(drop=True)
    return pd.DataFrame(split.X_train), test.head(MOST_ROWS)


def strong_column(
    scorer: Scorer, rows: pd.DataFrame, rng: np.random.Generator
) -> tuple[str, Any] | None:
    """The column whose permutation gets the most rows flagged, and their verdicts."""
    best, most = None, FEWEST_FLAGGED - 1
    for name in scorer.schema.feature_names:
        broken = rows.copy()
        broken[name] = broken[name].to_numpy()[rng.permutation(len(rows))]
        found = scorer.score(broken)
        if int(found.is_anomaly.sum()) > most:
            best, most = (name, found), int(found.is_anomaly.sum())
    return best


def measure(name: str, suite: str, seed: int, steps: int | None) -> dict[str, object] | None:
    """One set."""
    train, test = rows_of(name, suite, seed)
    parameters = {} if steps is None else {"n_steps": steps}
    scorer = scorer_of(GANDetector(random_state=seed, **parameters).fit(train))
    rows = test[~scorer.score(test).is_anomaly]
    strong = strong_column(scorer, rows, np.random.default_rng(seed))
    if strong is None:
        return None
    column, verdicts = strong
    flagged = verdicts.contributions[verdicts.is_anomaly]  # [n, n_columns + 1]
    place = scorer.schema.feature_names.index(column)
    order = np.argsort(-flagged[:, :-1], axis=1)
    gap = np.abs(verdicts.contributions.sum(axis=1) - verdicts.score) / np.abs(verdicts.score)
    return {
        "set": name,
        "column": column,
        "rows": len(rows),
        "flagged": len(flagged),
        "top1": float((order[:, 0] == place).mean()),
        "top3": float((order[:, :3] == place).any(axis=1).mean()),
        "top1_with_bucket": float((np.argmax(flagged, axis=1) == place).mean()),
        "sum_gap": float(gap.max()),
    }


def main() -> None:
    """Measure every set, print as they come, and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="adbench", choices=["adbench", "tables"])
    parser.add_argument("--sets", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    results = []
    for name in arguments.sets or names(arguments.suite):
        found = measure(name, arguments.suite, arguments.seed, arguments.steps)
        if found is None:
            print(
                f"{name}: no strong column (fewer than {FEWEST_FLAGGED} rows flagged)", flush=True
            )
            continue
        results.append(found)
        shown = " ".join(
            f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()
        )
        print(shown, flush=True)
    if not results:
        sys.exit("no set has a strong column")
    flagged = [int(str(r["flagged"])) for r in results]
    for key in ("top1", "top3"):
        values = [float(str(r[key])) for r in results]
        print(
            f"{key}: mean {np.mean(values):.3f} over {len(values)} sets, least {min(values):.3f}; "
            f"{np.average(values, weights=flagged):.3f} of all {sum(flagged)} flagged rows"
        )
    if arguments.output:
        with arguments.output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(results)


if __name__ == "__main__":
    main()
