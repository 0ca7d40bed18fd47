"""The false-alarm rate holds: whole models on real rows, with the exact law of the count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import betabinom

from anomgan import GANDetector
from anomgan_datasets import load

ERROR = 1e-7
"""Probability that a correct model fails one of the comparisons below."""


@pytest.mark.parametrize("memory_size", [500, 8192])
@pytest.mark.parametrize("name", ["38_thyroid", "23_mammography"])
def test_flagged_normal_rows_follow_the_beta_binomial_law(
    name: str, memory_size: int, data_dir: Path
) -> None:
    """Given n calibration rows, the flagged ones among N new normal rows are beta-binomial.

    With continuous scores the number of N exchangeable rows above the k-th largest of n is
    BetaBinomial(N, k, n + 1 - k) (Vovk, 2012, section 2). The calibration rows are in memory, all
    of them or a third, and are scored with themselves left out: exchangeable with new rows but
    but for one row in 1500 of memory. Scored as they stand in it, they would all look too normal.
    """
    data = load(name, data_dir=data_dir)
    normal = data.X.to_numpy(dtype=float)[data.y == 0]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(normal))[:3000]
        train, test = normal[order[:1500]], normal[order[1500:]]
        detector = GANDetector(
            n_steps=40,
            n_members=1,
            memory_size=memory_size,
            device="cpu",
            random_state=seed,
        ).fit(train)
        p_values = detector.p_values(test)
        n = detector.model_.calibrator.n
        for rate in (0.05, 0.1, 0.3):
            k = int(rate * (n + 1) + 1e-9)
            law = betabinom(len(test), k, n + 1 - k)
            flagged = int((p_values <= rate).sum())
            # Duplicated rows tie, and ties only make the decision more careful.
            assert flagged <= law.ppf(1 - ERROR), (name, seed, rate)
            assert flagged >= 0.5 * law.ppf(ERROR), (name, seed, rate)
