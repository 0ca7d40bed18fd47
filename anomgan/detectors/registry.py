"""All detectors of the literature, by name."""

from __future__ import annotations

from anomgan.detectors.alad import ALAD
from anomgan.detectors.anogan import AnoGAN
from anomgan.detectors.base import Detector
from anomgan.detectors.conditional import Conditional
from anomgan.detectors.egbad import EGBAD
from anomgan.detectors.f_anogan import FAnoGAN
from anomgan.detectors.fence_gan import FenceGAN
from anomgan.detectors.ganomaly import GANomaly
from anomgan.detectors.imputation import Imputation
from anomgan.detectors.mo_gaal import MOGAAL
from anomgan.detectors.so_gaal import SOGAAL

__all__ = ["DETECTORS"]

DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind
    for kind in (
        ALAD,
        AnoGAN,
        EGBAD,
        FAnoGAN,
        GANomaly,
        SOGAAL,
        MOGAAL,
        FenceGAN,
        Imputation,
        Conditional,
    )
}
"""Detectors by the name that `anomgan fit --detector` takes."""
