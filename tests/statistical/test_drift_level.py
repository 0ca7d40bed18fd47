"""The drift check warns of rows like those of training as rarely as promised, and of others.

Counts of false warnings are compared with a binomial law; ERROR is the probability that a test
fails although the promise is kept.
"""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from anomgan.serving import DriftMonitor, Verdicts
from anomgan.tables import Batch, Schema, SchemaOptions
from anomgan.tables.profile import Profile

ERROR = 1e-6
STREAMS = 400
COMMON = [f"part {i}" for i in range(3000)]
ZIPF = 1.0 / np.arange(1, len(COMMON) + 1)
ZIPF /= ZIPF.sum()


def draw(rng, n):
    """Rows with dependent columns: continuous, few values, gaps, many rare categories."""
    level = rng.normal(size=n)
    gone = rng.random(n) < 0.05 + 0.1 * (level > 1)
    return pl.DataFrame(
        {
            "level": level,
            "count": rng.poisson(np.exp(0.3 * level)),
            "gaps": np.where(gone, np.nan, level + rng.normal(size=n)),
            "open": level + rng.normal(size=n) > 1,
            "part": rng.choice(COMMON, n, p=ZIPF),
        }
    ).with_columns(pl.col("gaps").fill_nan(None))


def model_of(frame, scores, seed=0):
    schema = Schema.infer(
        frame, SchemaOptions(categorical=tuple({"part", "mode"} & set(frame.columns)))
    )
    rng = np.random.default_rng([seed, 2])
    profile = Profile.fit(schema, schema.rows(Batch(frame, 1, "train")), scores, rng)
    return SimpleNamespace(schema=schema, profile=profile)


def batch_of(model, frame, scores):
    n = frame.height
    verdicts = Verdicts(
        *(np.asarray(scores, np.float32), np.ones(n, np.float32), np.zeros(n, bool)),
        contributions=np.zeros((n, len(model.schema.columns) + 1), np.float32),
        feature_names=(),
        false_alarm_rate=0.01,
    )
    return model.schema.rows(Batch(frame, 1, "new")), verdicts


def score_of(frame):
    """Rounded as scores of a table of few distinct rows are: many ties."""
    return (frame["level"].abs() + frame["count"]).round(1).to_numpy()


def largest(report):
    return max(report.log10_e)


@pytest.mark.slow
def test_streams_like_training_are_warned_of_as_rarely_as_promised() -> None:
    """Looked at after each of several batches; an alarm at any look counts."""
    alpha, alarms, single, n_columns = 0.2, 0, 0, 6
    for seed in range(STREAMS):
        rng = np.random.default_rng(seed)
        train = draw(rng, 150)
        model = model_of(train, score_of(train)[:60], seed)
        monitor = DriftMonitor(model, alpha=alpha)
        top = np.full(n_columns, -np.inf)
        for size in (20, 60, 150, 400):
            new = draw(rng, size)
            monitor.update(*batch_of(model, new, score_of(new)))
            top = np.maximum(top, monitor.report().log10_e)
        alarms += bool((top >= np.log10(n_columns / alpha)).any())
        single += (top >= np.log10(1 / alpha)).astype(int)
    assert alarms <= binom.ppf(1 - ERROR, STREAMS, alpha)
    # Without Bonferroni's factor, where a test that is too eager would show in its column.
    assert (single <= binom.ppf(1 - ERROR / n_columns, STREAMS, alpha)).all(), single


def test_a_time_series_in_any_order_is_one_table() -> None:
    """Training rows drawn from a random walk, and the rest of it scored in order of time."""
    alpha, alarms, tables = 0.1, 0, 150
    for seed in range(tables):
        rng = np.random.default_rng(seed)
        walk = pl.DataFrame({"level": np.cumsum(rng.normal(size=900)), "count": range(900)})
        known = np.sort(rng.permutation(900)[:300])
        rest = np.setdiff1d(np.arange(900), known)
        model = model_of(walk[known], walk["level"].to_numpy()[known], seed)
        monitor = DriftMonitor(model, alpha=alpha)
        for part in np.array_split(rest, 4):
            monitor.update(*batch_of(model, walk[part], walk["level"].to_numpy()[part]))
        alarms += bool(monitor.report().departures)
    assert alarms <= binom.ppf(1 - ERROR, tables, alpha)


def log_rows(rng, n, *, shift=0.0, missing=0.02, unseen=0.0):
    """A log of four columns, of which one may have changed."""
    return pl.DataFrame(
        {
            "speed": rng.normal(shift, 1, n),
            "power": np.where(rng.random(n) < missing, np.nan, rng.gamma(3, 2, n)),
            "mode": np.where(
                rng.random(n) < unseen, "turbo", rng.choice(["idle", "run"], n, p=[0.3, 0.7])
            ),
            "steps": rng.integers(0, 4, n),
        }
    ).with_columns(pl.col("power").fill_nan(None))


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        ({"shift": 0.5}, "speed", "of the training rows did"),
        ({"missing": 0.1}, "power", " % missing, "),
        ({"unseen": 0.05}, "mode", " % 'turbo', never seen in training"),
    ],
)
def test_changes_of_one_column_are_found(change, column, said) -> None:
    """2 000 rows against 1 000 of training, at the default alpha: missed once in 30 at most."""
    missed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        train = log_rows(rng, 1000)
        model = model_of(train, rng.normal(size=200), seed)
        monitor = DriftMonitor(model)
        monitor.update(*batch_of(model, log_rows(rng, 2000, **change), rng.normal(size=2000)))
        departures = monitor.report().departures
        missed += not departures
        assert all(d.column == column and said in d.text for d in departures)
    assert missed <= 1
