"""Products of updates in bfloat16: where, how much they round, and for how long."""

from __future__ import annotations

import pytest
import torch

from anomgan.nets import precision
from anomgan.nets.batched import BatchedMLP
from anomgan.nets.tabular import TabularNetworks, TabularSizes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
fast_here = pytest.mark.skipif(not precision.bfloat16_is_fast(), reason="no units for bfloat16")


def switches() -> dict[str, str]:
    """What torch is told of the precision of products, of whichever kind and device."""
    return {
        "cpu": torch.backends.mkldnn.matmul.fp32_precision,
        "cpu, all": torch.backends.mkldnn.fp32_precision,
        "cuda": torch.backends.cuda.matmul.fp32_precision,
        "legacy": torch.get_float32_matmul_precision(),
    }


@pytest.mark.parametrize(
    ("rounded", "device", "fast", "expected"),
    [
        (True, CPU, True, "bf16"),
        (False, CPU, True, "none"),
        (True, CUDA, True, "none"),
        (True, CPU, False, "none"),
    ],
)
def test_products_are_rounded_where_it_is_asked_for_and_faster(
    rounded: bool,
    device: torch.device,
    fast: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: fast)
    before = switches()
    assert before["cpu"] == "none"
    with precision.products(device, rounded=rounded):
        assert torch.backends.mkldnn.matmul.fp32_precision == expected
        assert torch.backends.cuda.matmul.fp32_precision == before["cuda"]
    assert switches() == before


def test_the_switch_is_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)
    before = switches()
    with pytest.raises(ZeroDivisionError), precision.products(CPU, rounded=True):
        raise ZeroDivisionError
    assert switches() == before


def test_of_threads_that_overlap_the_last_one_puts_the_switch_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)
    before = switches()
    first, second = (precision.products(CPU, rounded=True) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    second.__exit__(None, None, None)
    assert switches() == before


@pytest.mark.parametrize("missing", ["capabilities", "switch"])
def test_an_older_torch_rounds_nothing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "capabilities":
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
        monkeypatch.setattr(torch.backends, "mkldnn", object())
    precision.bfloat16_is_fast.cache_clear()
    try:
        assert not precision.bfloat16_is_fast()
    finally:
        precision.bfloat16_is_fast.cache_clear()


@fast_here
def test_factors_are_rounded_and_sums_are_not() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(2, 256, 256, generator=rng) for _ in range(2))
    exact = torch.bmm(x.double(), weight.double())
    with precision.products(CPU, rounded=True):
        rounded = torch.bmm(x, weight)
    of_factors = torch.bmm(x.bfloat16().double(), weight.bfloat16().double())
    assert not torch.allclose(rounded.double(), exact, atol=1e-3)
    torch.testing.assert_close(rounded.double(), of_factors, rtol=1e-5, atol=1e-4)


@fast_here
def test_a_rounded_network_is_rounded_forth_and_back_and_nowhere_else() -> None:
    plain, rounded = (
        BatchedMLP(
            2, (64, 256, 256, 8), generator=torch.Generator().manual_seed(0), rounded=rounded
        )
        for rounded in (False, True)
    )
    x = torch.randn(2, 128, 64, generator=torch.Generator().manual_seed(1))
    above = torch.randn(2, 128, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(plain(x), rounded(x))  # what is frozen, watched and differentiated twice
    expected, found = plain.fused(x), rounded.fused(x)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    ones = torch.autograd.grad((expected * above).sum(), list(plain.parameters()))
    others = torch.autograd.grad((found * above).sum(), list(rounded.parameters()))
    for one, other in zip(ones, others, strict=True):
        # Mostly by units that stand near their kink, and now on its other side.
        assert float((one - other).norm() / one.norm()) < 0.1
    steep, rounded_steep = plain.input_gradient(x, 0), rounded.input_gradient(x, 0)
    assert not torch.equal(steep, rounded_steep)
    assert float((steep - rounded_steep).detach().norm() / steep.detach().norm()) < 0.1


def test_the_flagship_rounds_its_discriminator_alone() -> None:
    sizes = TabularSizes(2, 5, 3, 8, 8, 4)
    networks = TabularNetworks(sizes, generator=torch.Generator(), rounded=True)
    assert networks.discriminator.rounded
    assert not networks.generator.rounded
    assert not networks.encoder.rounded
