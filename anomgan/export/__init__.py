"""From a trained detector to one ONNX file, with a parity report."""

from anomgan.export.parity import Parity, check_parity, run_scorer
from anomgan.export.scorer import build_scorer

__all__ = ["Parity", "build_scorer", "check_parity", "run_scorer"]
