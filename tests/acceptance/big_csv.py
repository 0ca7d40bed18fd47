"""Score a generated CSV of a gigabyte, and report the peak memory of the process that does it.

    python tests/acceptance/big_csv.py [--megabytes 1000] [--threads 2]

Writes to a temporary folder (it needs twice the size), and removes it. Exits 1 when the peak
reaches a gigabyte.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS = 30
LIMIT_BYTES = 1_000_000_000


def write_table(path: Path, n_bytes: int, mixing: np.ndarray, rng: np.random.Generator) -> int:
    """Write rows of correlated numbers until the file has `n_bytes`; return the rows."""
    block = rng.normal(size=(5000, COLUMNS)) @ mixing
    text = "".join(",".join(f"{v:.7g}" for v in row) + "\n" for row in block).encode()
    n = 0
    with path.open("wb") as file:
        file.write((",".join(f"sensor_{j}" for j in range(COLUMNS)) + "\n").encode())
        while file.tell() < n_bytes:
            file.write(text)
            n += len(block)
    return n


def main() -> None:
    """Fit on a small table, score the large one, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(COLUMNS, COLUMNS)) / COLUMNS**0.5
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_table(place / "normal.csv", 1_500_000, mixing, rng)
        n = write_table(place / "new.csv", arguments.megabytes * 1_000_000, mixing, rng)
        command = [sys.executable, "-m", "anomgan_cli"]
        model, out = str(place / "model"), str(place / "scores.csv")
        fit = [*command, "fit", str(place / "normal.csv"), "-m", model]
        subprocess.run(fit, check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        score = [*command, "score", str(place / "new.csv"), "-m", model, "-o", out]
        if arguments.threads:
            score += ["--threads", str(arguments.threads)]
        started = time.perf_counter()
        process = subprocess.Popen(score)
        peak = 0
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status")
            lines = status.read_text().splitlines() if status.exists() else []
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
            peak = max([peak, *found])
            time.sleep(0.5)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"score ended with {process.returncode}")
        size = (place / "new.csv").stat().st_size
        with (place / "scores.csv").open("rb") as file:
            scored = sum(1 for _ in file) - 1
    speed = f"{n / seconds:.0f} rows/s"
    print(f"{size / 1e6:.0f} MB, {n} rows, {scored} scored in {seconds:.0f} s ({speed})")
    print(f"peak memory of score {peak / 1e6:.0f} MB (of fit {before * 1024 / 1e6:.0f} MB)")
    if scored != n or peak >= LIMIT_BYTES:
        raise SystemExit("FAILED: rows are missing, or the peak is above a gigabyte")


if __name__ == "__main__":
    main()
