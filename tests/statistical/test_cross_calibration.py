"""Cross-calibrated on a few rows, whole models keep the false-alarm rate on average."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from anomgan import GANDetector
from anomgan_datasets import machine_log

ERROR = 1e-7
"""Probability that a calibration as close to exact as promised fails one of the comparisons."""
BEYOND = 5.33
"""Standard deviations that a normal variable leaves on either side with that probability."""
ALLOWED = 0.02
"""What "approximately" may mean here: distance of the expected rate from that of the exact law."""

N_FITS, N_ROWS, N_NEW = 12, 60, 1500


@pytest.mark.slow
def test_the_rate_holds_on_average() -> None:
    """With n calibration rows an exact rate is Beta(k, n + 1 - k), k = floor(rate (n + 1)).

    (Vovk, 2012, section 2.) Fits are on disjoint rows with columns of every kind, hence independent
    given the new rows: the mean over fits, whose law is nearly normal, varies by the deviation of
    the rate over the root of their number, and by that of the share of all new rows. To this
    `ALLOWED` is added, as a calibration row is scored by one network where a new one gets the
    mean of five. That the rate varies less than with "split" is what
    ``tests/acceptance/small_tables.py`` shows.
    """
    normal = machine_log(n_normal=N_FITS * N_ROWS + N_NEW, n_anomalies=0, seed=0).X
    order = np.random.default_rng(0).permutation(len(normal))
    new, p_values = normal.iloc[order[-N_NEW:]], []
    for fit in range(N_FITS):
        rows = normal.iloc[order[fit * N_ROWS : (fit + 1) * N_ROWS]]
        detector = GANDetector(n_steps=30, device="cpu", calibration="cross", random_state=fit)
        p_values.append(detector.fit(rows).p_values(new))
        assert detector.model_.calibrator.n == N_ROWS
    for rate in (0.1, 0.3):
        k = int(rate * (N_ROWS + 1) + 1e-9)
        law = beta(k, N_ROWS + 1 - k)
        variance = law.var() / N_FITS + law.mean() * (1.0 - law.mean()) / N_NEW
        realised = np.mean([p <= rate for p in p_values])
        assert abs(realised - law.mean()) <= BEYOND * variance**0.5 + ALLOWED, rate
