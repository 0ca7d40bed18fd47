"""``anomgan demo``: the whole walk on a real dataset, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomgan_cli.exits import guarded
from anomgan_cli.options import Debug, parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["demo"]

_DATASET = "breast_cancer"  # ships inside scikit-learn: real, and no download
_RATE = 0.01

OutputDir = Annotated[
    str, typer.Option("-o", "--output", metavar="DIR", help="Where the results go.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the split and of training.")]
MaxTime = Annotated[
    float | None,
    typer.Option(
        metavar="TIME", parser=parse_duration, help="Longest time for all of it: 90, 30s, 5m, 1h."
    ),
]


@guarded
def demo(
    output: OutputDir = "demo-results",
    seed: Seed = 0,
    max_time: MaxTime = None,
    debug: Debug = False,
) -> None:
    """Fit, score and compare on real data: benign and malignant tumours (scikit-learn's own)."""
    from pathlib import Path

    from anomgan_cli.render import say, table
    from anomgan_datasets import csv_files

    folder = Path(output)
    say("Wisconsin breast cancer: learn from 60 % of the benign tumours, find the malignant ones.")
    train, test, label, normal = csv_files(_DATASET, folder, seed)
    model = _fit(train, folder / "anomgan-model", label, seed=seed, max_time=max_time)
    scores = _score(model, test)
    truth = _anomalies(test, label, normal)
    results = {"anomgan": _own_scores(scores)}
    results |= _yardsticks(train, test, label, seed)
    rows = [[name, *_measure(truth, *found)] for name, found in results.items()]
    table(["method", "AUROC", "average precision", "false alarms", "found"], rows)
    say(
        f"false alarms: share of benign test rows flagged when {_RATE:g} is asked for; found: "
        "share of malignant ones flagged. All thresholds are calibrated in the same way, on "
        "a quarter of the training rows held out."
    )
    say(f"Results: {train}, {test}, {model}, {scores}")
    say(f"Next: anomgan inspect -m {model}")
    say(f"      anomgan score {test} -m {model} --keep-columns --top-features 3 -o -")
    say("      anomgan fit your-normal-rows.csv && anomgan score your-new-rows.csv")


def _fit(train: Path, model: Path, label: str, *, seed: int, max_time: float | None) -> Path:
    from anomgan.estimator import fit_table
    from anomgan.tables import SchemaOptions, read_table
    from anomgan_cli.render import say_fit, training_progress

    with training_progress(quiet=False) as progress:
        bundle = fit_table(
            read_table(train),
            options=SchemaOptions(label=label),
            parameters={"false_alarm_rate": _RATE, "random_state": seed},
            source=str(train),
            output=model,
            overwrite=True,
            progress=progress,
            resume=False,
            max_time=max_time,
        )
    say_fit(bundle.manifest, str(model))
    return model


def _score(model: Path, test: Path) -> Path:
    from anomgan.serving import Scorer
    from anomgan.serving.files import score_table
    from anomgan.tables import open_table
    from anomgan_cli.render import say_score

    scores = test.with_suffix(".scores.csv")
    scorer = Scorer.open(model)
    say_score(score_table(scorer, open_table(test), str(scores), top_features=3), scorer)
    return scores


def _anomalies(test: Path, label: str, normal: str) -> NDArray[np.bool_]:
    from anomgan.tables import read_table

    flags: NDArray[np.bool_] = (read_table(test)[label] != normal).to_numpy()
    return flags


def _own_scores(scores: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    import polars as pl

    frame = pl.read_csv(scores)
    return frame["score"].to_numpy(), frame["is_anomaly"].to_numpy()


def _yardsticks(
    train: Path, test: Path, label: str, seed: int
) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Scores and flags of what a user would pick instead, on the same rows.

    Scores come from all rows; the threshold from a quarter held out, as ours does.
    """
    from anomgan.evaluation.baselines import detectors
    from anomgan.tables import read_table

    known, new = read_table(train).drop(label), read_table(test).drop(label)
    made = detectors(["iforest", "knn1"])
    results = {}
    for name, title in (("iforest", "IsolationForest"), ("knn1", "1-NN distance")):
        detector = made[name](seed).fit(known)
        scores = detector.score(new)
        results[title] = scores, detector.p_values(scores) <= _RATE
    return results


def _measure(truth: NDArray[np.bool_], scores: NDArray[Any], flags: NDArray[np.bool_]) -> list[str]:
    from anomgan.evaluation.metrics import auroc, average_precision, false_alarm_rate

    return [
        f"{auroc(truth, scores):.4f}",
        f"{average_precision(truth, scores):.4f}",
        f"{false_alarm_rate(truth, flags):.4f}",
        f"{flags[truth].mean():.4f}",
    ]
