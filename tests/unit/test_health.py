"""Health facts against all-pairs loops, and what the verdict makes of generators."""

from __future__ import annotations

import json

import oracle_health
import pytest
import torch
from tiny_flagship import ring

from anomgan.training.health import (
    MIN_COVERAGE,
    Health,
    coverage,
    judge,
    precision,
    two_sample_accuracy,
)

GOOD = {"finite_scores": 1.0, "coverage": 0.9, "far_auroc": 1.0, "rollbacks": 0.0}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "g", "d", "k"), [(20, 30, 3, 5), (40, 15, 1, 1), (4, 9, 2, 5)])
def test_facts_equal_all_pairs_loops(n: int, g: int, d: int, k: int) -> None:
    real, generated = draw(n, d), 0.8 * draw(g, d, seed=1) + 0.3
    rows = real.tolist(), generated.tolist()
    assert coverage(real, generated, k=k) == pytest.approx(oracle_health.coverage(*rows, k))
    assert precision(real, generated, k=k) == pytest.approx(oracle_health.precision(*rows, k))
    expected = oracle_health.two_sample_accuracy(*rows)
    assert two_sample_accuracy(real, generated) == pytest.approx(expected)


@pytest.mark.parametrize("n_values", [2, 3])
def test_facts_of_tables_full_of_twins(n_values: int) -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.randint(n_values, (60, 2), generator=rng).float()
    generated = real[:30] + 0.1 * draw(30, 2, seed=1)
    rows = real.tolist(), generated.tolist()
    for k in (1, 5):
        assert coverage(real, generated, k=k) == pytest.approx(oracle_health.coverage(*rows, k))
        assert precision(real, generated, k=k) == pytest.approx(oracle_health.precision(*rows, k))
    assert coverage(real, generated) == 1.0
    assert precision(real, generated) > 0.9


def test_facts_do_not_change_when_everything_moves_far_away() -> None:
    """Squared norms of 1e10 would drown distances of 1e-2 in float32."""
    # Steps of 1/64 stay exact in float32 beside a shift of 1e5.
    real, generated = ((64 * draw(60, 2, seed=s)).round() / 64 for s in (0, 1))
    for fact in (coverage, precision, two_sample_accuracy):
        assert fact(real + 1e5, generated + 1e5) == pytest.approx(fact(real, generated))


def test_ring_generator_that_collapsed_is_degraded() -> None:
    real = ring(400)
    collapsed = ring(400, seed=1, modes=1)
    reached = coverage(real, collapsed)
    assert reached == pytest.approx(1 / 8, abs=0.06)
    assert precision(real, collapsed) > 0.9  # every generated row looks right
    verdict = judge(GOOD | {"coverage": reached})
    assert verdict.verdict == "degraded"
    assert "generated rows reach only 1" in str(verdict)


def test_ring_generator_of_one_point_is_degraded() -> None:
    real, point = ring(400), ring(1).expand(400, -1)
    assert judge(GOOD | {"coverage": coverage(real, point)}).verdict == "degraded"
    assert two_sample_accuracy(real, point) > 0.9


def test_ring_generator_that_is_right_is_healthy() -> None:
    real, generated = ring(400), ring(400, seed=1)
    assert coverage(real, generated) > 0.9
    assert precision(real, generated) > 0.9
    assert two_sample_accuracy(real, generated) == pytest.approx(0.5, abs=0.1)
    verdict = judge(GOOD | {"coverage": coverage(real, generated)})
    assert verdict.verdict == "healthy"
    assert str(verdict) == "healthy"


def test_generator_of_noise_has_low_precision_and_is_told_apart() -> None:
    real, noise = ring(400), 2.0 * draw(400, 2)
    assert precision(real, noise) < 0.2
    assert two_sample_accuracy(real, noise) > 0.8


def test_coverage_falls_with_each_mode_lost() -> None:
    real = ring(600)
    reached = [coverage(real, ring(600, seed=1, modes=modes)) for modes in (1, 2, 4, 8)]
    assert reached == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1.0], abs=0.1)


def test_unequal_numbers_are_compared_on_the_smaller() -> None:
    real, generated = ring(50), ring(200, seed=1)
    assert two_sample_accuracy(real, generated) == two_sample_accuracy(real, generated[:50])


# --- Verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "healthy", ""),
        ({"coverage": MIN_COVERAGE}, "healthy", ""),
        ({"coverage": 0.19}, "degraded", "generated rows reach only 19 % of held-out normal rows"),
        ({"far_auroc": 0.5}, "degraded", "outscore the others in only 50 % of pairs"),
        ({"rollbacks": 2.0}, "degraded", "training was rolled back 2 times"),
        ({"finite_scores": 0.0}, "failed", "not finite"),
        ({"finite_scores": 0.0, "coverage": 0.0}, "failed", "not finite"),
    ],
)
def test_verdict_follows_from_the_facts(
    changes: dict[str, float], verdict: str, reason: str
) -> None:
    health = judge(GOOD | changes)
    assert health.verdict == verdict
    assert reason in str(health)
    assert str(health).startswith(verdict)


def test_all_reasons_are_told_together_and_stored() -> None:
    health = judge(GOOD | {"coverage": 0.1, "far_auroc": 0.3, "rollbacks": 1.0, "extra": 0.25})
    assert len(health.reasons) == 3
    stored = json.loads(json.dumps(health.to_dict()))
    assert stored["verdict"] == "degraded"
    assert stored["reasons"] == list(health.reasons)
    assert stored["facts"]["extra"] == 0.25
    assert str(Health("failed", ("one", "two"))) == "failed: one; two"


def test_generators_without_rows_to_judge_them_are_not_called_healthy() -> None:
    unjudged = {name: value for name, value in GOOD.items() if name != "coverage"}
    health = judge(unjudged)
    assert health.verdict == "degraded"
    assert "too few held-out rows to judge the generators" in str(health)
