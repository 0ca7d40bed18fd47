"""Stop `anomgan fit` on a large table with SIGINT and SIGTERM at many moments; time its end.

    python tests/acceptance/stops.py [--rows 200000] [--stops 10] [--limit 2.0]

Each stop is of a fit that goes on from the last one. Prints the seconds from the signal to the end
of the process, and what it said; exits 1 where one took longer than the limit, or a checkpoint that
had been written is gone without a model in its place.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import numpy as np
import polars as pl
from killing import PLAIN, start

COLUMNS = 20


def _written(folder: Path) -> float:
    """When the model that is in place was written; 0 where there is none."""
    manifest = folder / "m" / "manifest.json"
    return manifest.stat().st_mtime if manifest.exists() else 0.0


def main() -> None:
    """Fit, stop, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--limit", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=60.0, help="about what a fit takes")
    arguments = parser.parse_args()
    rng, draws = random.Random(0), np.random.default_rng(0)
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        mixing = draws.normal(size=(COLUMNS, COLUMNS))
        values = draws.normal(size=(arguments.rows, COLUMNS)) @ mixing
        pl.DataFrame(values).write_csv(folder / "normal.csv", float_precision=5)
        words = ["fit", "normal.csv", "-m", "m", "-q", "--resume", "--set", "device=cpu"]
        words += ["--set", f"n_steps={arguments.steps}"]
        print("stop  signal   after     ends in  exit  it said")
        for n in range(1, arguments.stops + 1):
            number = (signal.SIGINT, signal.SIGTERM)[n % 2]
            kept, before = (folder / "m.checkpoint").exists(), _written(folder)
            process = start(*words, cwd=folder, command=PLAIN)
            at = rng.uniform(2.0, arguments.seconds)
            time.sleep(at)
            ended = process.poll() is not None
            began = time.monotonic()
            process.send_signal(number)
            _, said = process.communicate(timeout=600)
            took = time.monotonic() - began
            line = (said.strip().splitlines() or ["nothing"])[-1]
            print(
                f"{n:>4}  {number.name:<7}  {at:>5.1f} s  {took:>6.2f} s  {process.returncode:>4}  "
                f"{'had ended before' if ended else line.replace(str(folder) + os.sep, '')}",
                flush=True,
            )
            if ended:
                if process.returncode:
                    raise SystemExit(f"FAILED: the fit ended with {process.returncode}: {said}")
                words += [] if "--force" in words else ["--force"]
                continue
            if took > arguments.limit:
                wrong.append(f"stop {n} took {took:.2f} s")
            if _written(folder) != before:  # stopped on the way out, with the model in place
                words += [] if "--force" in words else ["--force"]
            elif kept and not (folder / "m.checkpoint").exists():
                wrong.append(f"stop {n} lost the checkpoint")
    if wrong:
        raise SystemExit("FAILED: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
