"""Write small models of the present format, and what they say of some rows, to tests/golden.

    python tests/support/golden_models.py

To be called once, when `FORMAT_VERSION` has been raised: tests/unit/test_golden_models.py fails
until there are models of the present format, and loads those of every format ever since. A folder
that is there is left as it is: a golden model that is written anew shows nothing.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "flagship": (
        "anomgan",
        {"n_steps": 30, "generator_width": 16, "discriminator_width": 16, "memory_size": 64},
    ),
    "grouped": (
        "anomgan",
        {
            "n_steps": 20,
            "generator_width": 8,
            "discriminator_width": 8,
            "memory_size": 64,
            "calibrate_by": "site",
        },
    ),
    "ganomaly": ("ganomaly", {"n_steps": 20, "latent_dim": 4}),
}
"""Detector and parameters by name of the model; all are fitted to the same rows."""


def golden_rows(n: int, seed: int) -> pl.DataFrame:
    """Rows of a machine, all kinds of columns: numbers, a date, texts, truth values, gaps."""
    rng = np.random.default_rng(seed)
    pressure = rng.normal(100.0, 5.0, n)
    started = [
        dt.datetime(2026, 1, 1) + dt.timedelta(minutes=97 * i + int(m))
        for i, m in enumerate(rng.integers(0, 60, n))
    ]
    return pl.DataFrame(
        {
            "started": [moment.isoformat(sep=" ") for moment in started],
            "pressure": pressure.round(2),
            "flow": (0.3 * pressure + rng.normal(0.0, 1.0, n)).round(3),
            "speed": [None if i % 13 == 5 else round(float(v), 3) for i, v in _gamma(rng, n)],
            "mode": rng.choice(["idle", "run", "clean"], n, p=[0.2, 0.7, 0.1]),
            "site": rng.choice(["north", "south"], n),
            "hot": rng.choice(["true", "false"], n),
        }
    )


def _gamma(rng: np.random.Generator, n: int) -> list[tuple[int, float]]:
    return list(enumerate(rng.gamma(3.0, 2.0, n).tolist()))


def odd_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Make a category that was never seen, a gap where there was none, and a far value."""
    place = pl.int_range(rows.height)
    return rows.with_columns(
        mode=pl.when(place == 2).then(pl.lit("turbo")).otherwise("mode"),
        pressure=pl.when(place == 4).then(None).otherwise("pressure"),
        flow=pl.when(place == 6).then(900.0).otherwise("flow"),
    )


def verdicts_of(path: Path, table: Path) -> pl.DataFrame:
    """Return what a model or a bare scorer says of a table: one row each, a column a number."""
    from anomgan.serving import Scorer
    from anomgan.tables import open_table

    scorer = Scorer.open(path, providers="cpu", threads=1)
    (verdicts,) = (v for _, v in scorer.stream(open_table(table)))
    shares = {
        f"contribution_{name}": verdicts.contributions[:, j]
        for j, name in enumerate(verdicts.feature_names)
    }
    return pl.DataFrame(
        {
            "score": verdicts.score,
            "p_value": verdicts.p_value,
            "is_anomaly": verdicts.is_anomaly.astype(np.int64),
            **shares,
        }
    )


def write(folder: Path, detector_class: Any, models: Any = MODELS) -> None:
    """Fit all models, and write them with their rows and verdicts."""
    folder.mkdir(parents=True)
    normal, new = folder / "normal.csv", folder / "new.csv"
    golden_rows(160, seed=1).write_csv(normal)
    odd_rows(golden_rows(24, seed=2)).write_csv(new)
    for name, (detector, parameters) in models.items():
        fixed = {"random_state": 0, "false_alarm_rate": 0.1, "n_members": 2}
        if detector != "anomgan":
            del fixed["n_members"]
        model = detector_class(detector)(**fixed, **parameters)
        model.fit(pl.read_csv(normal)).save(folder / name)
        verdicts_of(folder / name, new).write_csv(folder / f"{name}.csv")


def main() -> None:
    """Write the models of the present format."""
    from anomgan.bundle import FORMAT_VERSION

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=GOLDEN, metavar="DIR")
    folder = parser.parse_args().output / f"format-{FORMAT_VERSION}"
    if folder.exists():
        sys.exit(f"{folder} is there, and stays as it is: raise FORMAT_VERSION first")
    from anomgan.estimator import detector_class

    write(folder, detector_class)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {', '.join(MODELS)}, {size:,} bytes")


if __name__ == "__main__":
    main()
