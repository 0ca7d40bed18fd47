"""Exponentials in place, and where they stop."""

from __future__ import annotations

import torch

from anomgan.scoring.exponential import LEAST_EXPONENT, exp_


def test_results_of_every_size_are_those_of_exp_and_small_ones_end() -> None:
    x = torch.linspace(LEAST_EXPONENT, 20.0, 4096)
    expected = x.exp()
    found = exp_(x)
    assert found is x
    assert torch.equal(found, expected)
    far = exp_(torch.tensor([-81.0, -90.0, -1e30, -torch.inf, 0.0, 1.0]))
    assert torch.equal(far[:4], torch.full((4,), LEAST_EXPONENT).exp())
    assert float(far[0]) > torch.finfo(torch.float32).tiny  # no result that takes long
    assert float(far[:4].sum() + far[4]) == 1.0  # and none that is seen in a sum
    assert torch.isnan(exp_(torch.tensor([torch.nan]))).all()
