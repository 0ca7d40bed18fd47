"""An e-process against a Pólya urn.

**The null.** Let the n rows of training and all new rows be exchangeable in a column, ties broken
at random. Then a new row falls into any of the n + 1 gaps between the n order statistics with the
same probability, and after m new rows into any of the n + m + 1 gaps with the same probability
again. With bins that are unions of w_b of the first gaps (at ranks fixed beforehand),
h_b of the m rows being in bin b, that is exactly

    P(next row in bin b | all bins so far) = (w_b + h_b) / (n + 1 + m),

a Pólya urn, whatever the column's law (Vovk, Gammerman and Shafer 2005, *Algorithmic Learning in a
Random World*: smoothed ranks are independent of the past, chapter 2, and betting against them tests
exchangeability, section 7.1).

**The bet.** Any probability for the sequence of bins, divided by that of the urn, is a nonnegative
martingale that starts at 1. By Ville's inequality it ever reaches 1 / alpha with a probability of
at most alpha, so it may be looked at after every row for ever (Ramdas, Grünwald, Vovk and Shafer
2023, "Game-theoretic statistics and safe anytime-valid inference", *Statistical Science* 38(4)).
Our probability comes from a tree on the bins. At each node a row goes left or right: with a
probability of 3/4 by the urn, or else by an urn of fewer balls in the same proportion, which learns
faster; four numbers of balls have equal parts. The nodes are independent of each other, so
that the product of their ratios is a martingale too, and all they know of the past is two counts
each.

Why a tree: an urn of few balls over all 20 bins at once pays for 19 unknown shares in every case.
The tree pays where something changed and loses a factor of at most 4/3 elsewhere (as in
context-tree weighting: Willems, Shtarkov and Tjalkens 1995, *IEEE Trans. Inf. Theory* 41(3)). Two
trees have equal parts. Both divide the single gaps at the ends off first: values beyond those of
training and categories never seen fall there. Then one divides every node into halves, and the
other one divides the tails off first, where a few per cent of missing cells are.

**Order.** The ratio depends on the counts alone. So for a table that is looked at once, at its end,
it is an e-value whatever the order of the rows: a table that is sorted by one of its columns is no
departure. (A running maximum would raise one there: the first rows of such a table are all small.)
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BALLS", "TAIL", "log_e_value", "split_nodes", "trees_of"]

BALLS: Final = (2.0, 8.0, 32.0, 128.0)
"""Balls in the urns that bet at a node; small numbers are for large departures."""

TAIL: Final = 0.025
"""About the share of the training rows in each tail that the second tree divides off first."""

_CHANGED: Final = 0.25  # prior probability that a node departs
_lgamma = np.frompyfunc(math.lgamma, 1, 1)


def trees_of(weights: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Nodes of the two trees on bins of these weights."""
    n_bins = len(weights)
    before = np.cumsum(weights)[:-1] / weights.sum()  # share to the left of bin 1, 2, ...
    low, high = (1 + int(np.argmin(np.abs(before - share))) for share in (TAIL, 1.0 - TAIL))
    ends = (n_bins - 1, 1)
    return split_nodes(weights, ends), split_nodes(weights, (*ends, low, high))


def split_nodes(weights: NDArray[np.int64], cuts: tuple[int, ...]) -> NDArray[np.int64]:
    """Inner nodes of a tree: bins ``first:middle`` go left and ``middle:last`` right, [B - 1, 3].

    A node is divided at the first of `cuts` that is inside it, or else where its weight is halved
    best.
    """
    edges = np.concatenate([[0], np.cumsum(weights)])
    nodes: list[tuple[int, int, int]] = []
    waiting = [(0, len(weights))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        half = (edges[first] + edges[last]) / 2.0
        halved = first + 1 + int(np.argmin(np.abs(edges[first + 1 : last] - half)))
        middle = next((cut for cut in cuts if first < cut < last), halved)
        nodes.append((first, middle, last))
        waiting += [(first, middle), (middle, last)]
    return np.array(nodes, dtype=np.int64).reshape(-1, 3)


def log_e_value(
    counts: NDArray[np.int64],
    weights: NDArray[np.int64],
    trees: tuple[NDArray[np.int64], ...],
) -> float:
    """Evidence against the urn.

    Parameters
    ----------
    counts : ndarray of int64 [B]
        New rows by bin.
    weights : ndarray of int64 [B]
        Gaps by bin.
    trees : tuple of ndarray of int64 [B - 1, 3]
        Of `trees_of` with the weights.

    Returns
    -------
    float
        Natural logarithm of the e-value.
    """
    each = [_log_e_of_tree(counts, weights, nodes) for nodes in trees]
    return float(np.logaddexp.reduce(each)) - math.log(len(each))


def _log_e_of_tree(
    counts: NDArray[np.int64], weights: NDArray[np.int64], nodes: NDArray[np.int64]
) -> float:
    left, right = _sides(counts, nodes)
    urn_left, urn_right = _sides(weights, nodes)
    proportion = urn_left / (urn_left + urn_right)
    null = _log_probability(left, right, urn_left, urn_right)
    bets = np.stack(
        [
            _log_probability(left, right, balls * proportion, balls * (1.0 - proportion))
            for balls in BALLS
        ]
    )  # [n_balls, n_nodes]
    changed = np.logaddexp.reduce(bets, axis=0) - math.log(len(BALLS)) - null
    ratios = np.logaddexp(math.log1p(-_CHANGED), math.log(_CHANGED) + changed)
    return float(ratios.sum())


def _sides(
    amounts: NDArray[np.int64], nodes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amounts to the left and to the right of every node."""
    sums = np.concatenate([[0], np.cumsum(amounts)]).astype(np.float64)
    first, middle, last = nodes.T
    return sums[middle] - sums[first], sums[last] - sums[middle]


def _log_probability(
    left: NDArray[np.float64], right: NDArray[np.float64], a: Any, b: Any
) -> NDArray[np.float64]:
    """Log probability of one sequence of draws from urns of a left and b right balls."""
    terms = _lgamma(a + left) - _lgamma(a) + _lgamma(b + right) - _lgamma(b)
    rest = _lgamma(a + b) - _lgamma(a + b + left + right)
    return np.asarray(terms + rest, dtype=np.float64)
