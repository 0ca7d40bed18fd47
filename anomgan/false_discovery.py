"""False-discovery control: which rows of one batch to flag, given the p-values of all of them.

A false-alarm rate bounds the share of normal rows that are flagged; a false-discovery rate
bounds, on average over batches and calibration sets, the share of flagged rows that are normal.

P-values are float32 throughout, as the scorer gives them, and so are the bounds that they are
compared with: a p-value that equals its bound then does so however it was stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.errors import InputError, UsageError

__all__ = [
    "FDR_METHODS",
    "LAMBDA",
    "Discoveries",
    "FdrMethod",
    "benjamini_hochberg",
    "counted_part",
    "discover",
    "require_discovery_rate",
    "step_up_cutoff",
    "storey_share",
]

FdrMethod = Literal["bh", "storey"]
FDR_METHODS: Final[tuple[FdrMethod, ...]] = get_args(FdrMethod)

LAMBDA: Final = 0.5
"""P-value above which Storey's estimate counts rows, and the largest that it lets be flagged."""

_HIGHEST: Final[dict[FdrMethod, float]] = {"bh": 1.0, "storey": LAMBDA}  # p-value ever flagged
_COARSE = 0x3F81  # values of the upper 16 bits of the float32 numbers in [0, 1]
_FINE = 0x10000  # values of the lower ones
_BINS_A_PASS = 16  # refined together: 8 MB of counts

Chunks = Callable[[], Iterable[NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Discoveries:
    """What false-discovery control decided of one batch.

    Parameters
    ----------
    rate : float
        The false-discovery rate asked for.
    method : "bh" or "storey"
    n : int
        P-values in the batch.
    normal_share : float
        Share of normal rows that was reckoned with: 1 for "bh", else `storey_share`, which may
        exceed 1.
    cutoff : float
        Largest flagged p-value; every row at or below it is flagged. -inf where none is.
    n_flagged : int
        Rows at or below `cutoff`.
    lowest : float
        Smallest p-value of the batch; inf for an empty one.
    n_lowest : int
        How often it occurs.
    """

    rate: float
    method: FdrMethod
    n: int
    normal_share: float
    cutoff: float
    n_flagged: int
    lowest: float
    n_lowest: int

    def rows_needed(self) -> int:
        """Fewest calibration rows with which the rows at `lowest` could have been flagged.

        The smallest p-value that n rows can count is ``1 / (n + 1)``; ``n_lowest`` rows there
        are flagged if it is at most ``rate * n_lowest / (n * normal_share)``.
        """
        if self.n_lowest == 0:
            return 0
        inverse = self.n * self.normal_share / (self.rate * self.n_lowest)
        return max(math.ceil(round(inverse, 6)) - 1, 0)


def require_discovery_rate(rate: float, method: str = "bh") -> None:
    """Refuse a rate outside (0, 1), and a method that there is not.

    Raises
    ------
    UsageError
    """
    if not 0.0 < rate < 1.0:
        raise UsageError(
            f"the false-discovery rate must lie between 0 and 1, got {rate:g}; at 0.1, about one "
            "flagged row in ten may be normal"
        )
    if method not in FDR_METHODS:
        raise UsageError(f"--fdr-method must be one of {', '.join(FDR_METHODS)}, got {method!r}")


def storey_share(p_values: ArrayLike) -> float:
    """Estimate the share of normal rows in a batch, on the cautious side.

    ``(1 + #{p > LAMBDA}) / (n (1 - LAMBDA))``: the estimate of Storey (2002), J. R. Stat. Soc. B
    64(3), 479-498, with the 1 that theorem 3 of Storey, Taylor & Siegmund (2004), J. R. Stat.
    Soc. B 66(1), 187-205, needs. Like there it is not capped at 1: capped, the false-discovery
    rate is exceeded where all rows of a small batch are normal.

    Parameters
    ----------
    p_values : array_like [n]
        NaN for a row without one, which does not count.

    Returns
    -------
    float
        1 for an empty batch.
    """
    p = _present(p_values)
    return _share(len(p), int(np.count_nonzero(p > LAMBDA)))


def step_up_cutoff(p_values: ArrayLike, rate: float, *, method: FdrMethod = "bh") -> float:
    """P-value up to which the rows of one batch are flagged.

    The largest p_(k) with ``p_(k) <= rate * k / (n * normal_share)``; the share is 1 for "bh",
    else `storey_share`, and then no p-value above LAMBDA is flagged (as in theorem 3 of Storey,
    Taylor & Siegmund 2004).

    Parameters
    ----------
    p_values : array_like [n]
        NaN for a row without one, which does not count.
    rate : float
        False-discovery rate, in (0, 1).
    method : "bh" or "storey"
        See `benjamini_hochberg`.

    Returns
    -------
    float
        A float32 value of `p_values`, or -inf where nothing is to be flagged.
    """
    require_discovery_rate(rate, method)
    p = np.sort(_present(p_values))
    share = 1.0 if method == "bh" else storey_share(p)
    bounds = _bounds(rate, np.arange(1, len(p) + 1), len(p) * share)
    passing = np.flatnonzero((p <= bounds) & (p <= _HIGHEST[method]))
    return float(p[passing[-1]]) if len(passing) else -math.inf


def benjamini_hochberg(
    p_values: ArrayLike, rate: float, *, method: FdrMethod = "bh", resolution: ArrayLike = 0.0
) -> NDArray[np.bool_]:
    """Flag rows of one batch so that at most a share `rate` of the flags is expected false.

    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57(1), section 2.

    Parameters
    ----------
    p_values : array_like [n]
        P-values of the rows of the batch; NaN for a row without one, which is not flagged and
        does not count.
    rate : float
        False-discovery rate, in (0, 1).
    method : "bh" or "storey"
        With "storey" the rate is divided by `storey_share`: more flags where many rows are
        abnormal.
    resolution : array_like, scalar or [n]
        Smallest p-value that is counted rather than extrapolated (`Calibrator.resolution`); smaller
        ones are taken for it. 0 trusts them as they are.

    Returns
    -------
    bool array [n]

    Notes
    -----
    Conformal p-values of one calibration set are positively dependent (PRDS), so that "bh" keeps
    the rate (Bates et al. 2023, Ann. Statist. 51(1), section 2), on these conditions: the normal
    rows of the batch are exchangeable with the calibration rows, hence no drift; the p-values are
    counted, not extrapolated by a `Tail` (give `resolution`); and the rate is an average over
    calibration sets too, one unlucky set may give more false flags on every batch.

    PRDS is not enough for "storey", whose classical proof needs independent p-values (Storey,
    Taylor & Siegmund 2004, theorem 3): take it as approximate. For exchangeable scores Marandon
    et al. (2024), Ann. Statist. 52(1), 157-183, prove control with estimates of this kind.
    """
    p = counted_part(np.asarray(p_values, dtype=np.float32), resolution)
    flags: NDArray[np.bool_] = p <= np.float32(step_up_cutoff(p, rate, method=method))
    return flags


def counted_part(p_values: NDArray[np.float32], resolution: ArrayLike) -> NDArray[np.float32]:
    """Take p-values below `resolution` for it: float32 [n], the conformal p-values without a tail.

    One strange row among N is flagged only at a p-value of about rate / N, far beyond most
    calibration rows. There an extrapolation that is a little too hopeful gives false discoveries in
    most batches (``tests/acceptance/false_discoveries.py`` shows by how much), while what was
    counted keeps the rate whatever the tail is like.
    """
    return np.maximum(p_values, np.asarray(resolution, dtype=np.float32))


def discover(chunks: Chunks, rate: float, *, method: FdrMethod = "bh") -> Discoveries:
    """Find the cut-off of a batch of any length in constant memory, exactly.

    Non-negative float32 numbers sort as their bits do. A first pass counts the upper 16 bits.
    With C the number of p-values up to the end of a bin, no value in the bin passes unless its
    lower end is at most ``rate * C / (n * normal_share)``. The bins for which that is so are
    counted value by value, from the largest down, until one holds a value that passes: the same
    comparison, of the same numbers, as in `step_up_cutoff`.

    Parameters
    ----------
    chunks : callable
        Gives the p-values, float32 in [0, 1], array by array; called once for each pass.
    rate : float
        False-discovery rate, in (0, 1).
    method : "bh" or "storey"
        See `benjamini_hochberg`.

    Returns
    -------
    Discoveries
        `cutoff` is `step_up_cutoff` of all chunks together.

    Raises
    ------
    InputError
        A p-value is NaN, or outside [0, 1].
    """
    require_discovery_rate(rate, method)
    coarse = np.zeros(_COARSE, dtype=np.int64)
    n_above, lowest, n_lowest = 0, math.inf, 0
    for chunk in chunks():
        if len(chunk) == 0:
            continue
        coarse += np.bincount(_bits(chunk) >> 16, minlength=_COARSE)
        n_above += int(np.count_nonzero(chunk > LAMBDA))
        if chunk.min() < lowest:
            lowest, n_lowest = float(chunk.min()), 0
        n_lowest += int(np.count_nonzero(chunk == lowest))
    n = int(coarse.sum())
    share = 1.0 if method == "bh" else _share(n, n_above)
    cutoff, n_flagged = _search(chunks, coarse, rate, n * share, _HIGHEST[method])
    return Discoveries(rate, method, n, share, cutoff, n_flagged, lowest, n_lowest)


def _search(
    chunks: Chunks, coarse: NDArray[np.int64], rate: float, n_normal: float, highest: float
) -> tuple[float, int]:
    """Cut-off, and the number of p-values up to it."""
    up_to = np.cumsum(coarse)
    lower_ends = _values(np.arange(_COARSE) << 16)
    possible = (coarse > 0) & (lower_ends <= _bounds(rate, up_to, n_normal))
    bins = np.flatnonzero(possible & (lower_ends <= highest))[::-1]
    for first in range(0, len(bins), _BINS_A_PASS):
        group = bins[first : first + _BINS_A_PASS]
        for bin_, fine in zip(group, _refined(chunks, group), strict=True):
            values = _values((int(bin_) << 16) + np.arange(_FINE))
            counts = up_to[bin_] - coarse[bin_] + np.cumsum(fine)
            passing = (fine > 0) & (values <= _bounds(rate, counts, n_normal))
            where = np.flatnonzero(passing & (values <= highest))
            if len(where):
                return float(values[where[-1]]), int(counts[where[-1]])
    return -math.inf, 0


def _refined(chunks: Chunks, bins: NDArray[np.intp]) -> NDArray[np.int64]:
    """How often each value in each of `bins` occurs, [len(bins), _FINE]."""
    row = np.full(_COARSE, -1, dtype=np.int64)
    row[bins] = np.arange(len(bins))
    counts = np.zeros(len(bins) * _FINE, dtype=np.int64)
    for chunk in chunks():
        bits = _bits(chunk)
        rows = row[bits >> 16]
        found = rows >= 0
        np.add.at(counts, rows[found] * _FINE + (bits[found] & (_FINE - 1)), 1)
    return counts.reshape(len(bins), _FINE)


def _bits(p: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits of p-values, which sort as the values do."""
    if p.dtype != np.float32 or not ((p >= 0.0) & (p <= 1.0)).all():
        raise InputError(
            f"p-values must be float32 numbers in [0, 1], got {p.dtype} from {p.min()} to {p.max()}"
        )
    return np.abs(p).view(np.uint32)  # -0.0 would sort last


def _values(bits: NDArray[np.int64]) -> NDArray[np.float32]:
    return bits.astype(np.uint32).view(np.float32)


def _present(p_values: ArrayLike) -> NDArray[np.float32]:
    p = np.asarray(p_values, dtype=np.float32)
    return p[~np.isnan(p)]


def _share(n: int, n_above: int) -> float:
    return (1 + n_above) / (n * (1.0 - LAMBDA)) if n else 1.0


def _bounds(rate: float, counts: NDArray[np.int64], n_normal: float) -> NDArray[np.float32]:
    """Largest p-value that may be flagged as the last of `counts`; rising, rounding included."""
    return (rate * counts / max(n_normal, 1.0)).astype(np.float32)
