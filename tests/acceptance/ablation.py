"""What each part of the score is worth: one fit a set and seed, scored with parts left out.

    python tests/acceptance/ablation.py [--seeds 0 1 2] [--jobs 2] [-o docs/accuracy/ablation.csv]

Protocol `clean` on the ADBench development sets. The networks of all variants are the same; only
what the score reads of them differs. Sets and seeds that the file holds are not repeated.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from anomgan import GANDetector
from anomgan.evaluation.metrics import auroc, average_precision
from anomgan.scoring.frozen import FrozenScore
from anomgan.tables.schema import Rows
from anomgan_datasets import clean_split, load, names

FIELDS = ("set", "seed", "part", "rows", "auroc", "average_precision")
_UNBOUNDED = 1e3  # nats; larger ones would swallow the digits of float32
_NO_DISTANCE = 1e4  # bandwidth at which distances weigh nothing beside log-odds


def with_settings(**changes: object) -> Callable[[FrozenScore], FrozenScore]:
    """A change of the score's scalars."""
    return lambda score: replace(score, settings=replace(score.settings, **changes))


def with_steps(n_steps: int) -> Callable[[FrozenScore], FrozenScore]:
    """Another number of inversion steps."""
    return lambda score: with_settings(
        inversion=replace(score.settings.inversion, n_steps=n_steps)
    )(score)


def narrow(score: FrozenScore, kernel_width: float) -> FrozenScore:
    """The score as it is for rows with structure: a narrow kernel, the discriminator trusted."""
    memory = replace(score.memory, width=kernel_width).with_peak()
    return with_settings(
        kernel_width=memory.width, kernel_peak=memory.peak, discriminator_trust=1.0
    )(score)


PARTS: dict[str, Callable[[FrozenScore], FrozenScore]] = {
    "anomgan": lambda score: score,
    "no discriminator": with_settings(discriminator_bound=0.0),
    "no inversion": with_settings(inversion_share=0.0),
    "no memory of rows": with_settings(inversion_share=1.0),
    "memory alone": with_settings(inversion_share=0.0, discriminator_bound=0.0),
    "inversion alone": with_settings(inversion_share=1.0, discriminator_bound=0.0),
    "discriminator alone": with_settings(
        bandwidth=_NO_DISTANCE, discriminator_bound=_UNBOUNDED, discriminator_trust=1.0
    ),
    "discriminator unbounded": with_settings(discriminator_bound=_UNBOUNDED),
    "0 inversion steps": with_steps(0),
    "20 inversion steps": with_steps(20),
    "inversion share 0.3": with_settings(inversion_share=0.3),
}


def evaluate(name: str, seed: int) -> list[dict[str, object]]:
    """Fit once, score with every part left out in turn."""
    data = load(name)
    split = clean_split(data.X.to_numpy(dtype=float), data.y, seed)
    detector = GANDetector(random_state=seed).fit(split.X_train)
    model = detector.model_
    spacing = max(0.01, float(model.facts["noise"]["spacing"]))
    parts = {**PARTS, "no smoothing": lambda score: narrow(score, spacing)}
    test = np.asarray(split.X_test, dtype=np.float64)
    texts = np.empty((len(test), 0), dtype=object)
    encoded = model.encoder.transform(Rows(test, texts, None, 1))
    features, surprise = torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise)
    rows: list[dict[str, object]] = []
    for part, change in parts.items():
        scores = change(model.score)(features, surprise).score.numpy().astype(np.float64)
        rows.append(
            {
                "set": name,
                "seed": seed,
                "part": part,
                "rows": len(split.X_train),
                "auroc": f"{auroc(split.y_test, scores):.6f}",
                "average_precision": f"{average_precision(split.y_test, scores):.6f}",
            }
        )
    return rows


def main() -> None:
    """Run what is missing, print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=list(names("adbench")))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/accuracy/ablation.csv"))
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    known: set[tuple[str, int]] = set()
    if arguments.output.exists():
        with arguments.output.open(encoding="utf-8") as file:
            known = {(row["set"], int(row["seed"])) for row in csv.DictReader(file)}
    else:
        arguments.output.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    tasks = [(n, s) for s in arguments.seeds for n in arguments.sets if (n, s) not in known]
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(evaluate, *task) for task in tasks]):
            rows = future.result()
            with arguments.output.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerows(rows)
            shown = " ".join(f"{r['part']}={100 * float(str(r['auroc'])):.1f}" for r in rows)
            print(rows[0]["set"], rows[0]["seed"], shown, flush=True)


if __name__ == "__main__":
    main()
