"""Training and scoring on a CUDA device; run where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomgan import GANDetector
from anomgan.export import build_scorer, check_parity, run_scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_model_trained_on_the_gpu_scores_and_exports_on_the_cpu() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 6)) @ rng.normal(size=(6, 6))
    detector = GANDetector(n_steps=200, random_state=0, device="cuda").fit(X)
    fitted = detector.model_
    assert fitted.facts["device"].startswith("cuda")
    assert all(t.device.type == "cpu" for t in fitted.score.tensors().values())
    assert detector.anomaly_score(8.0 * X).mean() > detector.anomaly_score(X).mean()
    model = build_scorer(
        fitted.schema, fitted.encoder, fitted.score, fitted.calibrator, metadata={}
    )
    check_parity(run_scorer(model, fitted.check), fitted.score, fitted.encoder, fitted.check)
