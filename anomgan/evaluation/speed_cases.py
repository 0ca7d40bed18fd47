"""How each case of the benchmark of speed is measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.evaluation.graph_cost import PRODUCTS, GraphCost, count_graph, node_times
from anomgan.evaluation.machine_rates import MachineRates, limits, measure_rates
from anomgan.evaluation.speed import MACHINE, OURS, RATE, Case, Figure, SpeedPlan, figure
from anomgan.evaluation.speed_contenders import (
    DATA,
    TORCH,
    Model,
    make_model,
    pyod_is_installed,
    scoring_calls,
    synthetic_rows,
)
from anomgan.evaluation.speed_training import measure_training, pyod_scoring
from anomgan.evaluation.thread_limit import limited_threads
from anomgan.evaluation.timing import (
    Timing,
    in_turn,
    interleave,
    latencies,
    quantiles_by_part,
    run_child,
    summarise_times,
)

__all__ = ["Meter"]

COUNTED_ROWS: Final = 1024
"""Most rows of the run whose operations are counted; the graph has tiles of far fewer."""
IMPORTS: Final = "imports alone"
READ_AND_WRITE: Final = "reading and writing alone"
COMMAND: Final = "anomgan score"
FAST_COMMAND: Final = "anomgan score, --fast"
OUTSIDE: Final = "outside matrix products"
_FEW_ROWS = 64
_LATENCY_ROWS = 50
"""Rows that single calls go through: what a row costs depends on whether it is to be explained."""
_MORE_CALLS = 10

_IMPORT_CODE = "import numpy, onnxruntime, polars"
_COPY_CODE = """
import sys
import polars as pl
from anomgan.serving.writers import open_writer
from anomgan.tables.readers import open_table
with open_table(sys.argv[1]) as reader, open_writer(sys.argv[2], "csv") as writer:
    for batch in reader:
        score = batch.frame[batch.frame.columns[0]].cast(pl.Float32)
        row = pl.int_range(batch.first_row, batch.first_row + len(score), eager=True)
        columns = {"row": row, "score": score, "p_value": score, "is_anomaly": score > 0.0}
        writer.write(pl.DataFrame(columns))
"""

Numbers = NDArray[np.float64]
Limits = tuple[float, float, float]  # seconds: products, passes, memory


class Meter:
    """Measures cases; keeps the model of the last one, which the next is likely to share."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._size = (0, 0)
        self._kinds: Mapping[str, Callable[[Case, SpeedPlan, Path], list[Figure]]] = {
            MACHINE: _machine,
            "training": measure_training,
            "throughput": self._throughput,
            "latency": self._latency,
            "start": self._start,
            "csv": self._csv,
            "growth": self._growth,
        }

    def __call__(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        """Measure a case; files go to `folder`, which must be empty at the first."""
        with limited_threads(plan.threads):
            found = self._kinds[case.what](case, plan, folder)
        return [replace(f, data=f.data or DATA) if f.columns else f for f in found]

    def _model_of(self, case: Case, plan: SpeedPlan, folder: Path) -> Model:
        size = (case.training_rows, case.columns)
        if self._model is None or self._size != size:
            self._model = make_model(*size, plan.steps, plan.threads, folder)
            self._size = size
        return self._model

    def _throughput(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        model = self._model_of(case, plan, folder)
        rows = synthetic_rows(case.rows, case.columns, seed=1)
        found, cost = _rates(case, plan, model, rows)
        found += _graph_figures(case, cost)
        feed = {"numeric": rows[: cost.rows]}
        # Few rows are soon done, and a call that was interrupted is then most of what was seen.
        calls = plan.repeats * (_MORE_CALLS if cost.rows <= _FEW_ROWS else 1)
        found += _kind_figures(case, node_times(model.graph, feed, calls=calls), calls)
        if case.rows == plan.batches[-1] and pyod_is_installed():
            found += pyod_scoring(case, plan, model, rows)
        return found

    def _latency(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        model = self._model_of(case, plan, folder)
        rows = synthetic_rows(_LATENCY_ROWS, case.columns, seed=1)
        by_row = [_latency_calls(model, rows[i : i + 1]) for i in range(len(rows))]
        calls = {name: in_turn([own[name] for own in by_row]) for name in by_row[0]}
        typical = int(np.argsort(model.scorer.score(rows).score)[len(rows) // 2])
        _, bounds = _limits(model, rows[typical : typical + 1], plan)
        seconds = latencies(calls, budget_s=plan.budget_s, repeats=plan.repeats)
        return [
            figure(
                case, name, quantity, "us", quantiles_by_part(own, share), scale=1e6,
                limits_s=bounds if name == OURS else None,
            )
            for name, own in seconds.items()
            for quantity, share in (("p50", 0.5), ("p99", 0.99))
        ]  # fmt: skip

    def _start(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        model = self._model_of(case, plan, folder)
        table = _write_table(folder / "one.csv", synthetic_rows(1, case.columns, seed=1))
        children = {
            COMMAND: _score_command(plan, model.folder, table, folder),
            FAST_COMMAND: _score_command(plan, model.fast, table, folder),
            IMPORTS: (sys.executable, "-c", _IMPORT_CODE),
        }
        found, peaks = _run_children(children, plan)
        figures = [figure(case, name, "start", "s", found[name]) for name in found]
        return figures + [_peak(case, name, peaks[name]) for name in found]

    def _csv(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        model = self._model_of(case, plan, folder)
        rows = synthetic_rows(case.rows, case.columns, seed=1)
        table = _write_table(folder / "many.csv", rows)
        target = str(folder / "copied.csv")
        children = {
            COMMAND: _score_command(plan, model.folder, table, folder),
            FAST_COMMAND: _score_command(plan, model.fast, table, folder),
            READ_AND_WRITE: (sys.executable, "-c", _COPY_CODE, table, target),
        }
        _, bounds = _limits(model, rows, plan)
        found, peaks = _run_children(children, plan)
        size_mb = Path(table).stat().st_size / 1e6
        figures = []
        for name, timing in found.items():
            own = bounds if name == COMMAND else None
            figures.append(
                figure(case, name, "CSV to CSV", RATE, timing, per=case.rows, limits_s=own)
            )
            figures.append(figure(case, name, "CSV to CSV", "MB/s", timing, per=size_mb))
            figures.append(_peak(case, name, peaks[name]))
        return figures

    def _growth(self, case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
        model = self._model_of(case, plan, folder)
        found, cost = _rates(case, plan, model, synthetic_rows(case.rows, case.columns, seed=1))
        once = {TORCH: model.own.seconds, **model.baseline_s}
        fits = [
            figure(case, name, "fit", "s", Timing(seconds, math.nan, math.nan, 1))
            for name, seconds in once.items()
        ]
        return found + _graph_figures(case, cost) + fits


def _latency_calls(model: Model, row: Numbers) -> dict[str, Callable[[], object]]:
    """Return calls of all contenders on one row [1, d]; ours also take it as a mapping."""
    named = {f"x{i}": float(value) for i, value in enumerate(row[0])}
    return scoring_calls(model, row) | {
        "anomgan Scorer.score of a mapping": partial(model.scorer.score, named),
        "anomgan --fast Scorer.score of a mapping": partial(model.fast_scorer.score, named),
    }


def _machine(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
    """Rates of the machine on their own; the limits of a case use rates measured beside it."""
    rates = _machine_rates(plan)
    rows: list[tuple[str, str, float]] = [("copy in memory", "GB/s", rates.stream / 1e9)]
    for kind in rates.products:
        rows += [
            (f"product of {kind} matrices, 256 x 256 x 256", "GFLOP/s", rates.products[kind] / 1e9),
            (f"addition of {kind} tiles in the cache", "GB/s", rates.passes[kind] / 1e9),
            (f"exponential of {kind} tiles in the cache", "1e6/s", rates.expensive[kind] / 1e6),
        ]
    return [_plain(case, "onnxruntime CPU", *row) for row in rows]


def _machine_rates(plan: SpeedPlan) -> MachineRates:
    return measure_rates(budget_s=plan.budget_s, stream_bytes=plan.stream_bytes)


def _plain(case: Case, contender: str, quantity: str, unit: str, value: float) -> Figure:
    """Make a figure that is no time."""
    return Figure(case.what, case.rows, case.columns, case.training_rows, contender, quantity,
                  unit, value)  # fmt: skip


def _rates(
    case: Case, plan: SpeedPlan, model: Model, rows: Numbers
) -> tuple[list[Figure], GraphCost]:
    """Time every contender on the same rows, and put the limits beside ours."""
    cost, bounds = _limits(model, rows, plan)
    found = interleave(scoring_calls(model, rows), budget_s=plan.budget_s, repeats=plan.repeats)
    figures = [
        figure(
            case, name, "scoring", RATE, timing, per=case.rows,
            limits_s=bounds if name == OURS else None,
        )
        for name, timing in found.items()
    ]  # fmt: skip
    return figures, cost


def _limits(model: Model, rows: Numbers, plan: SpeedPlan) -> tuple[GraphCost, Limits]:
    """Count the graph on some of the rows, and return the least seconds that all of them need."""
    counted = rows[:COUNTED_ROWS]
    cost = count_graph(model.graph, {"numeric": counted}, rows=len(counted))
    found = limits(cost, _machine_rates(plan), rows=len(rows), budget_s=plan.budget_s)
    # A limit is that of one thread for as many threads as there are; one row keeps one busy.
    n = min(plan.threads, len(rows))
    return cost, (found.products / n, found.passes / n, found.memory / n)


def _graph_figures(case: Case, cost: GraphCost) -> list[Figure]:
    """Tell what the graph does to a row, as counted."""
    rows = [
        ("products, float", "FLOP/row", cost.flops("float") / cost.rows),
        ("products, double", "FLOP/row", cost.flops("double") / cost.rows),
        ("passes", "B/row", sum(cost.passes.values()) / cost.rows),
        ("transcendental functions", "1/row", sum(cost.expensive.values()) / cost.rows),
        ("nodes run", "1/row", sum(cost.nodes.values()) / cost.rows),
    ]
    return [_plain(case, "graph", *row) for row in rows]


def _kind_figures(case: Case, times: Mapping[str, float], calls: int) -> list[Figure]:
    """Return shares of the nodes' own time, all kinds by name, and those of all but products."""
    total = sum(times.values())
    outside = sum(t for kind, t in times.items() if kind not in PRODUCTS)
    rows = [(OUTSIDE, outside), *times.items()]
    found = [_plain(case, kind, "share of node time", "%", 100 * t / total) for kind, t in rows]
    return [replace(f, repeats=calls) for f in found]


def _score_command(plan: SpeedPlan, model: Path, table: str, folder: Path) -> tuple[str, ...]:
    return (
        *(*plan.score_command, "score", table, "-m", str(model)),
        *("-o", str(folder / "scores.csv"), "--provider", "cpu"),
        *("--threads", str(plan.threads), "--quiet"),
    )


def _run_children(
    children: Mapping[str, tuple[str, ...]], plan: SpeedPlan
) -> tuple[dict[str, Timing], dict[str, list[float]]]:
    """Run processes in turns; return their seconds and their peaks of memory in MB."""
    peaks: dict[str, list[float]] = {name: [] for name in children}

    def run(name: str) -> None:
        child = run_child(children[name], threads=plan.threads)
        peaks[name].append(child.peak_mb)

    calls = {name: partial(run, name) for name in children}
    return interleave(calls, budget_s=plan.budget_s, repeats=plan.repeats), peaks


def _peak(case: Case, name: str, peaks: list[float]) -> Figure:
    """Make the figure of the largest resident memory of processes; NaN where it is not told."""
    found = summarise_times(peaks)
    own = _plain(case, name, "peak memory", "MB", found.median)
    return replace(own, low=found.low, high=found.high, repeats=found.repeats)


def _write_table(path: Path, rows: Numbers) -> str:
    frame = pl.DataFrame(rows, schema=[f"x{i}" for i in range(rows.shape[1])])
    frame.write_csv(path, float_precision=6)
    return str(path)
