"""How training is measured: seconds, rows a second, operations of a step, memory; and PyOD's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from anomgan.evaluation.baselines import Preparation, fit_numbers
from anomgan.evaluation.speed import RATE, Case, Figure, SpeedPlan, figure
from anomgan.evaluation.speed_contenders import (
    BASELINES,
    PYOD,
    TORCH,
    Model,
    OwnFit,
    fit_own,
    pyod_is_installed,
    synthetic_rows,
)
from anomgan.evaluation.timing import (
    Boxed,
    Timing,
    boxed,
    interleave,
    run_child,
    summarise_times,
)
from anomgan.nets.precision import layer_types
from anomgan.presets import FlagshipParameters

__all__ = ["CountedProducts", "measure_training", "pyod_scoring", "training_step_products"]

Numbers = NDArray[np.float64]

_FEW_STEPS: Final = (12, 60)
"""Two trainings whose operations differ by those of some steps alone: enough to be timed, and a
whole number of penalty intervals."""
_MEMORY_STEPS: Final = 20
"""Steps of the process whose memory is told: it does not grow with them."""
_LEAST_BOX_S: Final = 1.0
_BOXES: Final = 12.0
"""Seconds that a detector of PyOD is given, in budgets of a figure."""


class CountedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of torch's matrix products inside a `with` block, and times them.

    Attributes
    ----------
    flops : int
    seconds : float
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, count it and time it."""
        started = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        took = time.perf_counter() - started
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.seconds += took
            self.flops += int(count(*args, **(kwargs or {}), out_val=found))
        return found


def training_step_products(rows: Numbers) -> tuple[float, float]:
    """Return operations and seconds of the matrix products in a step of our training.

    Parameters
    ----------
    rows : [n, d]
    """
    fits = []
    for steps in _FEW_STEPS:
        with CountedProducts() as counted:
            fit_own(rows, steps)
        fits.append(counted)
    few, more = fits
    n = _FEW_STEPS[1] - _FEW_STEPS[0]
    return (more.flops - few.flops) / n, (more.seconds - few.seconds) / n


def measure_training(case: Case, plan: SpeedPlan, folder: Path) -> list[Figure]:
    """Time fits on the same rows in turns, count a step of ours, and weigh a process that fits."""
    rows = synthetic_rows(case.training_rows, case.columns, seed=0)
    known = Preparation().fit(rows).transform(rows)
    own: list[OwnFit] = []
    calls: dict[str, Callable[[], object]] = {
        TORCH: lambda: own.append(fit_own(rows, plan.steps)),
        **{n: partial(fit_numbers, name, known, 0) for n, name in BASELINES.items()},
    }
    found = interleave(calls, budget_s=plan.budget_s, repeats=plan.repeats)
    figures = [figure(case, name, "fit", "s", timing) for name, timing in found.items()]
    figures = [replace(f, note=_steps_note(plan)) if f.contender == TORCH else f for f in figures]
    # A first fit loads what later ones find loaded.
    step_s = summarise_times([f.step_s for f in own[-found[TORCH].repeats :]])
    flops, products_s = training_step_products(rows)
    bound_s = flops / _product_rate(plan)
    figures += _own_figures(case, plan, TORCH, found[TORCH], step_s, bound_s)
    outside = 100.0 * (1.0 - products_s / step_s.median)
    share = Timing(outside, outside, outside, 1)
    figures.append(figure(case, TORCH, "step outside matrix products", "%", share))
    if torch.cuda.is_available():
        figures += _cuda_figures(case, plan, rows)
    if plan.score_command:
        figures.append(_memory(case, plan, rows, folder))
    return figures + (_pyod_fits(case, plan, known) if pyod_is_installed() else [])


def _steps_note(plan: SpeedPlan) -> str:
    return "" if plan.steps is None else f"{plan.steps} steps"


def _own_figures(
    case: Case, plan: SpeedPlan, name: str, whole: Timing, step: Timing, bound_s: float
) -> list[Figure]:
    """Rows a second while training, and what the default number of steps takes."""
    parameters = FlagshipParameters()
    bound = (bound_s, math.nan, math.nan)
    rate = figure(case, name, "training", RATE, step, per=parameters.batch_rows, limits_s=bound)
    figures = [rate]
    if plan.steps is not None:
        more = parameters.n_steps - plan.steps
        total = Timing(
            whole.median + more * step.median,
            whole.low + more * step.low,
            whole.high + more * step.high,
            step.repeats,
        )
        bounds = (parameters.n_steps * bound_s, math.nan, math.nan)
        figures.append(
            figure(case, name, "fit, default budget", "s", total, limits_s=bounds,
                   note=f"extrapolated from {plan.steps} steps")
        )  # fmt: skip
    else:
        bounds = (parameters.n_steps * bound_s, math.nan, math.nan)
        figures.append(figure(case, name, "fit, default budget", "s", whole, limits_s=bounds))
    return figures


def _product_rate(plan: SpeedPlan) -> float:
    """Measure torch's operations a second of the widest product of a step, on one thread."""
    parameters = FlagshipParameters()
    width = max(parameters.discriminator_width, parameters.generator_width)
    shape = (parameters.members, parameters.batch_rows, width)
    x, weights = torch.ones(shape), torch.ones((shape[0], width, width))
    later = layer_types(x, 2, rounded=parameters.bfloat16)[1]  # as all layers but the first
    x, weights = x.to(later), weights.to(later)
    former = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a fit
    try:
        found = interleave(
            {"product": lambda: torch.bmm(x, weights)}, budget_s=plan.budget_s / 4, repeats=5
        )
    finally:
        torch.set_num_threads(former)
    return 2.0 * math.prod(shape) * width / found["product"].median


def _cuda_figures(case: Case, plan: SpeedPlan, rows: Numbers) -> list[Figure]:
    """Time the same fit on a GPU; no limit of it is measured."""
    name = "anomgan torch CUDA"
    own: list[OwnFit] = []
    call = {name: lambda: own.append(fit_own(rows, plan.steps, device="cuda"))}
    found = interleave(call, budget_s=plan.budget_s, repeats=plan.repeats)[name]
    step_s = summarise_times([f.step_s for f in own[-found.repeats :]])
    figures = [figure(case, name, "fit", "s", found, note=_steps_note(plan))]
    return figures + _own_figures(case, plan, name, found, step_s, math.nan)


def _memory(case: Case, plan: SpeedPlan, rows: Numbers, folder: Path) -> Figure:
    """Return the largest resident memory of a process that fits and saves."""
    table = folder / "train.csv"
    pl.DataFrame(rows, schema=[f"x{i}" for i in range(rows.shape[1])]).write_csv(table)
    command = (
        *(*plan.score_command, "fit", str(table), "-m", str(folder / "fitted"), "--force"),
        *("--set", f"n_steps={_MEMORY_STEPS}", "--set", "device=cpu", "--quiet"),
    )
    peak = run_child(command, threads=plan.threads).peak_mb
    return Figure(
        case.what, case.rows, case.columns, case.training_rows, "anomgan fit", "peak memory",
        "MB", peak, repeats=1, note=f"{_MEMORY_STEPS} steps",
    )  # fmt: skip


def _pyod_fits(case: Case, plan: SpeedPlan, known: Numbers) -> list[Figure]:
    """Fits of PyOD's detectors, on as many rows as their time allows."""
    figures = []
    for label, name in PYOD.items():
        done = boxed(partial(_fit_part, name, known), len(known), box_s=_box(plan))
        figures.append(_boxed_figure(case, label, "fit", done))
    return figures


def _fit_part(name: str, known: Numbers, n: int) -> None:
    fit_numbers(name, known[:n], 0)


def _score_part(score: Callable[[Numbers], Numbers], rows: Numbers, n: int) -> None:
    score(rows[:n])


def pyod_scoring(case: Case, plan: SpeedPlan, model: Model, rows: Numbers) -> list[Figure]:
    """Scoring by PyOD's detectors, fitted to a few rows: their networks do not grow with them."""
    known = model.preparation.transform(model.training[:64])
    scaled = model.preparation.transform(rows)
    figures = []
    for label, name in PYOD.items():
        score = fit_numbers(name, known, 0)
        done = boxed(partial(_score_part, score, scaled), len(rows), box_s=_box(plan))
        figures.append(_boxed_figure(case, label, "scoring", done))
    return figures


def _box(plan: SpeedPlan) -> float:
    return max(_LEAST_BOX_S, _BOXES * plan.budget_s)


def _boxed_figure(case: Case, label: str, quantity: str, done: Boxed) -> Figure:
    timing = Timing(done.estimate, math.nan, math.nan, 1)
    note = f"extrapolated from {done.rows} rows" if done.extrapolated else ""
    if quantity == "fit":
        return figure(case, label, quantity, "s", timing, note=note)
    return figure(case, label, quantity, RATE, timing, per=done.total, note=note)
