"""The frozen score: against plain loops, far from all data, and in any company."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle_score
import pytest
import torch
from tiny_flagship import fitted
from torch import Tensor

from anomgan.errors import ModelCorruptError
from anomgan.scoring.frozen import FLOOR, FrozenScore, Scored, ScoreSettings
from anomgan.scoring.inversion import MLPWeights

WIDTHS = [1, 2, 5, 9, 13]
"""Odd numbers of columns, where matrix products take the kernels for left-over columns."""


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def score_of(d: int) -> FrozenScore:
    """A fitted score. Gaussian rows leave it no trust in its discriminator: some is given."""
    score = fitted(d).score
    return replace(score, settings=replace(score.settings, discriminator_trust=0.7))


def normal_rows(d: int, n: int = 150) -> Tensor:
    """Encoded normal rows (no copies of the memory are needed: they are the memory)."""
    return score_of(d).memory_rows[:n]


def run(score: FrozenScore, x: Tensor, surprise: Tensor | None = None) -> Scored:
    return score(x, x.new_zeros(len(x), score.n_columns) if surprise is None else surprise)


def same(a: Scored, b: Scored) -> bool:
    return torch.equal(a.score, b.score) and torch.equal(a.contributions, b.contributions)


def take(scored: Scored, index: Any) -> Scored:
    return Scored(scored.score[index], scored.contributions[index])


# --- Against the oracle ---------------------------------------------------------------------


def network(weights: MLPWeights) -> list[tuple[list[np.ndarray], list[np.ndarray], str]]:
    return [
        (
            [w[m].double().numpy() for w in weights.matrices],
            [b[m, 0].double().numpy() for b in weights.biases],
            weights.activation,
        )
        for m in range(weights.matrices[0].shape[0])
    ]


def plain(score: FrozenScore) -> dict[str, Any]:
    """The model as float64 arrays, for `oracle_score`."""
    walk = score.settings.inversion
    arrays = {
        name: getattr(score, name).double().numpy()
        for name in (
            "memory_rows",
            "memory_counts",
            "preconditioner",
            "pull",
        )
    }
    return (
        arrays
        | {
            "generator": network(score.generator),
            "encoder": network(score.encoder),
            "discriminator": network(score.discriminator),
            "feature_column": score.feature_column.tolist(),
            "n_steps": walk.n_steps,
            "rate": walk.learning_rate,
            "momentum": walk.momentum,
        }
        | {k: v for k, v in score.settings.to_dict().items() if k != "inversion"}
    )


@pytest.mark.parametrize("d", [1, 2, 5])
def test_score_equals_plain_loops(d: int) -> None:
    score = score_of(d)
    x = torch.cat([normal_rows(d, 4), draw(4, d), 10.0 * draw(3, d, seed=2), 1e4 * draw(1, d)])
    surprise = torch.rand(len(x), d, generator=torch.Generator().manual_seed(3))
    found, model = run(score, x, surprise), plain(score)
    for i in range(len(x)):
        expected = oracle_score.score(model, x[i].tolist(), surprise[i].tolist())
        np.testing.assert_allclose(found.contributions[i], expected, rtol=2e-3, atol=2e-4)
        assert float(found.score[i]) == pytest.approx(expected.sum(), rel=1e-4)


def test_columns_of_several_features_are_looked_at_together() -> None:
    score = score_of(5)
    columns = torch.tensor([1, 0, 1, 1, 0])
    merged = replace(score, feature_column=columns, n_columns=3)
    x = torch.cat([draw(10, 5), normal_rows(5, 4), 30.0 * draw(3, 5, seed=2)])
    single, joint = run(score, x), run(merged, x)
    torch.testing.assert_close(joint.score, single.score, rtol=1e-6, atol=0.0)
    model = plain(score) | {"feature_column": columns.tolist()}
    for row, found in zip(x.tolist(), joint.contributions, strict=True):
        expected = oracle_score.score(model, row, [0.0] * 3)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    assert not joint.contributions[:, 2].any()  # a column without features: for surprises only
    assert torch.equal(joint.contributions[:, 3], single.contributions[:, 5])


@pytest.mark.parametrize("inversion_share", [0.0, 1.0])
def test_share_of_the_inversion(inversion_share: float) -> None:
    score = score_of(2)
    score = replace(score, settings=replace(score.settings, inversion_share=inversion_share))
    x = draw(6, 2)
    for row, found in zip(x.tolist(), run(score, x).contributions, strict=True):
        expected = oracle_score.score(plain(score), row, [0.0, 0.0])
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    # The networks are asked for nothing without a share, the memory for nothing with all of it.
    deaf = replace(score, encoder=scaled(score.encoder, 0.5))
    forgetful = replace(score, memory_rows=score.memory_rows + 1.0)
    for other, counts in ((deaf, inversion_share > 0.0), (forgetful, inversion_share < 1.0)):
        assert torch.equal(run(other, x).score, run(score, x).score) != counts


def scaled(weights: MLPWeights, factor: float) -> MLPWeights:
    matrices = tuple(factor * matrix for matrix in weights.matrices)
    return replace(weights, matrices=matrices)


@pytest.mark.parametrize("bound", [0.0, 0.25, 4.0])
@pytest.mark.parametrize("trust", [0.0, 0.4, 1.0])
def test_bound_and_trust_of_the_discriminator(bound: float, trust: float) -> None:
    score = score_of(5)
    settings = replace(score.settings, discriminator_bound=bound, discriminator_trust=trust)
    score = replace(score, settings=settings)
    x = torch.cat([normal_rows(5, 5), draw(5, 5), 10.0 * draw(5, 5, seed=2)])
    bucket = run(score, x).contributions[:, -1]
    model = plain(score)
    expected = [oracle_score.score(model, row, [0.0] * 5)[-1] for row in x.tolist()]
    np.testing.assert_allclose(bucket, expected, rtol=1e-4, atol=1e-5)
    assert bool((bucket == FLOOR).all()) == (bound * trust == 0.0)


# --- Rows that stand in memory --------------------------------------------------------------


def test_a_row_left_out_of_memory_scores_as_without_it() -> None:
    score, x = score_of(5), normal_rows(5, 8)
    score = replace(score, memory_counts=score.memory_counts + (torch.arange(150) % 2))
    own = torch.tensor([0, 1, 2, 3, -1, 5, 6, -1])
    surprise = torch.zeros(8, 5)
    found, model = score(x, surprise, own), plain(score)
    for i, place in enumerate(own.tolist()):
        expected = oracle_score.score(model, x[i].tolist(), [0.0] * 5, place)
        np.testing.assert_allclose(found.contributions[i], expected, rtol=2e-3, atol=2e-4)
    inside = run(score, x)
    assert bool((found.score[own >= 0] > inside.score[own >= 0]).all())
    assert torch.equal(found.score[own < 0], inside.score[own < 0])


def test_rows_left_out_are_found_in_any_pass() -> None:
    """`own` goes with its row through passes of 256 rows, the last one not full."""
    score = score_of(2)
    own = torch.arange(600) % 150
    own[::7] = -1
    x = score.memory_rows[torch.arange(600) % 150]
    together = score(x, torch.zeros(600, 2), own)
    for i in (0, 1, 7, 255, 256, 300, 513, 599):
        alone = score(x[i : i + 1], torch.zeros(1, 2), own[i : i + 1])
        assert same(alone, take(together, slice(i, i + 1)))
    assert float((together.score != run(score, x).score).float().mean()) > 0.8


# --- Contributions --------------------------------------------------------------------------


@pytest.mark.parametrize("d", WIDTHS)
def test_contributions_sum_to_the_score_and_are_never_negative(d: int) -> None:
    x = torch.cat([normal_rows(d), draw(100, d), 100.0 * draw(50, d), torch.zeros(1, d)])
    scored = run(score_of(d), x)
    assert scored.score.shape == (len(x),)
    assert scored.contributions.shape == (len(x), d + 1)
    assert scored.score.dtype == scored.contributions.dtype == torch.float32
    assert bool((scored.contributions >= 0.0).all())
    assert bool((scored.score >= FLOOR).all())
    torch.testing.assert_close(
        scored.contributions.double().sum(dim=1), scored.score.double(), rtol=1e-6, atol=0.0
    )
    bound = score_of(d).settings.discriminator_bound
    bucket = scored.contributions[:, -1]
    assert float(bucket.min()) >= FLOOR
    assert float(bucket.max()) <= 2 * bound + FLOOR


def test_surprise_is_added_to_its_own_column() -> None:
    # All rows are explained alike: a surprise may lift a row to where more views share its score.
    score, x = score_of(5).explaining_from(0.0), draw(8, 5)
    surprise = torch.zeros(8, 5)
    surprise[3, 2] = 6.0
    without, scored = run(score, x), run(score, x, surprise)
    added = scored.contributions - without.contributions
    assert float(added[3, 2]) == pytest.approx(6.0, abs=1e-5)
    added[3, 2] = 0.0
    assert not added.any()
    assert float(scored.score[3] - without.score[3]) == pytest.approx(6.0, abs=1e-4)


@pytest.mark.parametrize("column", range(5))
def test_a_column_far_out_is_blamed(column: int) -> None:
    x = normal_rows(5, 40).clone()
    x[:, column] += 100.0
    blamed = run(score_of(5), x).contributions.argmax(dim=1)
    assert float((blamed == column).float().mean()) > 0.9


# --- Far out --------------------------------------------------------------------------------


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("far", [1e2, 1e3, 1e4, 1e5, 1e6])
def test_far_rows_score_above_all_normal_rows_and_stay_finite(d: int, far: float) -> None:
    normal = run(score_of(d), normal_rows(d)).score.max()
    direction = torch.nn.functional.normalize(draw(60, d), dim=1)
    single = torch.cat([torch.eye(d), -torch.eye(d)])
    scored = run(score_of(d), far * torch.cat([direction, single]))
    assert bool(torch.isfinite(scored.contributions).all())
    assert bool(torch.isfinite(scored.score).all())
    assert float(scored.score.min()) > float(normal)


@pytest.mark.parametrize("d", WIDTHS)
def test_score_rises_along_a_ray_far_out(d: int) -> None:
    distance = torch.logspace(1.5, 6.0, 60)
    for direction in torch.nn.functional.normalize(draw(12, d), dim=1):
        scored = run(score_of(d), distance.unsqueeze(1) * direction)
        steps = scored.score.diff()
        assert bool((steps > 0.0).all())


# --- Purity ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=WIDTHS)
def crowd(request: pytest.FixtureRequest) -> tuple[FrozenScore, Tensor, Scored]:
    """A score, 600 rows near and far, and what they score together."""
    d = request.param
    x = torch.cat([normal_rows(d, 90), 2.0 * draw(500, d), 1e4 * draw(10, d)])
    return score_of(d), x, run(score_of(d), x)


Crowd = tuple[FrozenScore, Tensor, Scored]


def test_rows_score_the_same_alone(crowd: Crowd) -> None:
    score, x, together = crowd
    for i in (0, 7, 100, 255, 256, 300, 511, 599):
        assert same(run(score, x[i : i + 1]), take(together, slice(i, i + 1)))


def test_rows_score_the_same_shuffled(crowd: Crowd) -> None:
    score, x, together = crowd
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert same(run(score, x[order]), take(together, order))


@pytest.mark.parametrize("size", [2, 7, 100, 255, 256, 257, 599])
def test_rows_score_the_same_in_any_chunks(crowd: Crowd, size: int) -> None:
    score, x, together = crowd
    if size < 10:  # hundreds of passes: a few of them tell as much
        x, together = x[: 12 * size], take(together, slice(12 * size))
    parts = [run(score, x[i : i + size]) for i in range(0, len(x), size)]
    joined = Scored(
        torch.cat([p.score for p in parts]), torch.cat([p.contributions for p in parts])
    )
    assert same(joined, together)


@pytest.mark.parametrize("company", [1e6, float("inf"), float("nan")])
def test_a_row_does_not_notice_its_company(crowd: Crowd, company: float) -> None:
    score, x, together = crowd
    crowded = x.clone()
    crowded[1::2] = company
    assert same(take(run(score, crowded), slice(0, None, 2)), take(together, slice(0, None, 2)))


@pytest.mark.parametrize(
    "lay_out",
    [
        lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),  # odd address
        lambda x: x.T.contiguous().T,  # column by column
        lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],  # gaps between rows
    ],
)
def test_bits_do_not_depend_on_where_the_rows_lie_in_memory(
    crowd: Crowd, lay_out: Callable[[Tensor], Tensor]
) -> None:
    score, x, together = crowd
    assert same(run(score, lay_out(x)), together)


def fingerprint(score: FrozenScore) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(score.tensors().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def test_scoring_changes_no_weight_no_input_and_no_random_state() -> None:
    score, x = score_of(5), draw(300, 5)
    before, rows = fingerprint(score), x.clone()
    surprise = torch.ones(300, 5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = run(score, x, surprise)
    assert same(run(score, x, surprise), first)
    assert fingerprint(score) == before
    assert torch.equal(x, rows)
    assert bool((surprise == 1.0).all())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert not first.score.requires_grad


def test_no_row_gives_no_score() -> None:
    scored = run(score_of(5), torch.zeros(0, 5))
    assert scored.score.shape == (0,)
    assert scored.contributions.shape == (0, 6)


# --- Keeping --------------------------------------------------------------------------------


def test_round_trip_through_tensors_and_json_gives_the_same_bits() -> None:
    score, x = score_of(5), draw(50, 5)
    settings = ScoreSettings.from_dict(json.loads(json.dumps(score.settings.to_dict())))
    assert settings == score.settings
    tensors = {name: t.clone() for name, t in score.tensors().items()}
    rebuilt = FrozenScore.from_tensors(tensors, n_columns=score.n_columns, settings=settings)
    assert same(run(rebuilt, x), run(score, x))
    assert fingerprint(rebuilt) == fingerprint(score)
    assert all(t.is_contiguous() for t in tensors.values())


@pytest.mark.parametrize(
    "name",
    [
        "memory_rows",
        "memory_counts",
        "pull",
        "generator.0.weight",
        "encoder.2.bias",
        "discriminator.1.weight",
    ],
)
def test_missing_tensor_is_named(name: str) -> None:
    score = score_of(5)
    tensors = score.tensors()
    del tensors[name]
    with pytest.raises(ModelCorruptError, match=r"the weights lack the tensor .*; refit"):
        FrozenScore.from_tensors(tensors, n_columns=5, settings=score.settings)
