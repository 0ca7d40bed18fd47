"""Far from all data: scores are finite, above everything, and fall along no ray."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from far_rays import assert_far_above, assert_never_falls, edges, ray, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flagship import fitted

import anomgan.distillation as distillation
from anomgan.export import build_scorer
from anomgan.fitting import FittedModel
from anomgan.persistence import export_scorer
from anomgan.scoring.frozen import FrozenScore, ScoreSettings
from anomgan.tables import Batch, Rows

D = 3
KINDS = ("flagship", "student")
NO_TEXTS = np.empty((121, 0), dtype=object)


def normal_rows(n: int = 60) -> np.ndarray:
    """Rows like those of `tiny_flagship.fitted`."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(240, D)) @ rng.normal(size=(D, D)))[:n]


@functools.cache
def model(kind: str) -> tuple[FittedModel, bytes]:
    """A model and its graph; its discriminator has a say (Gaussian rows leave it none)."""
    found = fitted(D)
    assert isinstance(found.score, FrozenScore)
    trusting = replace(found.score.settings, discriminator_trust=1.0)
    found = replace(found, score=replace(found.score, settings=trusting))
    if kind == "student":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distillation, "_LESSONS", 3000)
            patch.setattr(distillation, "_SHARED", 500)
            assert found.held_out is not None
            found = replace(
                found, score=distillation.distil(found.score, found.held_out, n_steps=60).score
            )
    return found, export_scorer(found, created_at="")[0]


SPEEDS = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-1.0, 1.0)
DIRECTIONS = st.lists(SPEEDS, min_size=D, max_size=D).filter(any)
STEPS = st.lists(st.floats(0.0, 1e3) | st.floats(0.0, 1e305), min_size=2, max_size=12).map(sorted)


@pytest.mark.parametrize("kind", KINDS)
@given(place=st.integers(0, 59), direction=DIRECTIONS, steps=STEPS)
@settings(max_examples=30, deadline=None)
def test_no_score_falls_when_values_move_away_from_the_box(
    kind: str, place: int, direction: list[float], steps: list[float]
):
    found, graph = model(kind)
    assert_never_falls(scores(found, graph, ray(found, normal_rows()[place], direction, steps)))


def test_without_the_box_a_score_may_fall():
    """What the box is for. Where clipped values bend a ray, the networks see it turn."""
    found, graph = model("flagship")
    assert isinstance(found.score, FrozenScore)
    slow = [0.07385219, -0.07042943, -0.00227502]
    rows = ray(found, normal_rows()[30], slow, [0.0, *np.geomspace(1e-2, 1e10, 120)])
    assert_never_falls(scores(found, graph, rows))
    unboxed = replace(found.score, settings=replace(found.score.settings, margin=None))
    with pytest.raises(AssertionError):
        assert_never_falls([replace(found, score=unboxed).scores(Rows(rows, NO_TEXTS, None, 1))])


@pytest.mark.parametrize("kind", KINDS)
def test_huge_cells_score_above_everything(kind: str):
    assert_far_above(*model(kind), normal_rows())


@pytest.mark.parametrize("kind", KINDS)
def test_the_sign_of_zero_says_nothing_and_missing_cells_have_a_score(kind: str):
    found, graph = model(kind)
    zeros = [scores(found, graph, np.full((1, D), zero)) for zero in (0.0, -0.0)]
    np.testing.assert_array_equal(*zeros)
    whole = normal_rows(1)
    gaps = np.where(np.eye(D, dtype=bool), np.nan, whole)
    gaps = np.concatenate([gaps, np.full((1, D), np.nan), whole])
    for values in scores(found, graph, gaps):
        assert values[-2] > values[:-2].max() > values.min()  # each gap is a surprise


CELLS = st.floats(width=64) | st.sampled_from([5e-324, -5e-324, 2.2e-308, -0.0, 1e308, np.inf])


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.lists(CELLS, min_size=D, max_size=D), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_floats_at_all_have_a_finite_score(kind: str, cells: list[list[float]]):
    """Infinite ones too, which a table may not hold, but whoever runs the graph may send."""
    found, graph = model(kind)
    scores(found, graph, np.array(cells))


# --- The box --------------------------------------------------------------------------------


def test_within_the_box_scores_are_what_they_are_without_it():
    found, _ = model("flagship")
    assert isinstance(found.score, FrozenScore)
    unboxed = replace(found.score, settings=replace(found.score.settings, margin=None))
    low, high = edges(found)
    rng = np.random.default_rng(1)
    rows = np.concatenate([normal_rows(), rng.uniform(low, high, size=(200, D))])
    within = found.schema.rows(Batch(pl.DataFrame(rows, schema=found.schema.numeric_names), 1, ""))
    old = replace(found, score=unboxed)
    np.testing.assert_array_equal(old.score_rows(within)[0], found.score_rows(within)[0])
    np.testing.assert_array_equal(old.score_rows(within)[1], found.score_rows(within)[1])


def test_a_model_without_a_box_keeps_its_scores():
    """Models made before there was a box: their settings name no margin."""
    found, graph = model("flagship")
    assert isinstance(found.score, FrozenScore)
    stored: dict[str, Any] = found.score.settings_dict()
    del stored["margin"]
    old_settings = ScoreSettings.from_dict(stored)
    assert old_settings.margin is None
    assert ScoreSettings.from_dict(old_settings.to_dict()) == old_settings
    old = replace(found, score=replace(found.score, settings=old_settings))
    parts = old.schema, old.encoder, old.score, old.calibrator
    rows = ray(found, normal_rows()[0], [1, 1, -1], [1.0, 5.0, 50.0, 500.0])
    ours, theirs = scores(old, build_scorer(*parts, metadata={}), rows)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert (ours != scores(found, graph, rows)[0]).any()
