"""What is different about a column, in one sentence of exact shares.

Among the groups of rows that can be told in a few words, the one is told that is the least
probable to be so large by chance: the largest Kullback-Leibler divergence between its share now and
its share in training. Shares are of all rows, those with a missing cell included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.profile import ColumnProfile

__all__ = ["Finding", "describe_column", "describe_score"]

_MAX_CATEGORY_CHARS: Final = 40
_SIMPLER: Final = 0.8  # an interval must say this much more than "above" or "below"
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class Finding:
    """A group of rows, its shares, how telling they are, and a sentence."""

    share: float
    training_share: float
    weight: float
    text: str


class _Shares:
    """Shares of groups of rows, now and in training."""

    def __init__(self, profile: ColumnProfile, groups: NDArray[np.int64]) -> None:
        self._now = np.concatenate([[0], np.cumsum(groups)])
        self._before = np.concatenate([[0], np.cumsum(profile.counts)])

    def of(self, first: int, last: int) -> tuple[float, float]:
        """Shares of the groups ``first:last``."""
        now = (self._now[last] - self._now[first]) / max(self._now[-1], 1)
        before = (self._before[last] - self._before[first]) / self._before[-1]
        return float(now), float(before)

    def weight(self, now: float, before: float) -> float:
        """Kullback-Leibler divergence of two shares; half a row stands for none in training."""
        half = 0.5 / float(self._before[-1])
        q = min(max(before, half), 1.0 - half)
        return sum(p * math.log(p / r) for p, r in ((now, q), (1.0 - now, 1.0 - q)) if p > 0.0)


def describe_column(
    column: Column, profile: ColumnProfile, groups: NDArray[np.int64], unseen: Sequence[str]
) -> Finding:
    """Tell what a column has more of than in training (of missing cells, also less).

    Parameters
    ----------
    column : Column
    profile : ColumnProfile
    groups : ndarray of int64 [n_groups]
        New rows by group, as the `counts` of the profile.
    unseen : sequence of str
        Examples of categories that training did not have, the most frequent first.
    """
    shares = _Shares(profile, groups)
    categorical = column.kind is ColumnKind.CATEGORICAL
    findings = [_missing(shares, len(profile.counts) - 1 if categorical else 0)]
    if categorical:
        findings += _categories(column, shares, unseen)
    elif column.kind is ColumnKind.BOOLEAN:
        findings += _truth_values(profile, shares)
    elif column.kind is ColumnKind.NUMERIC:
        findings += _numbers(profile, shares)
    return max(findings, key=lambda finding: finding.weight)


def describe_score(profile: ColumnProfile, groups: NDArray[np.int64]) -> Finding:
    """Tell whether more rows score high than training leads to expect, or more score low."""
    shares = _Shares(profile, groups)
    findings = []
    for i, limit in enumerate(profile.limits.tolist()):
        now, before = shares.of(2 * i + 3, len(profile.counts))
        if now > before:
            held_out = f"{_percent(before)} of the held-out training rows did"
            text = (
                f"{_percent(now)} of the rows score above {limit:.6g}, "
                f"{f'where {held_out}' if before else 'which no held-out training row did'}: "
                "more high scores than training leads to expect (many anomalies, or drift)"
            )
            findings.append(Finding(now, before, shares.weight(now, before), text))
        now, before = shares.of(1, 2 * i + 2)
        if now > before:
            text = (
                f"{_percent(now)} of the rows score below {limit:.6g}, where {_percent(before)} of "
                "the held-out training rows did: closer to the training rows than new rows should "
                "be (were they trained on?)"
            )
            findings.append(Finding(now, before, shares.weight(now, before), text))
    other = Finding(0.0, 0.0, 0.0, "their distribution differs from that of training")
    return max(findings, key=lambda finding: finding.weight, default=other)


def _missing(shares: _Shares, group: int) -> Finding:
    now, before = shares.of(group, group + 1)
    text = f"{_percent(now)} missing, {_in_training(before)}"
    return Finding(now, before, shares.weight(now, before), text)


def _categories(column: Column, shares: _Shares, unseen: Sequence[str]) -> Iterator[Finding]:
    for i, name in enumerate(column.categories):
        now, before = shares.of(i, i + 1)
        if now > before:
            text = f"{_percent(now)} {_quoted(name)}, {_in_training(before)}"
            yield Finding(now, before, shares.weight(now, before), text)
    n = len(column.categories)
    now, before = shares.of(n, n + 1)
    if now:
        names = ", ".join(_quoted(name) for name in unseen[:_EXAMPLES])
        text = f"{_percent(now)} {names}, never seen in training"
        if len(unseen) > 1:
            text = f"{_percent(now)} never seen in training, such as {names}"
        yield Finding(now, before, shares.weight(now, before), text)


def _truth_values(profile: ColumnProfile, shares: _Shares) -> Iterator[Finding]:
    for i, limit in enumerate(profile.limits.tolist()):
        now, before = shares.of(2 * i + 2, 2 * i + 3)
        if now > before:
            text = f"{_percent(now)} {'true' if limit else 'false'}, {_in_training(before)}"
            yield Finding(now, before, shares.weight(now, before), text)
    # Where all of training was one value, the other one lies beyond the only limit.
    if len(profile.limits) == 1:
        only = bool(profile.limits[0])
        now, before = shares.of(1, 2) if only else shares.of(3, 4)
        text = f"{_percent(now)} {'false' if only else 'true'}, {_in_training(before)}"
        yield Finding(now, before, shares.weight(now, before), text)


def _numbers(profile: ColumnProfile, shares: _Shares) -> Iterator[Finding]:
    """Yield groups of numbers: beyond a limit, between two, or equal to one."""
    limits = profile.limits.tolist()
    for i, limit in enumerate(limits):
        for where, extreme, (now, before) in (
            (f"above {limit:.6g}", "maximum", shares.of(2 * i + 3, len(profile.counts))),
            (f"below {limit:.6g}", "minimum", shares.of(1, 2 * i + 2)),
        ):
            if now > before:
                compared = f"where {_percent(before)} of the training rows did"
                if not before:
                    compared = f"the training {extreme}"
                text = f"{_percent(now)} of the rows lie {where}, {compared}"
                yield Finding(now, before, shares.weight(now, before), text)
    for i, low in enumerate(limits):
        for j in range(i, len(limits)):
            now, before = shares.of(2 * i + 2, 2 * j + 3)
            if now > before:
                where = f"lie between {low:.6g} and {limits[j]:.6g}" if j > i else f"are {low:.6g}"
                did = "did" if j > i else "were"
                text = f"{_percent(now)} of the rows {where}, "
                text += f"where {_percent(before)} of the training rows {did}"
                yield Finding(now, before, _SIMPLER * shares.weight(now, before), text)


def _in_training(share: float) -> str:
    return f"{_percent(share)} in training" if share else "never in training"


def _percent(share: float) -> str:
    percent = 100.0 * share
    return f"{percent:.{3 if percent >= 99.0 else 2}g} %"


def _quoted(name: str) -> str:
    shown = name if len(name) <= _MAX_CATEGORY_CHARS else name[:_MAX_CATEGORY_CHARS] + "…"
    return repr(shown)
