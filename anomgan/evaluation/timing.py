"""Clocks for comparisons: contenders take turns, so that what slows the machine slows all of them.

A figure is a median with quartiles, never one reading.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import numpy as np

from anomgan.errors import TrainingError
from anomgan.evaluation.thread_limit import THREAD_VARIABLES

__all__ = [
    "Boxed",
    "Child",
    "Timing",
    "boxed",
    "in_turn",
    "interleave",
    "latencies",
    "quantiles_by_part",
    "run_child",
    "summarise_times",
]

Clock = Callable[[], float]
Contenders = Mapping[str, Callable[[], object]]

_BLOCK: Final = 20
"""Calls in a row of one contender where single rows are timed: caches are then its own."""
_PARTS: Final = 5
"""Parts of a series of calls, for the spread of its quantiles."""
_MOST_ROUNDS: Final = 1000
_MOST_BUDGETS: Final = 20.0
"""Budgets after which a contender is left alone, however few its calls."""


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated calls.

    Attributes
    ----------
    median, low, high : float
        Seconds; the last two are quartiles.
    repeats : int
    """

    median: float
    low: float
    high: float
    repeats: int


def summarise_times(seconds: Sequence[float]) -> Timing:
    """Return median and quartiles."""
    low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return Timing(median, low, high, len(seconds))


def interleave(
    contenders: Contenders,
    *,
    budget_s: float,
    repeats: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time contenders in turns: A, B, C, A, B, C, ...

    Parameters
    ----------
    contenders : mapping of str to callable
        By name, one call of each.
    budget_s : float
        Seconds that the slowest contender gets; the others have as many calls. A first call that
        is shorter is a warm-up and does not count.
    repeats : int
        Fewest calls that count, but for a contender that has had 20 budgets.
    clock : callable
        Gives seconds.

    Returns
    -------
    dict of str to Timing
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for name, call in contenders.items():
        seconds = _timed(call, clock)
        if seconds > budget_s:  # what is that long gains nothing from a warm cache
            found[name].append(seconds)
    while running := _running(found, budget_s, repeats):
        for name in running:
            found[name].append(_timed(contenders[name], clock))
    return {name: summarise_times(seconds) for name, seconds in found.items()}


def _running(found: Mapping[str, Sequence[float]], budget_s: float, repeats: int) -> list[str]:
    """Return who takes part in another round: nobody once all have enough."""
    spent = {name: math.fsum(seconds) for name, seconds in found.items()}
    left = [name for name in found if spent[name] < _MOST_BUDGETS * budget_s]
    fewest = min((len(found[name]) for name in left), default=_MOST_ROUNDS)
    over = max(spent.values(), default=0.0) >= budget_s or fewest >= _MOST_ROUNDS
    return [] if fewest >= repeats and over else left


def latencies(
    contenders: Contenders,
    *,
    budget_s: float,
    repeats: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every single call, contenders taking turns in short blocks.

    Parameters
    ----------
    contenders, budget_s, clock
        See `interleave`.
    repeats : int
        Fewest blocks of 20 calls; a first block is a warm-up and does not count.

    Returns
    -------
    dict of str to list of float
        Seconds of every call.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for _ in range(_BLOCK):
            call()
    for done in range(_MOST_ROUNDS):
        spent = max((math.fsum(seconds) for seconds in found.values()), default=0.0)
        if done >= repeats and spent >= budget_s:
            break
        for name, call in contenders.items():
            found[name] += [_timed(call, clock) for _ in range(_BLOCK)]
    return found


def in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return a call that makes the next of some calls, and the first one after the last."""
    turns = cycle(calls)
    return lambda: next(turns)()


def quantiles_by_part(seconds: Sequence[float], share: float) -> Timing:
    """Return a quantile of all calls, and the quartiles of that of five parts of the series.

    `median` of the result is the quantile of all calls.
    """
    parts = [np.quantile(part, share) for part in np.array_split(seconds, _PARTS) if len(part)]
    low, high = np.quantile(parts, [0.25, 0.75])
    return Timing(float(np.quantile(seconds, share)), float(low), float(high), len(seconds))


def _timed(call: Callable[[], object], clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started


@dataclass(frozen=True)
class Boxed:
    """The cost of work that may be too long to be done in full.

    Attributes
    ----------
    rows : int
        The largest part that was done.
    seconds : float
        What it took.
    total : int
        All rows.
    """

    rows: int
    seconds: float
    total: int

    @property
    def estimate(self) -> float:
        """Seconds for all rows: measured, or in proportion to the rows."""
        return self.seconds * self.total / self.rows

    @property
    def extrapolated(self) -> bool:
        """Whether a part alone was done."""
        return self.rows < self.total


def boxed(
    work: Callable[[int], object],
    total: int,
    *,
    box_s: float,
    first: int = 64,
    clock: Clock = time.perf_counter,
) -> Boxed:
    """Do work on 64, 128, 256, ... rows while the next step is likely to fit into a time box.

    Parameters
    ----------
    work : callable
        Takes a number of rows.
    total : int
        Rows that would be wanted.
    box_s : float
        Seconds; the first step is done whatever it takes.
    first : int
        Rows of the first step.
    clock : callable
        Gives seconds.
    """
    began, rows = clock(), min(first, total)
    while True:
        seconds = _timed(lambda n=rows: work(n), clock)  # type: ignore[misc]
        ahead = min(2 * rows, total)
        if rows == total or clock() - began + seconds * ahead / rows > box_s:
            return Boxed(rows, seconds, total)
        rows = ahead


@dataclass(frozen=True)
class Child:
    """What a process took.

    Attributes
    ----------
    seconds : float
        From its start to its end.
    peak_mb : float
        Largest resident memory in 10^6 bytes; NaN where the system does not tell.
    """

    seconds: float
    peak_mb: float


# Linux counts the memory of the process that starts another as the other's, up to the moment when
# it becomes another program. So a small process starts the one that is measured.
_LAUNCHER = """
import json, subprocess, sys, time
try:
    from resource import RUSAGE_CHILDREN, getrusage
except ImportError:
    getrusage = None
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
seconds = time.perf_counter() - started
peak = None if getrusage is None else getrusage(RUSAGE_CHILDREN).ru_maxrss
said = done.stderr.decode("utf-8", "replace")[-500:]
json.dump({"seconds": seconds, "peak": peak, "code": done.returncode, "said": said}, sys.stdout)
"""


def run_child(command: Sequence[str], *, threads: int) -> Child:
    """Run a command to its end, with so many threads for its libraries.

    Raises
    ------
    TrainingError
        It failed; the message ends with what it said.
    """
    env = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    done = subprocess.run(  # noqa: S603 - the caller's own command, no shell
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
        env=env,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    if found["code"]:
        raise TrainingError(
            f"{' '.join(command[1:4])} ... ended with {found['code']}: {found['said'].strip()}"
        )
    unit = 1 if sys.platform == "darwin" else 1024
    peak_mb = math.nan if found["peak"] is None else found["peak"] * unit / 1e6
    return Child(found["seconds"], peak_mb)
