"""The production side: onnxruntime, numpy and the table reader; no torch, no scikit-learn."""

from __future__ import annotations

from anomgan.serving.drift import Departure, DriftMonitor, DriftReport
from anomgan.serving.scorer import ScoredBatch, Scorer
from anomgan.serving.verdicts import Verdicts

__all__ = ["Departure", "DriftMonitor", "DriftReport", "ScoredBatch", "Scorer", "Verdicts"]
