"""The charts of an evaluation: they need labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomgan.evaluation.curves import Band, Curve, bands, curves_of
from anomgan.evaluation.labelled import OURS, CalibrationPoint, Evaluation, LabelledScores
from anomgan.report import wording
from anomgan.report.axes import Axis, log_axis, score_axis, share_axis
from anomgan.report.chart import (
    FOOT,
    HEIGHT,
    LEFT,
    QUANTILES,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Field,
    Grid,
    histogram,
    quantile_name,
    score_edges,
)
from anomgan.report.drawing import Plot, drawing

__all__ = ["calibration_plot", "ranking_curves", "score_histogram"]

_ALARM_RATES: Final = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RECALLS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)

Numbers = NDArray[np.float64]


def score_histogram(scored: LabelledScores) -> Chart:
    """Draw the scores of normal rows above those of anomalies, on one axis."""
    scores, labels = scored.scores[OURS], scored.labels
    kinds = {"normal": scores[~labels], "anomalous": scores[labels]}
    x = score_axis("score", scores, [scored.threshold])
    edges = score_edges(x, scored.threshold)
    names = {"normal": "normal rows", "anomalous": "anomalies"}
    text = "Rows by score, normal rows above and anomalies below, each on a scale of its own."
    if x.scale != "linear":
        text += " The score axis is logarithmic."
    fields = [
        Field(kind, names[kind], np.histogram(values, bins=edges)[0].tolist())
        for kind, values in kinds.items()
    ]
    image = histogram(fields, x, edges, scored.threshold, text)
    rows = tuple(
        (quantile_name(q), *(f"{np.quantile(v, q):.4g}" for v in kinds.values())) for q in QUANTILES
    )
    legend = tuple(names.items())
    if math.isfinite(scored.threshold):
        legend = (*legend, ("threshold", f"threshold at a rate of {wording.percent(scored.rate)}"))
    return Chart(
        *("scores", "Scores", text, image, legend),
        Grid(("scores", "normal rows", "anomalies"), rows),
    )


def ranking_curves(
    scored: LabelledScores, result: Evaluation, *, seed: int = 0
) -> tuple[Chart, Chart]:
    """Draw recall over false alarms, and precision over recall, of every detector."""
    labels = scored.labels
    found = {name: curves_of(labels, scores) for name, scores in scored.scores.items()}
    roc_band, precision_band = bands(labels, scored.scores[OURS], seed=seed)
    decision = result.decision
    shared = result.n_anomalies / result.n_rows
    legend = (
        *((f"line {name}", result.called(name)) for name in found),
        ("band", "95 % of bootstrap draws, point by point"),
    )
    roc = _curve_chart(
        ("roc", "Found, against false alarms (ROC)"),
        "A good ranking rises steeply at the left: it finds anomalies before it flags normal rows.",
        (share_axis("anomalies found (recall)"), share_axis("normal rows flagged")),
        {name: curve for name, (curve, _) in found.items()},
        roc_band,
        (decision.false_alarms.value, decision.recall.value),
        Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])),
        (*legend, ("dot", "the decision"), ("line chance", "chance")),
        _roc_numbers({result.called(name): curve for name, (curve, _) in found.items()}),
    )
    precision = _curve_chart(
        ("precision", "Precision, against found"),
        "How many of the flagged rows are anomalies, the more of them one wants to find. It "
        f"depends on the share of anomalies, here {wording.percent(shared)}.",
        (share_axis("flagged rows that are anomalies (precision)"), share_axis("anomalies found")),
        {name: curve for name, (_, curve) in found.items()},
        precision_band,
        (decision.recall.value, decision.precision.value),
        Curve(np.array([0.0, 1.0]), np.array([shared, shared])),
        (*legend, ("dot", "the decision"), ("line chance", "chance")),
        _precision_numbers({result.called(name): curve for name, (_, curve) in found.items()}),
        steps=True,
    )
    return roc, precision


def _curve_chart(
    name: tuple[str, str],
    text: str,
    axes: tuple[Axis, Axis],
    curves: Mapping[str, Curve],
    band: Band,
    decision: tuple[float, float],
    chance: Curve,
    legend: tuple[tuple[str, str], ...],
    numbers: Grid,
    *,
    steps: bool = False,
) -> Chart:
    key, title = name
    plot = Plot(axes[1], axes[0], LEFT, TOP, RIGHT, HEIGHT - FOOT)
    parts = [*plot.frame(), plot.area(band.x, band.low, band.high, "band")]
    parts.append(plot.line(chance.x, chance.y, "chance"))
    for detector, curve in curves.items():  # ours first: dashes show on top of its line
        x, y = curve.x, curve.y
        if steps:
            x, y = np.append(0.0, x), np.append(y[0], y)
        parts.append(plot.line(x, y, detector, steps=steps))
    if not math.isnan(decision[0] + decision[1]):
        across, up = (wording.percent(value) for value in decision)
        label = f"the decision: {axes[1].label} {across}, {axes[0].label} {up}"
        parts.append(plot.marker(*decision, "dot", label))
    else:
        legend = tuple(entry for entry in legend if entry[0] != "dot")
    image = drawing(WIDTH, HEIGHT, parts, key=key, title=title, description=text)
    return Chart(key, title, text, image, legend, numbers)


def _roc_numbers(curves: Mapping[str, Curve]) -> Grid:
    headers = ("false alarms", *(f"found by {name}" for name in curves))
    rows = []
    for rate in _ALARM_RATES:
        reached = [float(c.y[c.x <= rate].max()) for c in curves.values()]
        rows.append((f"up to {wording.percent(rate)}", *map(wording.percent, reached)))
    return Grid(headers, tuple(rows))


def _precision_numbers(curves: Mapping[str, Curve]) -> Grid:
    headers = ("found", *(f"precision of {name}" for name in curves))
    rows = []
    for recall in _RECALLS:
        at = [float(c.y[int(np.argmax(c.x >= recall - 1e-12))]) for c in curves.values()]
        rows.append((f"at least {wording.percent(recall)}", *map(wording.percent, at)))
    return Grid(headers, tuple(rows))


def calibration_plot(points: tuple[CalibrationPoint, ...], decision_rate: float) -> Chart:
    """Draw realised over asked-for false-alarm rates, with what chance allows."""
    floor = _floor(points)
    x = log_axis("false-alarm rate asked for", points[0].rate / 1.6, 1.0, percent=True)
    y = log_axis("realised on normal rows", floor, 1.0, percent=True)
    if any(point.realised.value <= floor for point in points):
        rest = tuple(tick for tick in y.ticks if tick[0] > 1.5 * floor)
        y = Axis(y.label, y.low, y.high, ((floor, "none"), *rest), "log")
    plot = Plot(x, y, LEFT, TOP, RIGHT, HEIGHT - FOOT)
    parts = plot.frame()
    banded = [(p.rate, p.band) for p in points if p.band is not None]
    if len(banded) > 1:
        rates, ends = zip(*banded, strict=True)
        low, high = np.array(ends).T
        parts.append(plot.area(rates, low, high, "band expected"))
    parts.append(plot.line([x.low, 1.0], [x.low, 1.0], "chance"))
    for point in points:
        shown = point.realised
        inside = point.band is None or point.band[0] <= shown.value <= point.band[1]
        class_ = "ours" if inside else "off"
        parts.append(plot.whisker(point.rate, shown.low, shown.high, f"whisker {class_}"))
        text = f"asked for {wording.percent(point.rate)}, realised {wording.percent(shown.value)}"
        parts.append(plot.marker(point.rate, shown.value, f"dot {class_}", text))
    if x.low < decision_rate < 1.0:
        parts.insert(0, plot.rule(decision_rate, "threshold"))
        parts.append(plot.note(decision_rate, "the decision"))
    text = (
        "How often normal rows were flagged at each rate. Inside the shaded band they behave like "
        "the rows that the model was calibrated on; above it there are more false alarms than "
        "asked for."
    )
    image = drawing(
        WIDTH, HEIGHT, parts, key="calibration", title="Realised false alarms", description=text
    )
    legend = [("dot ours", "realised, with its 95 % interval"), ("line chance", "as asked for")]
    if any(p.band is not None and not p.band[0] <= p.realised.value <= p.band[1] for p in points):
        legend.insert(1, ("dot off", "outside of the band"))
    if len(banded) > 1:
        legend.append(("band expected", "expected in 95 of 100 cases"))
    rows = tuple((f"{p.rate:g}", wording.span(p.realised), wording.band(p.band)) for p in points)
    headers = ("rate asked for", "realised on normal rows", "expected in 95 of 100 cases")
    return Chart(
        *("calibration", "False alarms, asked for and realised", text, image, tuple(legend)),
        Grid(headers, rows),
    )


def _floor(points: tuple[CalibrationPoint, ...]) -> float:
    """Return the power of ten that is below all that can be drawn, but no lower than needed."""
    shown = [points[0].rate, *(p.realised.value for p in points if p.realised.value > 0.0)]
    return float(10.0 ** math.floor(math.log10(min(shown)) - 0.1))
