"""Methods on datasets, side by side: one CSV row a run, resumable, over several processes.

A run is one method on one case with one seed. Its row is written when it ends, so that a benchmark
that was stopped goes on where it was: runs that the file holds are not repeated, failed ones
neither (delete their rows to try again).
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgan.errors import OutputError, TrainingError, UsageError
from anomgan.evaluation.baselines import Detector
from anomgan.evaluation.metrics import auroc, average_precision, false_alarm_rate
from anomgan.evaluation.thread_limit import limited_threads

__all__ = [
    "FALSE_ALARM_RATE",
    "Case",
    "LabelledSplit",
    "Run",
    "distinct",
    "read_runs",
    "run_benchmark",
]

FALSE_ALARM_RATE: Final = 0.01
"""The rate that every method is asked for; the realised one is reported."""

_SHOWN_ERROR = 500  # characters of an error that a row keeps

DetectorFactory = Callable[[int], Detector]


class LabelledSplit(Protocol):
    """Normal rows to train on, and labelled rows to score."""

    @property
    def X_train(self) -> Any:  # noqa: N802 - the name that splits have
        """Normal rows, table or array [n_train, d]."""

    @property
    def X_test(self) -> Any:  # noqa: N802
        """Rows to score, table or array [n_test, d]."""

    @property
    def y_test(self) -> NDArray[Any]:
        """1 = anomaly, [n_test]."""


@dataclass(frozen=True)
class Case:
    """A dataset under a protocol.

    Parameters
    ----------
    suite, name, protocol : str
        What the rows of results carry.
    split : callable
        Takes a seed, gives a `LabelledSplit`. With several processes it must be importable from
        them: a function of a module, or a `functools.partial` of one.
    flagged_share : float, optional
        Share of the test rows that are called anomalous for precision and recall, the highest
        scores first, as papers do that know the test's share of anomalies. None: as many rows as
        there are anomalies.
    score_once : bool
        Score rows that are copies of each other once, for tables that consist of copies; the
        seconds of scoring are then those of the distinct rows.
    """

    suite: str
    name: str
    protocol: str
    split: Callable[[int], LabelledSplit]
    flagged_share: float | None = None
    score_once: bool = False


@dataclass(frozen=True)
class Run:
    """The result of one method on one case with one seed; NaN where a run failed.

    Parameters
    ----------
    suite, set, protocol, seed, method
        What was run.
    rows, columns : int
        Training rows, and their columns as handed in; 0 where the split failed.
    auroc, average_precision, false_alarm_rate : float
        In [0, 1]; the last is the share of normal test rows with a p-value of 0.01 at most, NaN
        where the method was not calibrated.
    fit_s, score_s : float
        Seconds, one thread.
    error : str
        What went wrong, in one line; empty where nothing did.
    precision, recall : float
        Of the rows at or above the quantile of the scores that leaves the case's share of flags.
    """

    suite: str
    set: str
    protocol: str
    seed: int
    method: str
    rows: int = 0
    columns: int = 0
    auroc: float = math.nan
    average_precision: float = math.nan
    false_alarm_rate: float = math.nan
    fit_s: float = math.nan
    score_s: float = math.nan
    error: str = ""
    precision: float = math.nan
    recall: float = math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN where the run failed."""
        total = self.precision + self.recall
        return 2.0 * self.precision * self.recall / total if total else 0.0

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes it the same run as another."""
        return self.suite, self.set, self.protocol, self.seed, self.method


Progress = Callable[[int, int, Run], None]
"""Called after every run with the runs done, the runs in all, and the run."""

_FIELDS = tuple(field.name for field in dataclasses.fields(Run))
_FORMER_FIELDS = _FIELDS[:-2]
"""Of results files from before there were precision and recall; those are empty there."""
_INTEGERS = ("seed", "rows", "columns")
_TEXTS = ("suite", "set", "protocol", "method", "error")


@dataclass(frozen=True)
class _Task:
    case: Case
    seed: int
    method: str
    factory: DetectorFactory

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return self.case.suite, self.case.name, self.case.protocol, self.seed, self.method


def run_benchmark(
    cases: Sequence[Case],
    methods: Mapping[str, DetectorFactory],
    seeds: Sequence[int],
    output: str | os.PathLike[str],
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> tuple[Run, ...]:
    """Run every method on every case with every seed, and keep the results in a CSV file.

    Parameters
    ----------
    cases : sequence of Case
    methods : mapping of str to callable
        By label, what makes a detector from a seed; see `anomgan.evaluation.baselines.detectors`.
    seeds : sequence of int
        Each is handed to the split and to the detector.
    output : path-like
        The CSV file; where it exists, runs in it are not repeated and new ones are appended.
    jobs : int
        Processes at work at once, each with one thread; 1 works in this process.
    progress : callable, optional
        Called after every run.

    Returns
    -------
    tuple of Run
        The asked-for runs, in the order of cases, seeds and methods, earlier ones among them.

    Raises
    ------
    UsageError
        `jobs` is below 1, or the file holds something else than results.
    OutputError
        The file cannot be written.
    TrainingError
        A process was killed from outside, most likely for want of memory.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}, at least 1 process is needed")
    tasks = [
        _Task(case, seed, label, factory)
        for case in cases
        for seed in seeds
        for label, factory in methods.items()
    ]
    path = Path(output)
    known = {run.key for run in read_runs(path)} if path.exists() else set()
    waiting = [task for task in tasks if task.key not in known]
    n_done = len(tasks) - len(waiting)
    _begin(path)
    for run in _results(waiting, jobs):
        _append(path, run)
        n_done += 1
        if progress is not None:
            progress(n_done, len(tasks), run)
    # Read back, so that a summary does not depend on which runs were there before.
    found = {run.key: run for run in read_runs(path)}
    return tuple(found[task.key] for task in tasks)


def distinct(rows: Any) -> tuple[Any, NDArray[np.intp]]:
    """Leave copies of rows out.

    Parameters
    ----------
    rows : array [n, d] or pandas.DataFrame

    Returns
    -------
    tuple
        Distinct rows in order of appearance, [a, d], and the place of every row among them, [n].
    """
    frame = pd.DataFrame(rows)
    place = frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup().to_numpy()
    first = np.unique(place, return_index=True)[1]
    return (rows.iloc[first] if isinstance(rows, pd.DataFrame) else rows[first]), place


def read_runs(path: str | os.PathLike[str]) -> tuple[Run, ...]:
    """Read the runs of a results file; a last line cut short by a kill is left out.

    Raises
    ------
    UsageError
        The file is none that `run_benchmark` wrote, or a line of it cannot be read.
    """
    text = _complete_lines(Path(path))
    reader = csv.reader(StringIO(text, newline=""))
    header = tuple(next(reader, ()))
    if text and header not in (_FIELDS, _FORMER_FIELDS):
        raise UsageError(
            f"{path} holds no benchmark results: its first line should be {','.join(_FIELDS)}; "
            "name another file with -o"
        )
    runs = []
    for cells in reader:
        try:
            runs.append(Run(**{n: _value(n, c) for n, c in zip(header, cells, strict=True)}))
        except ValueError as error:
            raise UsageError(
                f"{path}, line {reader.line_num}: no result of a run ({error}); delete that line"
            ) from error
    return tuple(runs)


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name in _INTEGERS:
        return int(cell)
    return float(cell) if cell else math.nan


def _complete_lines(path: Path) -> str:
    """Return the file up to its last line end; no cell holds one."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the results in {path}: {error}") from error
    return text[: text.rfind("\n") + 1]


def _begin(path: Path) -> None:
    """Write the header of a new file, and cut an unfinished last line off an old one."""
    text = _complete_lines(path) if path.exists() else ""
    try:
        if not text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(_FIELDS) + "\n", encoding="utf-8", newline="")
        elif text.startswith(",".join(_FORMER_FIELDS) + "\n"):
            lines = [",".join(_FIELDS), *(f"{line},," for line in text.splitlines()[1:])]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
        elif path.stat().st_size > len(text.encode()):
            os.truncate(path, len(text.encode()))
    except OSError as error:
        raise OutputError(f"cannot write the results to {path}: {error}") from error


def _append(path: Path, run: Run) -> None:
    line = StringIO(newline="")
    cells = [_cell(value) for value in dataclasses.astuple(run)]
    csv.writer(line, lineterminator="\n").writerow(cells)
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write the results to {path}: {error}") from error


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def _results(tasks: Sequence[_Task], jobs: int) -> Iterator[Run]:
    """Give results as they come."""
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            with limited_threads(1):
                yield _run(task)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang on its threads
    others = set(multiprocessing.active_children())
    with limited_threads(1):
        pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, _start_worker)
        try:
            for future in as_completed([pool.submit(_run, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process of the benchmark was killed from outside, most likely for want of "
                "memory; the same command with fewer --jobs goes on where it stopped"
            ) from error
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise
        finally:
            # The command ends its process without Python's own clearing up: nothing may be left.
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which ends its workers, and keep the log silent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("anomgan").addHandler(logging.NullHandler())


def _run(task: _Task) -> Run:
    """Split, fit, score and judge; whatever goes wrong becomes part of the result."""
    case = task.case
    run = Run(case.suite, case.name, case.protocol, task.seed, task.method)
    try:
        split = case.split(task.seed)
        n_rows, n_columns = split.X_train.shape
        run = dataclasses.replace(run, rows=int(n_rows), columns=int(n_columns))
        return _measured(run, task.factory(task.seed), split, case)
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return dataclasses.replace(run, error=message[:_SHOWN_ERROR])


def _measured(run: Run, detector: Detector, split: LabelledSplit, case: Case) -> Run:
    rows, place = distinct(split.X_test) if case.score_once else (split.X_test, slice(None))
    started = time.perf_counter()
    detector.fit(split.X_train)
    fitted = time.perf_counter()
    scores = np.asarray(detector.score(rows), dtype=np.float64)[place]
    scored = time.perf_counter()
    p_values = detector.p_values(scores)
    judged = not np.isnan(p_values).any()
    share = float(split.y_test.mean()) if case.flagged_share is None else case.flagged_share
    called = scores >= np.quantile(scores, 1.0 - share)  # as the authors' code does
    right = float((called & (split.y_test == 1)).sum())
    return dataclasses.replace(
        run,
        auroc=auroc(split.y_test, scores),
        average_precision=average_precision(split.y_test, scores),
        false_alarm_rate=(
            false_alarm_rate(split.y_test, p_values <= FALSE_ALARM_RATE) if judged else math.nan
        ),
        fit_s=fitted - started,
        score_s=scored - fitted,
        precision=right / max(1.0, float(called.sum())),
        recall=right / float(split.y_test.sum()),
    )
