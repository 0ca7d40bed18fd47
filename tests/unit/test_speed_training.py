"""Operations of torch counted by hand, and detectors of others in their time box."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from anomgan.evaluation import speed_contenders, speed_training
from anomgan.evaluation.speed import HALF_ON_CUDA, ON_CUDA, Case, SpeedPlan
from anomgan.evaluation.speed_contenders import make_model, scoring_calls, synthetic_rows
from anomgan.presets import FlagshipParameters
from anomgan.serving.providers import cuda_unusable_reason, make_session


def test_products_are_counted_forth_and_back() -> None:
    weights = torch.ones(4, 5, requires_grad=True)
    with speed_training.CountedProducts() as counted:
        loss = (torch.ones(3, 4) @ weights).sum()
    assert counted.flops == 2 * 3 * 4 * 5
    with speed_training.CountedProducts() as counted:
        loss.backward()
    assert counted.flops == 2 * 3 * 4 * 5  # the rows need no gradient
    with speed_training.CountedProducts() as counted:
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5)).exp()
    assert counted.flops == 2 * 2 * 3 * 4 * 5


def test_products_are_timed_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(speed_training, "time", clock)
    with speed_training.CountedProducts() as counted:
        x = torch.ones(4, 4)
        for _ in range(3):
            x = torch.mm(x, x).exp()
    assert counted.seconds == 3.0


def test_a_step_has_its_products_and_their_time() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 4))
    flops, seconds = speed_training.training_step_products(rows)
    sizes = FlagshipParameters()
    graded = 2 * sizes.batch_rows * 2 * sizes.discriminator_width**2  # one layer of two members
    assert flops > 6 * graded  # two such layers, forth and back for rows and weights
    assert 0.0 < seconds < 1.0


def test_detectors_of_others_say_that_they_are_extrapolated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def fit(name: str, known: np.ndarray, seed: int) -> None:
        asked.append(len(known))

    monkeypatch.setattr(speed_training, "PYOD", {"PyOD AnoGAN": "pyod-anogan"})
    monkeypatch.setattr(speed_training, "fit_numbers", fit)
    case, plan = Case("training", 0, 4, 200), SpeedPlan(budget_s=1.0)
    (whole,) = speed_training._pyod_fits(case, plan, np.zeros((200, 4)))
    assert asked == [64, 128, 200]
    assert (whole.contender, whole.quantity, whole.note) == ("PyOD AnoGAN", "fit", "")
    monkeypatch.setattr(speed_training, "_box", lambda plan: 0.0)
    (part,) = speed_training._pyod_fits(case, plan, np.zeros((200, 4)))
    assert part.note == "extrapolated from 64 rows"
    assert part.repeats == 1


@pytest.mark.gpu
@pytest.mark.skipif(cuda_unusable_reason() is not None, reason="needs a CUDA device")
def test_figures_of_a_gpu_stand_beside_the_others(tmp_path: Path) -> None:
    from anomgan.evaluation.speed_cases import Meter

    plan = SpeedPlan(batches=(64,), columns=(4,), training_rows=(200,), steps=8, budget_s=0.05)
    found = Meter()(Case("throughput", 64, 4, 200), plan, tmp_path)
    assert {ON_CUDA, HALF_ON_CUDA} <= {f.contender for f in found}


def test_both_precisions_are_called_where_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a processor in the GPU's place: what is called, not how fast."""
    opened = []

    def on_cuda(graph: bytes, *, providers: str) -> tuple[InferenceSession, str]:
        opened.append(providers)
        return make_session(graph, providers="cpu")

    model = make_model(200, 4, 8, 1, tmp_path)
    rows = synthetic_rows(64, 4, seed=1)
    if cuda_unusable_reason() is not None:
        assert not {ON_CUDA, HALF_ON_CUDA} & set(scoring_calls(model, rows))
    monkeypatch.setattr(speed_contenders, "cuda_unusable_reason", lambda: None)
    monkeypatch.setattr(speed_contenders, "make_session", on_cuda)
    calls = scoring_calls(dataclasses.replace(model), rows)
    full, half = (calls[name]()[0] for name in (ON_CUDA, HALF_ON_CUDA))
    assert opened == ["cuda", "cuda"]
    assert 0.0 < np.abs(half / full - 1.0).max() < 1e-2
