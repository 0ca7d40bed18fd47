"""Does the exported graph say what torch says? Checked at every export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from anomgan.errors import ExportError
from anomgan.evaluation.metrics import rank_correlation
from anomgan.export.precision import FP32, Precision
from anomgan.export.rounding import round_every_value
from anomgan.scoring.program import RowScore
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Rows

__all__ = [
    "MAX_RELATIVE",
    "P99_RELATIVE",
    "Parity",
    "check_p_values",
    "check_parity",
    "open_rounded",
    "run_scorer",
]

P99_RELATIVE, MAX_RELATIVE = FP32.p99_relative, FP32.max_relative
"""Relative difference of scores that 99 % of rows must keep, and every row, in float32."""
P_VALUE_RELATIVE = 1e-4
"""Relative difference of p-values of one score: rounding in the tail, no other row's place."""
TOP = 100


@dataclass(frozen=True)
class Parity:
    """Agreement of the graph with torch on some rows.

    Attributes
    ----------
    n_rows : int
    p99_relative, max_relative : float
        |onnx - torch| / |torch| of the scores.
    spearman : float
        Rank correlation of the scores.
    same_top : bool
        The same rows stand in the top hundred.
    contribution_gap : float
        Largest |sum of contributions - score| / score in the graph.
    """

    n_rows: int
    p99_relative: float
    max_relative: float
    spearman: float
    same_top: bool
    contribution_gap: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def run_scorer(model: bytes, rows: Rows, precision: Precision = FP32) -> dict[str, NDArray[Any]]:
    """Run a scorer on checked rows with onnxruntime's CPU provider; outputs by name.

    What computes in float16 is rounded as a GPU does it.
    """
    session = open_rounded(model) if precision.is_half else _open(model)
    feeds = {"numeric": rows.numeric, "categorical": rows.categorical}
    wanted = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    values = session.run(names, {k: v for k, v in feeds.items() if k in wanted})
    return dict(zip(names, values, strict=True))


def open_rounded(model: bytes) -> ort.InferenceSession:
    """Open a graph of float16 on the CPU, to score as it does on a GPU.

    See `anomgan.export.rounding.round_every_value`.
    """
    return _open(round_every_value(model), ort.GraphOptimizationLevel.ORT_DISABLE_ALL)


def _open(
    model: bytes,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_mem_reuse = False  # see anomgan.serving.providers
    options.graph_optimization_level = level
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_parity(
    outputs: Mapping[str, NDArray[Any]],
    score: RowScore,
    encoder: FeatureEncoder,
    rows: Rows,
    precision: Precision = FP32,
) -> Parity:
    """Compare the graph's outputs with torch on the same rows.

    Raises
    ------
    ExportError
        The scores differ by more than `precision` allows.
    """
    encoded = encoder.transform(rows)
    features, surprise = torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise)
    ours, theirs = score.scores(features, surprise).numpy().astype(np.float64), outputs["score"]
    parity = compare(ours, theirs.astype(np.float64), outputs["contributions"])
    remedy = "Please report this with the model's parameters"
    if precision.is_half:
        remedy = "This model wants more digits than float16 has: export it with --precision fp32"
    mostly, at_most = precision.p99_relative, precision.max_relative
    if not (parity.p99_relative <= mostly and parity.max_relative <= at_most):
        raise ExportError(
            f"the exported graph's scores differ from torch on {parity.n_rows} rows: relative "
            f"difference {parity.p99_relative:.1e} at the 99th percentile (at most "
            f"{mostly:.0e}), {parity.max_relative:.1e} at most (at most {at_most:.0e}); "
            f"nothing was written. {remedy}"
        )
    return parity


def check_p_values(outputs: Mapping[str, NDArray[Any]], expected: NDArray[np.float64]) -> None:
    """Compare the graph's p-values with the calibrator's for the graph's own scores, [n].

    Raises
    ------
    ExportError
        They differ by more than `P_VALUE_RELATIVE`.
    """
    found = outputs["p_value"].astype(np.float64)
    wrong = ~(np.abs(found - expected) <= P_VALUE_RELATIVE * expected)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise ExportError(
            f"the exported graph's p-values differ from the calibrator on {int(wrong.sum())} of "
            f"{len(found)} rows (row {i + 1}: {found[i]:.6g} instead of {expected[i]:.6g}); "
            "nothing was written. Please report this with the model's parameters"
        )


def compare(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], contributions: NDArray[Any]
) -> Parity:
    """Measure the agreement of two score vectors [n]."""
    relative = np.abs(theirs - ours) / np.maximum(np.abs(ours), 1e-12)
    gap = np.abs(contributions.sum(axis=1) - theirs) / np.maximum(np.abs(theirs), 1e-12)
    top = min(TOP, len(ours))
    same = set(np.argsort(-ours, kind="stable")[:top]) == set(
        np.argsort(-theirs, kind="stable")[:top]
    )
    return Parity(
        n_rows=len(ours),
        # Of few rows, the worst one is not the 99th percentile.
        p99_relative=float(np.quantile(relative, 0.99, method="lower")),
        max_relative=float(relative.max()),
        spearman=rank_correlation(ours, theirs),
        same_top=same,
        contribution_gap=float(gap.max()),
    )
