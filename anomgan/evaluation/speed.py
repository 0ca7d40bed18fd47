"""The benchmark of speed: what is measured, and a CSV of figures that a later run goes on with.

A case is measured in one go: its contenders take turns, and the rates that its limits are made of
are measured beside them. Its figures are written together when it ends, so that a benchmark that
was stopped goes on with the next case. What the machine is stands in a JSON file beside the CSV:
figures of another machine, or with other versions, are not mixed in.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from anomgan.errors import OutputError, UsageError
from anomgan.evaluation.timing import Timing
from anomgan.serving.outputs import AtomicFile

__all__ = [
    "FAILED",
    "HALF_ON_CUDA",
    "MACHINE",
    "ON_CUDA",
    "OURS",
    "RATE",
    "WHAT",
    "Case",
    "Figure",
    "Progress",
    "SpeedPlan",
    "figure",
    "plan_cases",
    "read_facts",
    "read_figures",
    "run_speed",
]

WHAT: Final = ("training", "throughput", "latency", "start", "csv", "growth")
"""Parts of the benchmark; the rates of the machine, `machine`, are always measured."""
MACHINE: Final = "machine"
FAILED: Final = "failed"
"""Quantity of a case that could not be measured; its `note` says why, and it is tried again."""
RATE: Final = "rows/s"
OURS: Final = "anomgan onnxruntime CPU"
ON_CUDA: Final = "anomgan onnxruntime CUDA"
HALF_ON_CUDA: Final = "anomgan --precision fp16 onnxruntime CUDA"
_SHOWN_ERROR = 500


@dataclass(frozen=True)
class Case:
    """Figures that are measured together.

    Attributes
    ----------
    what : str
        Of `WHAT`, or `machine`.
    rows : int
        Rows of a call or of a file; 0 where that means nothing.
    columns, training_rows : int
        Of the model; 0 where there is none.
    """

    what: str
    rows: int = 0
    columns: int = 0
    training_rows: int = 0


@dataclass(frozen=True)
class Figure:
    """One number, with its spread and its limits.

    Attributes
    ----------
    what, rows, columns, training_rows
        See `Case`.
    contender : str
        Who was measured.
    quantity, unit : str
    value, low, high : float
        Median and quartiles of the repeats; of a quantile of latencies, its quartiles over fifths
        of the calls. NaN where there are none.
    repeats : int
        Calls that counted.
    limit_products, limit_passes, limit_memory : float
        In the same unit, what the machine allows (`anomgan.evaluation.machine_rates.Limits`); NaN
        where nothing was counted.
    data : str
        What rows were measured.
    note : str
        How a figure came about that was not measured in full; empty otherwise.
    """

    what: str
    rows: int
    columns: int
    training_rows: int
    contender: str
    quantity: str
    unit: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    repeats: int = 0
    limit_products: float = math.nan
    limit_passes: float = math.nan
    limit_memory: float = math.nan
    data: str = ""
    note: str = ""

    @property
    def case(self) -> Case:
        """What it was measured with."""
        return Case(self.what, self.rows, self.columns, self.training_rows)

    def share(self, limit: str = "products") -> float:
        """How much of a limit is reached, 1 being all of it; NaN where there is no such limit.

        Parameters
        ----------
        limit : str
            ``products``, ``passes`` or ``memory``.
        """
        bound: float = getattr(self, f"limit_{limit}")
        return self.value / bound if self.unit == RATE else bound / self.value


@dataclass(frozen=True)
class SpeedPlan:
    """Sizes and patience of a benchmark.

    Attributes
    ----------
    what : tuple of str
        Of `WHAT`.
    batches : tuple of int
        Rows a call, for throughput.
    rows, columns, training_rows : tuple of int
        What cost is followed over. The first of `columns` and of `training_rows` are those of
        every other figure.
    csv_rows : int
        Rows of the CSV file.
    steps : int or None
        Training steps of our models; None: the default. Those of the graph do not depend on it.
    budget_s : float
        Seconds that the slowest contender of a figure is given.
    repeats : int
        Fewest calls of each.
    threads : int
    stream_bytes : int
        Size of the copy that the rate of the memory is measured with.
    score_command : tuple of str
        How a process is started that takes the arguments of `anomgan`.
    """

    what: tuple[str, ...] = WHAT
    batches: tuple[int, ...] = (1, 64, 1024, 8192)
    rows: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    columns: tuple[int, ...] = (30, 5, 100, 500)
    training_rows: tuple[int, ...] = (5000, 1000, 20_000, 100_000)
    csv_rows: int = 100_000
    steps: int | None = None
    budget_s: float = 5.0
    repeats: int = 3
    threads: int = 1
    stream_bytes: int = 256 * 2**20
    score_command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        faults = [f"there is no part {name!r} to measure" for name in self.what if name not in WHAT]
        if faults:
            faults[-1] += f"; the parts are {', '.join(WHAT)}"
        faults += [
            f"{name}: at least one number from 1 is needed"
            for name in ("batches", "rows", "columns")
            if not getattr(self, name) or min(getattr(self, name)) < 1
        ]
        if not self.training_rows or min(self.training_rows) < 100:
            faults.append("training_rows: at least one number from 100 is needed")
        if not self.budget_s > 0.0:
            faults.append(f"a budget of {self.budget_s:g} s is none; give seconds above 0")
        if faults:
            raise UsageError("\n".join(faults), faults)

    def settings(self) -> dict[str, Any]:
        """Return what every figure depends on."""
        return {
            "steps": "default" if self.steps is None else self.steps,
            "budget_s": self.budget_s,
            "repeats": self.repeats,
            "threads": self.threads,
        }


Measure = Callable[[Case, SpeedPlan, Path], "list[Figure]"]
Progress = Callable[[int, int, "Sequence[Figure]"], None]
"""Called after every case with the cases done, the cases in all, and the case's figures."""


def figure(
    case: Case,
    contender: str,
    quantity: str,
    unit: str,
    timing: Timing,
    *,
    scale: float = 1.0,
    per: float | None = None,
    limits_s: tuple[float, float, float] | None = None,
    data: str = "",
    note: str = "",
) -> Figure:
    """Make a figure of seconds.

    Parameters
    ----------
    case : Case
    contender, quantity, unit, data, note : str
    timing : Timing
        Seconds of a call.
    scale : float
        Units in a second, for a figure that is a time.
    per : float, optional
        Rows of a call, for a figure that is a rate.
    limits_s : tuple of float, optional
        Least seconds of a call: products, passes, memory.
    """

    def convert(seconds: float) -> float:
        return scale * seconds if per is None else per / seconds

    # The quartiles of a rate are those of its times, the other way round.
    low, high = sorted((convert(timing.low), convert(timing.high)))
    bounds = [convert(s) if s > 0.0 else math.nan for s in limits_s or (math.nan,) * 3]
    return Figure(
        **dataclasses.asdict(case),
        contender=contender,
        quantity=quantity,
        unit=unit,
        value=convert(timing.median),
        low=low,
        high=high,
        repeats=timing.repeats,
        limit_products=bounds[0],
        limit_passes=bounds[1],
        limit_memory=bounds[2],
        data=data,
        note=note,
    )


def plan_cases(plan: SpeedPlan) -> list[Case]:
    """Return what is to be measured, models of one size next to each other."""
    columns, training = plan.columns[0], plan.training_rows[0]
    sizes = {
        "training": (0,),
        "throughput": plan.batches,
        "latency": (1,),
        "start": (1,),
        "csv": (plan.csv_rows,),
    }
    found = [Case(MACHINE)]
    for what, rows in sizes.items():
        if what in plan.what:
            found += [Case(what, n, columns, training) for n in rows]
    if "growth" in plan.what:
        batch = plan.batches[-1]
        found += [Case("growth", n, columns, training) for n in plan.rows]
        found += [Case("growth", batch, d, training) for d in plan.columns]
        found += [Case("growth", batch, columns, n) for n in plan.training_rows]
    found = list(dict.fromkeys(found))
    places = {(c.columns, c.training_rows): i for i, c in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda c: places[c.columns, c.training_rows])


def run_speed(
    plan: SpeedPlan,
    output: str,
    *,
    measure: Measure,
    facts: dict[str, str | int],
    progress: Progress | None = None,
) -> list[Figure]:
    """Measure every case of a plan, and keep the figures in a CSV file.

    Parameters
    ----------
    plan : SpeedPlan
    output : str
        The CSV file; cases in it are not measured again. `output` with the ending .json has
        the facts.
    measure : callable
        Measures one case in a temporary folder; `anomgan.evaluation.speed_cases.measure`.
    facts : dict
        What the machine is (`anomgan.evaluation.machine_rates.machine_facts`).
    progress : callable, optional

    Returns
    -------
    list of Figure
        Everything that the file holds.

    Raises
    ------
    UsageError
        The file holds something else, or figures of another machine or other settings.
    OutputError
        A file cannot be written.
    """
    path = Path(output)
    if path.suffix.lower() == ".json":
        raise UsageError(f"{output}: name a CSV file with -o; a JSON file is written beside it")
    known = [f for f in read_figures(path) if f.quantity != FAILED] if path.exists() else []
    _agree(path.with_suffix(".json"), dict(facts) | plan.settings(), begun=bool(known))
    cases = plan_cases(plan)
    waiting = [case for case in cases if case not in {f.case for f in known}]
    with tempfile.TemporaryDirectory(prefix="anomgan-speed-") as folder:
        for done, case in enumerate(waiting, len(cases) - len(waiting) + 1):
            found = _measured(measure, case, plan, Path(folder))
            known += found
            _write(path, known)
            if progress is not None:
                progress(done, len(cases), found)
    return known


def _measured(measure: Measure, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
    """Measure a case; whatever goes wrong becomes part of the result."""
    try:
        return measure(case, plan, folder)
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        own = dataclasses.asdict(case)
        return [Figure(**own, contender="", quantity=FAILED, unit="", note=message[:_SHOWN_ERROR])]


def _agree(path: Path, facts: dict[str, Any], *, begun: bool) -> None:
    """Keep the facts beside a new file; refuse to go on with one that has others."""
    if not begun:
        if path.exists() and "threads" not in read_facts(path):
            raise UsageError(f"{path} holds something else; name another CSV file with -o")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder of {path}: {error}") from error
        with AtomicFile(path) as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())
        return
    former = read_facts(path)
    other = [name for name in {**former, **facts} if former.get(name) != facts.get(name)]
    if other:
        told = "; ".join(f"{n}: {former.get(n)} there, {facts.get(n)} here" for n in other)
        raise UsageError(
            f"the figures beside {path} are not comparable with this run ({told}); name another "
            "file with -o"
        )


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a machine is, and how it was measured.

    Raises
    ------
    UsageError
        The file is missing or holds something else.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the facts of the machine in {path}: {error}") from error
    if not isinstance(facts, dict):
        raise UsageError(f"{path} holds no facts of a machine")
    return facts


_FIELDS = tuple(field.name for field in dataclasses.fields(Figure))
_INTEGERS = ("rows", "columns", "training_rows", "repeats")
_TEXTS = ("what", "contender", "quantity", "unit", "data", "note")


def read_figures(path: Path) -> list[Figure]:
    """Read a results file.

    Raises
    ------
    UsageError
        The file cannot be read, or is none that `run_speed` wrote.
    """
    try:
        reader = csv.reader(StringIO(path.read_text(encoding="utf-8"), newline=""))
        header = tuple(next(reader, ()))
        rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the results in {path}: {error}") from error
    if header != _FIELDS:
        raise UsageError(
            f"{path} holds no figures of speed: its first line should be {','.join(_FIELDS)}; name "
            "another file with -o"
        )
    try:
        return [
            Figure(**{n: _value(n, cell) for n, cell in zip(_FIELDS, cells, strict=True)})
            for cells in rows
        ]
    except ValueError as error:
        raise UsageError(f"{path}: a line holds no figure ({error}); delete it") from error


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name in _INTEGERS:
        return int(cell)
    return float(cell) if cell else math.nan


def _write(path: Path, figures: Sequence[Figure]) -> None:
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows([_cell(value) for value in dataclasses.astuple(f)] for f in figures)
    with AtomicFile(path) as file:
        file.write(text.getvalue().encode())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
