"""Products of updates in bfloat16: where, how much they round, and for how long."""

from __future__ import annotations

import pytest
import torch

from anomgan.nets import precision
from tests.support.tiny_flagship import tiny_trainer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_the_switch_is_put_back_whatever_happens() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), precision.bfloat16_products():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(not precision.bfloat16_is_fast(), reason="no units for bfloat16")
def test_factors_are_rounded_and_sums_are_not() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(2, 256, 256, generator=rng) for _ in range(2))
    exact = torch.bmm(x.double(), weight.double())
    with precision.bfloat16_products():
        rounded = torch.bmm(x, weight)
    factors = torch.bmm(x.bfloat16().double(), weight.bfloat16().double())
    assert not torch.allclose(rounded.double(), exact, atol=1e-3)
    torch.testing.assert_close(rounded.double(), factors, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("rounded", "device", "fast", "expected"),
    [
        (True, CPU, True, "medium"),
        (False, CPU, True, "highest"),
        (True, CUDA, True, "highest"),
        (True, CPU, False, "highest"),
    ],
)
def test_updates_are_rounded_where_it_is_asked_for_and_faster(
    rounded: bool,
    device: torch.device,
    fast: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: fast)
    assert torch.get_float32_matmul_precision() == "highest"
    with precision.products_of_updates(rounded, device)():
        assert torch.get_float32_matmul_precision() == expected


def test_only_updates_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What watches a training measures distances, which rounding would spoil."""
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)
    trainer = tiny_trainer(n_steps=50, rounded=True)
    seen: dict[str, set[str]] = {"update": set(), "monitor": set()}
    trainer.monitor = lambda: seen["monitor"].add(torch.get_float32_matmul_precision()) or {}
    inner = trainer.sampler.rows

    def rows(n: int) -> torch.Tensor:
        seen["update"].add(torch.get_float32_matmul_precision())
        return inner(n)

    monkeypatch.setattr(trainer.sampler, "rows", rows)
    trainer.run()
    assert seen == {"update": {"medium"}, "monitor": {"highest"}}
