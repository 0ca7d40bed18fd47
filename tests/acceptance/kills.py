"""Kill `anomgan fit` and `anomgan score` with SIGKILL at many moments, resume, and compare.

    python tests/acceptance/kills.py [--kills 20] [--seed 0]

A fit replaces a former model (`--force`). After each kill the model directory must load, all
checksums verified, and be the former model or the new one; at the end the new one must equal the
one of a fit that nobody killed, bit for bit, and nothing else may be left. A scoring must leave no
output or the whole one, and continued it must give the same bytes. Of two fits to one place one
must win and the other say so. Prints a line a kill; exits 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from killing import MOMENTS, KilledFit, kill_when, model_id, run, start

from anomgan_datasets import machine_log

OPTIONS = ["--seed", "3", "--set", "device=cpu", "--set", "n_steps=300"]


def fits(folder: Path, n_kills: int, rng: random.Random) -> list[str]:
    """Kill fits; return what went wrong."""
    run("fit", "normal.csv", "-m", "m", "-q", "--set", "n_steps=60", cwd=folder)
    former = model_id(folder / "m")
    shutil.copytree(folder / "m", folder / "former")
    seconds = run("fit", "normal.csv", "-m", "whole", "-q", *OPTIONS, cwd=folder)
    expected = model_id(folder / "whole")
    print(f"an uninterrupted fit takes {seconds:.1f} s\n")
    print("kill  moment      after    checkpoint     model   left beside it")
    wrong: list[str] = []
    names = {former: "former", expected: "new"}
    fit = KilledFit(folder, "normal.csv", OPTIONS, seconds)
    n, ends = 0, 0
    while n < n_kills:
        kill = fit.kill(MOMENTS[n % len(MOMENTS)], rng)
        if kill is None or names.get(kill.model) == "new":
            ends += 1
            if kill is None and model_id(folder / "m") != expected:
                wrong.append(f"fit {ends} ended with another model")
            _begin_again(folder)
        if kill is None:
            continue  # it was too late for this kill; another one
        n += 1
        model = names.get(kill.model, "WRONG")
        left = ", ".join(kill.left)
        print(
            f"{n:>4}  {kill.moment:<10} {kill.after_s:>5.1f} s  {kill.reached:<13}  {model:<6}  "
            f"{left}",
            flush=True,
        )
        if model == "WRONG" or "DAMAGED" in kill.reached:
            wrong.append(f"kill {n} left {model}, {kill.reached}")
    if fit.finish() != expected:
        wrong.append("the resumed fit gives another model")
    left = sorted(name for name in os.listdir(folder) if name.startswith((".", "m.")))
    if left:
        wrong.append(f"at the end there are {left}")
    print(f"\n{n} kills, {ends + 1} fits to their end; left at the end: {left or 'nothing'}")
    return wrong


def _begin_again(folder: Path) -> None:
    shutil.rmtree(folder / "m")
    shutil.copytree(folder / "former", folder / "m")
    (folder / "m.checkpoint").unlink(missing_ok=True)


def scores(folder: Path, n_kills: int, rng: random.Random) -> list[str]:
    """Kill scorings; return what went wrong."""
    words = ["score", "new.csv", "-m", "whole", "-q", "--keep-columns", "--threads", "1"]
    seconds = run(*words, "-o", "expected.csv", cwd=folder)
    expected = (folder / "expected.csv").read_bytes()
    total = expected.count(b"\n") - 1
    print(f"\nan uninterrupted scoring of {total} rows takes {seconds:.1f} s\n")
    print("kill  wanted at       output  rows written down")
    wrong: list[str] = []
    output, journal = folder / "o.csv", folder / ".o.csv.partial.json"

    def rows() -> int:
        return int(json.loads(journal.read_text())["rows"]) if journal.exists() else 0

    for n in range(1, n_kills + 1):
        before, began, at = rows(), time.monotonic(), rng.uniform(0.0, seconds)
        goal = rng.randint(before, min(total, before + total // 3))
        timed = n % 4 == 0
        process = start(*words, "-o", "o.csv", "--resume", cwd=folder)
        kill_when(
            process,
            lambda: time.monotonic() - began >= at if timed else rows() > goal,  # noqa: B023
            rng.uniform(0.0, 0.05),
        )
        whole = output.exists()
        wanted = f"{at:.1f} s" if timed else f"row {goal}"
        print(f"{n:>4}  {wanted:<14}  {'whole' if whole else 'none':<6}  {rows()}", flush=True)
        if whole:
            if output.read_bytes() != expected:
                wrong.append(f"after kill {n} the output is another one")
            output.unlink()
    run(*words, "-o", "o.csv", "--resume", cwd=folder)
    if output.read_bytes() != expected:
        wrong.append("the continued output is another one")
    left = sorted(name for name in os.listdir(folder) if ".o.csv" in name)
    if left:
        wrong.append(f"at the end there are {left}")
    return wrong


def two_at_once(folder: Path, rng: random.Random) -> list[str]:
    """Start two fits to one place, a moment apart; return what went wrong."""
    print("\ntwo fits to one place, started a moment apart: exit codes, and what the second said")
    wrong = []
    for _ in range(3):
        words = ["fit", "normal.csv", "-m", "both", "-q", "--set", "n_steps=60"]
        processes = []
        for _ in range(2):
            processes.append(start(*words, cwd=folder))
            time.sleep(rng.uniform(0.0, 0.3))
        said = [process.communicate(timeout=600)[1].strip() for process in processes]
        codes = [process.returncode for process in processes]
        print(f"{codes}  {' '.join(said)}", flush=True)
        if sorted(codes) != [0, 2] or model_id(folder / "both") == "none":
            wrong.append(f"two at once ended with {codes}")
        shutil.rmtree(folder / "both", ignore_errors=True)
    return wrong


def main() -> None:
    """Kill, resume, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        log = machine_log(n_normal=30_500, n_anomalies=100, seed=0)
        rows = log.X[log.y == 0]
        rows.iloc[:500].to_csv(folder / "normal.csv", index=False)
        rows.iloc[500:].to_csv(folder / "new.csv", index=False)
        wrong = fits(folder, arguments.kills, rng)
        wrong += scores(folder, arguments.kills, rng)
        wrong += two_at_once(folder, rng)
    if wrong:
        raise SystemExit("FAILED: " + "; ".join(wrong))
    print("\nAll resumed fits and scorings equal those that nobody killed.")


if __name__ == "__main__":
    main()
