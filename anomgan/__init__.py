"""anomgan: find the rows that do not belong, with GANs trained on normal data only.

Names are loaded on first use, so ``import anomgan`` itself loads no torch, scikit-learn,
pandas or onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomgan.errors import AnomganError
    from anomgan.estimator import GANDetector
    from anomgan.serving import Scorer

__all__ = ["AnomganError", "GANDetector", "Scorer", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "AnomganError": "anomgan.errors",
    "GANDetector": "anomgan.estimator",
    "Scorer": "anomgan.serving",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'anomgan' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
