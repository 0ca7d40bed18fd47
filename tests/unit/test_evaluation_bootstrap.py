"""Measures on weighted rows, and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomgan.evaluation.bootstrap import Ranking, compare, ranking_measures


@st.composite
def labelled_scores(draw):
    n = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    labels[0], labels[1] = True, False
    levels = draw(st.integers(1, 12))  # few levels: many ties
    scores = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n)), dtype=float)
    return labels, scores / 7


@settings(max_examples=200, deadline=None)
@given(labelled_scores(), st.integers(1, 60))
def test_with_unit_weights_a_draw_says_what_scikit_learn_says(case, k):
    labels, scores = case
    ranking = Ranking(scores, labels)
    for measure in ranking_measures([min(k, len(labels))]):
        found = measure.weighted(*ranking.cumulative(np.ones(len(labels))))
        assert found == pytest.approx(measure.exact(labels, scores), abs=1e-12), measure.name


@settings(max_examples=100, deadline=None)
@given(labelled_scores(), st.integers(0, 2**32 - 1))
def test_a_weight_is_a_number_of_copies(case, seed):
    labels, scores = case
    copies = np.random.default_rng(seed).integers(0, 3, len(labels))
    copies[:2] = np.maximum(copies[:2], 1)
    again = np.repeat(np.arange(len(labels)), copies)
    ranking = Ranking(scores, labels)
    for measure in ranking_measures([1]):
        found = measure.weighted(*ranking.cumulative(copies.astype(float)))
        expected = measure.exact(labels[again], scores[again])
        assert found == pytest.approx(expected, abs=1e-12), measure.name


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Normal scores N(0, 1), anomalies N(1, 1): AUROC is Phi(1 / sqrt 2) = 0.7602.
    rng = np.random.default_rng(0)
    measures = ranking_measures([10])[:1]
    hits = 0
    for _ in range(100):
        labels = np.repeat([True, False], [60, 120])
        scores = rng.normal(size=180) + labels
        found, _, n_draws = compare(labels, {"x": scores}, measures, seed=int(rng.integers(2**31)))
        assert n_draws == 1000
        hits += found["x"]["auroc"].low <= 0.76025 <= found["x"]["auroc"].high
    # Of 100 intervals with a true coverage of 92 %, fewer than 75 hit with a chance below 1e-6.
    assert hits >= 75


def test_leads_are_paired():
    rng = np.random.default_rng(1)
    labels = np.repeat([True, False], [100, 300])
    scores = rng.normal(size=400) + labels
    _, leads, _ = compare(labels, {"a": scores, "b": scores * 3.0}, ranking_measures([10]))
    assert (leads["b"].value, leads["b"].low, leads["b"].high) == (0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_intervals():
    rng = np.random.default_rng(2)
    labels = np.repeat([True, False], [20, 50])
    scores = {"a": rng.normal(size=70) + labels, "b": rng.normal(size=70)}
    once = compare(labels, scores, ranking_measures([5]), seed=7)
    assert once == compare(labels, scores, ranking_measures([5]), seed=7)
    assert once != compare(labels, scores, ranking_measures([5]), seed=8)
