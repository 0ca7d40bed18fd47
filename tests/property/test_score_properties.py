"""What holds for the score of any rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle_score
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flagship import fitted

from anomgan.scoring.frozen import FLOOR, Scored
from anomgan.scoring.memory import Memory
from anomgan.tables.encoding import FAR

D = 3
VALUES = st.floats(-FAR, FAR, width=32) | st.floats(-3, 3, width=32) | st.integers(-2, 2).map(float)
ROWS = st.lists(st.lists(VALUES, min_size=D, max_size=D), min_size=1, max_size=8)


def run(rows: torch.Tensor) -> Scored:
    score = fitted(D).score
    return score(rows, torch.zeros(len(rows), D))


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_scores_are_finite_bounded_below_and_the_sum_of_their_parts(rows: list[list[float]]):
    scored = run(torch.tensor(rows))
    assert bool(torch.isfinite(scored.contributions).all())
    assert bool((scored.contributions >= 0.0).all())
    assert bool((scored.score >= FLOOR).all())
    torch.testing.assert_close(
        scored.contributions.double().sum(dim=1), scored.score.double(), rtol=1e-6, atol=0.0
    )


@given(ROWS, st.data())
@settings(max_examples=60, deadline=None)
def test_scores_of_a_selection_are_the_selected_scores(rows: list[list[float]], data: Any):
    x = torch.tensor(rows)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=300))
    whole, some = run(x), run(x[index])
    assert torch.equal(some.score, whole.score[index])
    assert torch.equal(some.contributions, whole.contributions[index])


@given(ROWS, ROWS)
@settings(max_examples=60, deadline=None)
def test_scores_of_two_tables_are_the_scores_of_each(a: list[list[float]], b: list[list[float]]):
    one, other, both = run(torch.tensor(a)), run(torch.tensor(b)), run(torch.tensor(a + b))
    assert torch.equal(both.score, torch.cat([one.score, other.score]))
    assert torch.equal(both.contributions, torch.cat([one.contributions, other.contributions]))


POINTS = st.tuples(*[st.integers(-8, 8)] * 2)


@given(
    st.lists(POINTS, min_size=2, max_size=12, unique=True),
    st.lists(st.tuples(POINTS, st.integers(-1, 1)), min_size=1, max_size=12),
    st.lists(st.integers(1, 3), min_size=12, max_size=12),
    st.sampled_from([0.05, 0.5, 4.0]),
)
@settings(max_examples=100, deadline=None)
def test_soft_distance_of_any_points_equals_loops(
    known: list[tuple[int, int]],
    rows: list[tuple[tuple[int, int], int]],
    counts: list[int],
    width: float,
):
    memory = Memory(
        torch.tensor(known).float(), torch.tensor(counts[: len(known)]).float(), width
    ).with_peak()
    x = torch.tensor([point for point, _ in rows]).float()
    own = torch.tensor([place for _, place in rows])
    energy, gaps = memory.soft_distance(x, own)
    for i, (point, place) in enumerate(rows):
        expected, distances = oracle_score.soft_distance(
            known, counts[: len(known)], width, memory.peak, point, place
        )
        np.testing.assert_allclose(energy[i], expected, rtol=1e-6, atol=4e-6 * width**2)
        np.testing.assert_allclose(gaps[i], np.minimum(distances, 1e30), rtol=1e-6, atol=1e-6)
