"""Instance noise: its width over training, and that it ends."""

from __future__ import annotations

import math

import pytest
import torch

from anomgan.errors import UsageError
from anomgan.training.loop import Sampler
from anomgan.training.noise import InstanceNoise


def sampler(done: float = 0.0, seed: int = 0) -> Sampler:
    draws = Sampler(torch.zeros(4, 3), 2, torch.Generator().manual_seed(seed))
    draws.done = done
    return draws


@pytest.mark.parametrize(
    ("done", "until", "width"),
    [(0.0, 1.0, 0.4), (0.25, 1.0, 0.3), (1.0, 1.0, 0.0), (0.25, 0.5, 0.2), (0.75, 0.5, 0.0)],
)
def test_width_falls_linearly_to_nothing(done: float, until: float, width: float) -> None:
    noise = InstanceNoise(0.4, until)
    assert noise.width_at(done) == pytest.approx(width)
    blurred = noise(torch.full((2, 20_000, 3), 5.0), sampler(done)) - 5.0
    assert float(blurred.std()) == pytest.approx(width, rel=0.02)
    assert float(blurred.mean()) == pytest.approx(0.0, abs=0.01)


def test_noise_comes_from_the_sampler_alone_and_nothing_is_drawn_without_width() -> None:
    rows, before = torch.ones(2, 5, 3), torch.get_rng_state()
    one, same = (InstanceNoise(0.1)(rows, sampler()) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, InstanceNoise(0.1)(rows, sampler(seed=1)))
    assert torch.equal(torch.get_rng_state(), before)
    draws = sampler(0.5)
    state = draws.rng.get_state()
    assert InstanceNoise(0.1, until=0.5)(rows, draws) is rows
    assert InstanceNoise(0.0)(rows, draws) is rows
    assert torch.equal(draws.rng.get_state(), state)


def test_gradients_pass_through() -> None:
    rows = torch.ones(2, 5, 3, requires_grad=True)
    InstanceNoise(0.1)(rows, sampler()).sum().backward()
    assert rows.grad is not None
    assert bool((rows.grad == 1.0).all())


def test_impossible_noise_is_refused() -> None:
    with pytest.raises(UsageError, match=r"width is -1.0.*end is 0.0"):
        InstanceNoise(-1.0, 0.0)
    with pytest.raises(UsageError, match="width is nan"):
        InstanceNoise(math.nan)
