"""All detectors of the literature, by name."""

from __future__ import annotations

from anomgan.detectors.alad import ALAD
from anomgan.detectors.base import Detector

__all__ = ["DETECTORS"]

DETECTORS: dict[str, type[Detector]] = {kind.name: kind for kind in (ALAD,)}
"""Detectors by the name that `anomgan fit --detector` takes."""
