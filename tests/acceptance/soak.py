"""Score from several threads for a long time: does memory grow, does a single score drift?

    python tests/acceptance/soak.py [--minutes 30] [--threads 4] [--model DIR --table FILE]

Without a model, one is fitted to a simulated machine (numbers, dates, texts, missing cells) by a
process of its own. Each thread scores random rows in batches of random sizes, as a frame, as
records or as checked rows, and compares every score, p-value and contribution with the first
answer, bit for bit. Memory is read four times a second. Exits 1 when any answer differs, or when
the line through the memory after a warm-up of a fifth (a minute at most) rises by more than the
limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from anomgan.serving import Scorer, Verdicts
from anomgan.tables import Batch, Rows, read_table

PAGE_MB = 4096 / 1e6
MOST_ROWS = 700


class Soak:
    """Threads that score until they are stopped, and what they found.

    Parameters
    ----------
    scorer : Scorer
    frame : polars.DataFrame
        Rows to draw from.
    """

    def __init__(self, scorer: Scorer, frame: pl.DataFrame) -> None:
        self.scorer, self.frame = scorer, frame
        self.rows = scorer.schema.rows(Batch(frame, 1, "table"))
        self.records = frame.to_dicts()
        self.expected = scorer.score(self.rows)
        self.n_rows, self.n_calls = 0, 0
        self.faults: list[str] = []
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def work(self, seed: int) -> None:
        """Score batch after batch, in one thread."""
        rng = np.random.default_rng(seed)
        try:
            while not self.stop.is_set():
                size = int(np.exp(rng.uniform(0.0, np.log(MOST_ROWS))))
                index = rng.integers(len(self.frame), size=size)
                found = self.scorer.score(self._shape(index, int(rng.integers(3))))
                self._compare(found, index)
        except Exception as error:  # a thread that died must not pass for one that found nothing
            self._fail(f"{type(error).__name__}: {error}")

    def _shape(
        self, index: np.ndarray, shape: int
    ) -> pl.DataFrame | list[dict[str, object]] | Rows:
        if shape == 0:
            return self.frame[index]
        if shape == 1 and len(index) <= 32:
            return [self.records[i] for i in index]
        return Rows(self.rows.numeric[index], self.rows.categorical[index], None, 1)

    def _compare(self, found: Verdicts, index: np.ndarray) -> None:
        for name in ("score", "p_value", "is_anomaly", "contributions"):
            if not np.array_equal(getattr(found, name), getattr(self.expected, name)[index]):
                self._fail(f"{name} of a batch of {len(index)} rows differs from the first answer")
        with self._lock:
            self.n_calls += 1
            self.n_rows += len(index)

    def _fail(self, fault: str) -> None:
        with self._lock:
            self.faults.append(fault)
        self.stop.set()


def resident_mb() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


def watched(soak: Soak, n_threads: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Let threads score for `seconds`; return times and resident megabytes."""
    threads = [threading.Thread(target=soak.work, args=(seed,)) for seed in range(n_threads)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    times, memory = [0.0], [resident_mb()]
    while (now := time.monotonic() - started) < seconds and not soak.stop.wait(0.25):
        times.append(now)
        memory.append(resident_mb())
    soak.stop.set()
    for thread in threads:
        thread.join()
    return np.array(times), np.array(memory)


def growth_mb(times: np.ndarray, memory: np.ndarray) -> float:
    """Rise of the line through the memory after the warm-up, over that time."""
    late = times > min(60.0, 0.2 * times.max(initial=0.0))
    if late.sum() < 4:  # stopped by a fault
        return 0.0
    slope = np.polyfit(times[late], memory[late], 1)[0]
    return float(slope * (times[-1] - times[late][0]))


def with_model(arguments: argparse.Namespace, run: Callable[[str, str], int]) -> int:
    """Run with the model and table named, or with ones made for it."""
    if arguments.model:
        return run(arguments.model, arguments.table)
    make = (
        "import sys; from anomgan_datasets import machine_log\n"
        "log = machine_log(n_normal=600, n_anomalies=100, seed=0)\n"
        "log.X[log.y == 0].to_csv(sys.argv[1], index=False)\n"
        "log.X.to_csv(sys.argv[2], index=False)"
    )
    with tempfile.TemporaryDirectory() as folder:
        normal, new, model = (str(Path(folder) / name) for name in ("normal.csv", "new.csv", "m"))
        subprocess.run([sys.executable, "-c", make, normal, new], check=True)
        fit = ["fit", normal, "-m", model, "--set", "n_steps=200"]
        subprocess.run([sys.executable, "-m", "anomgan_cli", *fit], check=True)
        return run(model, new)


def main() -> int:
    """Fit, soak, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--limit-mb", type=float, default=16.0)
    parser.add_argument("--model")
    parser.add_argument("--table")
    arguments = parser.parse_args()
    if bool(arguments.model) != bool(arguments.table):
        parser.error("--model and --table go together")

    def run(model: str, table: str) -> int:
        soak = Soak(Scorer.open(model, providers="cpu", threads=1), read_table(table))
        times, memory = watched(soak, arguments.threads, 60.0 * arguments.minutes)
        grown = growth_mb(times, memory)
        print(
            f"{soak.n_calls} calls, {soak.n_rows} rows in {times[-1] / 60.0:.1f} min from "
            f"{arguments.threads} threads: {len(soak.faults)} answers differ from the first"
        )
        print(
            f"resident memory {memory[0]:.0f} MB at the start, {memory[-1]:.0f} MB at the end, "
            f"{memory.max():.0f} MB at most; after the warm-up it grows by {grown:.1f} MB "
            f"({60.0 * grown / max(times[-1], 1.0):.2f} MB a minute)"
        )
        for fault in soak.faults:
            print(f"FAILED: {fault}")
        if grown > arguments.limit_mb:
            print(f"FAILED: memory grows by more than {arguments.limit_mb:g} MB")
        return int(bool(soak.faults) or grown > arguments.limit_mb)

    return with_model(arguments, run)


if __name__ == "__main__":
    sys.exit(main())
