"""Calibrated by group, the false-alarm rate holds within each group; pooled, on average only."""

from __future__ import annotations

import numpy as np
from scipy.stats import betabinom

from anomgan.calibration import Calibrator
from anomgan.fitting import _split
from anomgan.groups import GroupedCalibrator

ERROR = 1e-7
"""Probability that a correct calibration fails one of the comparisons below."""

RATE, N_SPLITS, N_NEW = 0.05, 300, 200
LAWS = {"narrow": (1.0, 0.2, 1200), "wide": (1.0, 2.0, 600)}
"""Centre and spread of the scores, and normal rows, by group."""


def _flagged() -> tuple[dict[str, list[tuple[int, int]]], dict[str, list[int]]]:
    """Flagged new rows and calibration rows of each group, split by split; the same pooled."""
    grouped: dict[str, list[tuple[int, int]]] = {name: [] for name in LAWS}
    together: dict[str, list[int]] = {name: [] for name in LAWS}
    for seed in range(N_SPLITS):
        rng = np.random.default_rng(seed)
        names = np.repeat(list(LAWS), [law[2] for law in LAWS.values()]).astype(object)
        centre, spread = (np.array([LAWS[name][i] for name in names]) for i in (0, 1))
        scores = (centre + spread * rng.normal(size=len(names))).astype(np.float32)
        held_out = _split(len(names), 2000, rng, names)[1]
        pooled = Calibrator.fit(scores[held_out], false_alarm_rate=RATE)
        own = GroupedCalibrator.fit("group", scores[held_out], names[held_out], pooled)
        assert own is not None
        for name, (mean, deviation, _) in LAWS.items():
            new = mean + deviation * rng.normal(size=N_NEW)
            p = own.p_values(new, [name] * N_NEW)
            grouped[name].append((int((p <= RATE).sum()), own.groups[name].n))
            together[name].append(int((pooled.p_values(new) <= RATE).sum()))
    return grouped, together


def test_the_rate_holds_within_each_group() -> None:
    """Flagged rows of one split are BetaBinomial(N, k, n + 1 - k): Vovk (2012), section 2."""
    grouped, together = _flagged()
    for name, results in grouped.items():
        share, variance = 0.0, 0.0
        for flagged, n in results:
            k = int(RATE * (n + 1) + 1e-9)
            law = betabinom(N_NEW, k, n + 1 - k)
            low, high = law.ppf([ERROR / N_SPLITS, 1 - ERROR / N_SPLITS])
            assert low <= flagged <= high, name
            share += (flagged - law.mean()) / N_NEW / N_SPLITS
            variance += law.var() / (N_NEW * N_SPLITS) ** 2
        # 5.5 standard deviations of a mean over 300 independent splits: below 1e-7.
        assert abs(share) < 5.5 * variance**0.5, name

    # The same splits with one calibration: the wide group gives all false alarms, and too many.
    rates = {name: np.mean(flagged) / N_NEW for name, flagged in together.items()}
    assert rates["narrow"] < 0.001
    assert rates["wide"] > 0.11
    for name, flagged in together.items():
        k = int(RATE * 361 + 1e-9)
        low, high = betabinom(N_NEW, k, 361 - k).ppf([0.025, 0.975])
        outside = np.mean([not low <= f <= high for f in flagged])
        assert outside > 0.5, name


def test_an_extrapolated_rate_of_a_small_group_holds_roughly() -> None:
    """What the user guide says of groups whose rate of 0.01 rests on a tail."""
    rng = np.random.default_rng(0)
    new = np.sort(rng.lognormal(size=100_000))  # a heavy tail: the hard case
    rates = {}
    for n in (20, 98):
        thresholds = [Calibrator.fit(rng.lognormal(size=n)).threshold() for _ in range(400)]
        rates[n] = float(np.mean(1.0 - np.searchsorted(new, thresholds) / len(new)))
    # Over splits the share of flagged rows varies by 0.03 and 0.012; 6 standard errors of a mean.
    assert abs(rates[20] - 0.022) < 0.009
    assert abs(rates[98] - 0.0095) < 0.0036
