"""What the runs of a benchmark amount to: means with intervals, ranks, wins and losses.

Seeds are averaged first: a set counts once, however many seeds it was run with. Only sets on which
every method has a result are compared; the others are named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.evaluation.benchmark import Run

__all__ = ["TIE", "MethodSummary", "Summary", "markdown_table", "plain_table", "summarise"]

TIE: Final = 0.005
"""Difference in AUROC, seeds averaged, up to which a set is a tie: half a point."""

_LEVEL = 0.95
_MEASURES = ("auroc", "average_precision", "false_alarm_rate", "fit_s", "score_s")

Numbers = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class MethodSummary:
    """One method over all compared sets.

    Parameters
    ----------
    method : str
    auroc, average_precision, false_alarm_rate, fit_s, score_s : float
        Means over sets.
    auroc_interval : (float, float)
        Bootstrap interval of the mean AUROC over sets, 95 %.
    rank : float
        Mean rank by AUROC, 1 is best, ties share the mean of their ranks.
    wins, ties, losses : int
        Sets on which the method that is compared with the others beats, equals, or loses to this
        one; all 0 for that method itself.
    lead : float
        Mean AUROC of the compared method less this one's.
    lead_interval : (float, float)
        Bootstrap interval of `lead` over sets, 95 %.
    worst_loss : float
        Largest AUROC by which this method beats the compared one on a set; 0 if it never does.
    worst_set : str
        That set; empty if there is none.
    """

    method: str
    auroc: float
    auroc_interval: Interval
    average_precision: float
    false_alarm_rate: float
    rank: float
    wins: int
    ties: int
    losses: int
    lead: float
    lead_interval: Interval
    worst_loss: float
    worst_set: str
    fit_s: float
    score_s: float


@dataclass(frozen=True)
class Summary:
    """All methods over the sets of one suite and protocol.

    Parameters
    ----------
    suite, protocol, against : str
        `against` is the method that wins, ties and losses are told of.
    sets : tuple of str
        Compared sets.
    left_out : tuple of str
        Sets on which a method has no result.
    n_failed : int
        Failed runs.
    methods : tuple of MethodSummary
        Best mean AUROC first.
    """

    suite: str
    protocol: str
    against: str
    sets: tuple[str, ...]
    left_out: tuple[str, ...]
    n_failed: int
    methods: tuple[MethodSummary, ...]


def summarise(
    runs: Iterable[Run], *, against: str, n_bootstrap: int = 2000, seed: int = 0
) -> tuple[Summary, ...]:
    """Summarise runs, one summary for each suite and protocol among them.

    Parameters
    ----------
    runs : iterable of Run
    against : str
        Method that is compared with each of the others.
    n_bootstrap : int
        Draws of the sets, with replacement, for the intervals.
    seed : int
        Seed of the draws.

    Raises
    ------
    UsageError
        No run is of the method `against`.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.suite, run.protocol), []).append(run)
    return tuple(
        _summarise(group, against, n_bootstrap, np.random.default_rng(seed))
        for group in groups.values()
    )


def _summarise(
    runs: Sequence[Run], against: str, n_bootstrap: int, rng: np.random.Generator
) -> Summary:
    methods = list(dict.fromkeys(run.method for run in runs))
    if against not in methods:
        raise UsageError(f"no run of {against!r} to compare with; there are {', '.join(methods)}")
    names = list(dict.fromkeys(run.set for run in runs))
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.set, run.method), []).append(run)
    sets = [name for name in names if all(_complete(cells.get((name, m))) for m in methods)]
    measures = {
        measure: np.array(
            [[_mean(cells[name, m], measure) for m in methods] for name in sets], dtype=np.float64
        ).reshape(len(sets), len(methods))
        for measure in _MEASURES
    }
    draws = rng.integers(len(sets), size=(n_bootstrap, len(sets))) if sets else None
    summaries = [
        _method(j, methods, methods.index(against), sets, measures, draws)
        for j in range(len(methods))
    ]
    return Summary(
        suite=runs[0].suite,
        protocol=runs[0].protocol,
        against=against,
        sets=tuple(sets),
        left_out=tuple(name for name in names if name not in sets),
        n_failed=sum(bool(run.error) for run in runs),
        methods=tuple(sorted(summaries, key=lambda s: -s.auroc if sets else 0.0)),
    )


def _complete(runs: list[Run] | None) -> bool:
    """Tell whether there are runs and none failed: a mean over fewer seeds is no fair one."""
    return bool(runs) and not any(run.error for run in runs or ())


def _mean(runs: Sequence[Run], measure: str) -> float:
    return float(np.mean([getattr(run, measure) for run in runs]))


def _method(
    j: int,
    methods: Sequence[str],
    own: int,
    sets: Sequence[str],
    measures: dict[str, Numbers],
    draws: NDArray[np.int64] | None,
) -> MethodSummary:
    table = measures["auroc"]  # [n_sets, n_methods]
    lead = table[:, own] - table[:, j]  # [n_sets]
    mean = {name: _average(values[:, j]) for name, values in measures.items()}
    worst = int(np.argmin(lead)) if len(lead) else 0
    lost = bool(len(lead)) and lead[worst] < 0.0
    different = j != own
    return MethodSummary(
        method=methods[j],
        auroc_interval=_interval(table[:, j], draws),
        rank=_average(_ranks(table)[:, j]),
        wins=int(np.sum(lead > TIE)),
        ties=int(np.sum(np.abs(lead) <= TIE)) if different else 0,
        losses=int(np.sum(lead < -TIE)),
        lead=_average(lead),
        lead_interval=_interval(lead, draws),
        worst_loss=float(-lead[worst]) if lost else 0.0,
        worst_set=sets[worst] if lost else "",
        **mean,
    )


def _average(values: Numbers) -> float:
    return float(values.mean()) if len(values) else math.nan


def _interval(values: Numbers, draws: NDArray[np.int64] | None) -> Interval:
    """Return the percentile bootstrap interval of a mean over sets."""
    if draws is None:
        return math.nan, math.nan
    tail = (1.0 - _LEVEL) / 2.0
    low, high = np.quantile(values[draws].mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)


def _ranks(table: Numbers) -> Numbers:
    """Rank methods by set, 1 for the largest, ties sharing their mean rank: [n_sets, n_methods]."""
    above = (table[:, None, :] > table[:, :, None]).sum(axis=2)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=2)
    ranks: Numbers = above + (equal + 1.0) / 2.0
    return ranks


_HEADERS = (
    "method",
    "AUROC",
    "95 %",
    "average precision",
    "rank",
    "lead",
    "95 %",
    "wins-ties-losses",
    "worst loss",
    "false alarms",
    "fit s",
    "score s",
)


def plain_table(summary: Summary) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and rows of text: AUROC and average precision in points out of 100.

    `lead`, wins, ties, losses and the worst loss are those of `summary.against` over the row's
    method.
    """
    return _HEADERS, [_row(method, summary.against) for method in summary.methods]


def _row(found: MethodSummary, against: str) -> tuple[str, ...]:
    worst = f"{100 * found.worst_loss:.1f} {found.worst_set}" if found.worst_set else "-"
    other = found.method != against
    return (
        found.method,
        f"{100 * found.auroc:.2f}",
        _span(found.auroc_interval),
        f"{100 * found.average_precision:.2f}",
        f"{found.rank:.2f}",
        f"{100 * found.lead:+.2f}" if other else "-",
        _span(found.lead_interval) if other else "-",
        f"{found.wins}-{found.ties}-{found.losses}" if other else "-",
        worst if other else "-",
        "-" if math.isnan(found.false_alarm_rate) else f"{found.false_alarm_rate:.4f}",
        f"{found.fit_s:.3g}",
        f"{found.score_s:.3g}",
    )


def _span(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def markdown_table(summary: Summary) -> str:
    """Return the same table in markdown, with a line that says what was compared."""
    headers, rows = plain_table(summary)
    lines = [headers, ("---", *["---:"] * (len(headers) - 1)), *rows]
    title = f"{summary.suite}, protocol `{summary.protocol}`, {len(summary.sets)} sets"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{title}; lead, wins and losses are those of {summary.against}.\n\n{table}\n"
