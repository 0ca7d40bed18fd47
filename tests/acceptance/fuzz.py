"""Damage real files a million times; whatever reads them may refuse, and do nothing else.

    python tests/acceptance/fuzz.py [--minutes 15] [--cases 1000000] [--seed 0] [--target NAME ...]
        [--save DIR]

Every target (manifest, schema, CSV reader, labels, metadata of a graph, ...) has its share of the
cases and of the time, and a process of its own, so that a crash of native code is found, too. The
same seed gives the same cases. Exits 1 on a find, and prints the case: an error that is no
`AnomganError`, an end of the process, or a case that takes longer than 20 seconds.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # tables of a few rows
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from fuzz_targets import TARGETS, UNPROMISED, Run, Target, outcome, scratch
from mutations import Mutator

MOST_SECONDS = 20  # of one case
MOST_BYTES = 1 << 22  # of a case that is kept for the parent to see
SHOWN_BYTES = 2000
_LENGTH = struct.Struct("<Q")


class TooSlow(BaseException):
    """A case takes too long."""


def fuzz(
    target: Target, run: Run, n: int, seconds: float, seed: int, seen: mmap.mmap
) -> dict[str, Any]:
    """Run up to n cases; return counts, and the first find."""
    mutator = Mutator(target.seeds(), target.tokens, random.Random(f"{seed} {target.name}"))
    for content in target.seeds():
        read, error = outcome(run, content)
        if error is not None:
            return _found(0, 0, 0.0, content, error)
    began = time.perf_counter()
    n_read = done = 0
    while done < n and time.perf_counter() - began < seconds:
        case = mutator.case()
        seen[: _LENGTH.size] = _LENGTH.pack(min(len(case), MOST_BYTES))
        seen[_LENGTH.size : _LENGTH.size + min(len(case), MOST_BYTES)] = case[:MOST_BYTES]
        with _alarm():
            read, error = outcome(run, case)
        done += 1
        if error is not None:
            return _found(done, n_read, time.perf_counter() - began, case, error)
        if read:
            n_read += 1
            mutator.keep(case)
    return {"cases": done, "read": n_read, "seconds": time.perf_counter() - began}


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TooSlow(f"more than {MOST_SECONDS} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _found(
    done: int, n_read: int, seconds: float, case: bytes, error: BaseException
) -> dict[str, Any]:
    told = "".join(traceback.format_exception(error))[-3000:]
    return {"cases": done, "read": n_read, "seconds": seconds, "find": told, "case": repr(case)}


def in_a_process_of_its_own(target: Target, n: int, seconds: float, seed: int) -> dict[str, Any]:
    """Fuzz in a child; an end that it did not choose is a find."""
    seen = mmap.mmap(-1, _LENGTH.size + MOST_BYTES)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            with scratch() as folder:
                told = fuzz(target, target.start(Path(folder)), n, seconds, seed, seen)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(json.dumps(told).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer and status == 0:
        told: dict[str, Any] = json.loads(answer)
        return told
    (length,) = _LENGTH.unpack(seen[: _LENGTH.size])
    case = bytes(seen[_LENGTH.size : _LENGTH.size + length])
    how = f"the process ended with status {os.waitstatus_to_exitcode(status)}"
    return {"cases": 0, "read": 0, "seconds": 0.0, "find": how, "case": repr(case)}


def main() -> None:
    """Fuzz all targets, say what was done, and exit 1 on a find."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the cases found here")
    parser.add_argument("--target", action="append", choices=[t.name for t in TARGETS])
    arguments = parser.parse_args()

    names = arguments.target or [t.name for t in TARGETS if t.name not in UNPROMISED]
    chosen = [t for t in TARGETS if t.name in names]
    whole = sum(target.share for target in chosen)
    ends = time.perf_counter() + 60.0 * arguments.minutes
    total, finds = 0, 0
    print(f"{'target':<10} {'cases':>9} {'read':>8} {'seconds':>8}  read: taken whole")
    for place, target in enumerate(chosen):
        n = round(arguments.cases * target.share / whole)
        seconds = max(1.0, (ends - time.perf_counter()) / (1 + 0.3 * (len(chosen) - place - 1)))
        told = in_a_process_of_its_own(target, n, seconds, arguments.seed)
        total += told["cases"]
        short = "" if told["cases"] >= n or "find" in told else f"  of {n:,}: no time left"
        print(
            f"{target.name:<10} {told['cases']:>9,} {told['read']:>8,} {told['seconds']:>8.1f}"
            f"{short}",
            flush=True,
        )
        if "find" in told:
            finds += 1
            if arguments.save is not None:
                arguments.save.mkdir(parents=True, exist_ok=True)
                (arguments.save / f"{target.name}.case").write_bytes(ast.literal_eval(told["case"]))
            print(f"FOUND in {target.name}:\n{told['find']}\ncase: {told['case'][:SHOWN_BYTES]}")
    print(f"{total:,} cases, {finds} finds")
    sys.exit(1 if finds else 0)


if __name__ == "__main__":
    main()
