"""The detectors of the literature as scikit-learn estimators.

Each has the face of `anomgan.GANDetector`: `fit`, `anomaly_score`, `p_values`, `contributions`,
`predict`, `save`, `load`. Its constructor takes what the detector's paper knows
(`anomgan.detectors`) and what all of them share, below.

    false_alarm_rate, calibrate_by, max_time, device, random_state
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, ClassVar

from anomgan.detectors.base import Detector
from anomgan.detectors.registry import DETECTORS
from anomgan.face import BaseDetector
from anomgan.fitting import FittedModel

__all__ = ["FACES", "LiteratureDetector"]

_SHARED: dict[str, Any] = {
    "false_alarm_rate": None,
    "calibrate_by": None,
    "max_time": None,
    "device": "auto",
    "random_state": None,
}


class LiteratureDetector(BaseDetector):
    """A detector of the literature; see `anomgan.face.BaseDetector` for what it does."""

    kind: ClassVar[type[Detector]]

    def _parameters(self) -> Detector:
        return self.kind(**{name: getattr(self, name) for name in self.kind.names()})

    @classmethod
    def _made(cls, fitted: FittedModel) -> bool:
        return isinstance(fitted.parameters, cls.kind)


def _face(kind: type[Detector]) -> type[LiteratureDetector]:
    """Make the estimator class of a detector.

    scikit-learn reads the parameters off the constructor's signature; it is made here from the
    fields of the detector, so that each is written down once.
    """
    known = kind.names()
    defaults = {f.name: f.default for f in fields(kind) if f.name in known} | _SHARED

    def __init__(self: LiteratureDetector, **parameters: Any) -> None:  # noqa: N807
        unknown = sorted(set(parameters) - set(defaults))
        if unknown:
            raise TypeError(f"{kind.__name__} takes no parameter {', '.join(map(repr, unknown))}")
        for name, default in defaults.items():
            setattr(self, name, parameters.get(name, default))

    signature = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    signature += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    __init__.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    members = {
        "__init__": __init__,
        "__doc__": kind.__doc__,
        "__module__": __name__,
        "kind": kind,
    }
    return type(kind.__name__, (LiteratureDetector,), members)


FACES: dict[str, type[LiteratureDetector]] = {n: _face(kind) for n, kind in DETECTORS.items()}
"""Estimator classes by the name that `anomgan fit --detector` takes."""


def __getattr__(name: str) -> Any:
    for face in FACES.values():
        if face.__name__ == name:
            return face
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
