"""The decision that a model has stored: what it flags by default, read and changed.

Scores, p-values and weights are left as they are: only the false-alarm rate that they are
compared with changes, and all that follows from it.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from anomgan.bundle import Bundle
from anomgan.calibration import Calibrator
from anomgan.errors import InputError, ModelCorruptError
from anomgan.groups import AnyCalibrator, GroupedCalibrator, calibrator_from_arrays

__all__ = ["Decision", "GroupDecision", "read_decision", "store_rate"]

_SCORER_FILE: Final = "scorer.onnx"
_CALIBRATION_FILE: Final = "calibration.npz"
_RATE: Final = "false_alarm_rate"


@dataclass(frozen=True)
class GroupDecision:
    """What a model flags in one group, at the rate of all.

    Parameters
    ----------
    name : str
    threshold : float
        Least score that is flagged.
    n_calibration : int
        Held-out normal rows of the group.
    extrapolated : bool
        Whether the rate lies below what they resolve by counting.
    """

    name: str
    threshold: float
    n_calibration: int
    extrapolated: bool


@dataclass(frozen=True)
class Decision:
    """What a model flags.

    Where it is calibrated by group, threshold, rows and resolution are those of all rows together,
    by which rows are judged that are in none of `groups`.

    Parameters
    ----------
    false_alarm_rate : float
        Share of normal rows that may be flagged.
    threshold : float
        Least score that is flagged.
    n_calibration : int
        Held-out normal rows behind it.
    resolution : float
        Smallest rate that these rows resolve by counting.
    has_tail : bool
        Whether rates below the resolution can be asked for: they are extrapolated then.
    by : str or None
        Column that tells the groups.
    groups : tuple of GroupDecision
        Groups with a calibration of their own.
    """

    false_alarm_rate: float
    threshold: float
    n_calibration: int
    resolution: float
    has_tail: bool
    by: str | None = None
    groups: tuple[GroupDecision, ...] = ()

    @classmethod
    def of(cls, calibrator: AnyCalibrator, rate: float | None = None) -> Decision:
        """Return the decision at `rate`, by default the calibrator's own.

        Raises
        ------
        UsageError
            The rate cannot be kept.
        """
        asked = calibrator.false_alarm_rate if rate is None else float(rate)
        calibrator.require_rate(asked)
        by, groups = None, dict[str, Calibrator]()
        if isinstance(calibrator, GroupedCalibrator):
            by, groups = calibrator.by, dict(calibrator.groups)
        return cls(
            false_alarm_rate=asked,
            threshold=calibrator.threshold(asked),
            n_calibration=calibrator.n,
            resolution=calibrator.resolution,
            has_tail=calibrator.tail is not None,
            by=by,
            groups=tuple(
                GroupDecision(name, own.threshold(asked), own.n, asked < own.resolution)
                for name, own in groups.items()
            ),
        )

    @property
    def extrapolated(self) -> bool:
        """Whether the rate lies below what the calibration rows resolve by counting."""
        return self.false_alarm_rate < self.resolution

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        content: dict[str, Any] = {
            "false_alarm_rate": self.false_alarm_rate,
            "threshold": self.threshold,
            "n_calibration": self.n_calibration,
            "resolution": self.resolution,
            "has_tail": self.has_tail,
            "extrapolated": self.extrapolated,
        }
        if self.by is not None:
            groups = [asdict(group) for group in self.groups]
            content |= {"by": self.by, "groups": {group.pop("name"): group for group in groups}}
        return content


def read_decision(model: str | os.PathLike[str], rate: float | None = None) -> Decision:
    """Return the stored decision of a model directory, or what it would be at `rate`.

    Raises
    ------
    ModelNotFoundError, ModelCorruptError
        Nothing there, or damaged.
    UsageError
        The rate cannot be kept.
    """
    return Decision.of(_calibrator(Bundle.open(model, verify=False)), rate)


def store_rate(model: str | os.PathLike[str], rate: float) -> tuple[Decision, Decision]:
    """Make `rate` the default of a model directory; a failure leaves the model as it was.

    It is written wherever the default is stored: into the scoring graph (default of the optional
    input, and metadata), the calibration and the manifest. Nothing else changes but checksums.

    Parameters
    ----------
    model : path-like
        Model directory.
    rate : float
        Share of normal rows that may be flagged, in (0, 1).

    Returns
    -------
    (Decision, Decision)
        The former and the new one.

    Raises
    ------
    ModelNotFoundError, ModelCorruptError
        Nothing there, or damaged.
    UsageError
        The rate cannot be kept.
    OutputError
        The directory cannot be written.
    """
    bundle = Bundle.open(model)
    former = _calibrator(bundle)
    renewed = former.with_rate(rate)
    files: dict[str, bytes | Path] = {name: bundle.read(name) for name in bundle.names}
    source = str(bundle.file(_SCORER_FILE))
    files[_SCORER_FILE] = _with_rate(bundle.read(_SCORER_FILE), renewed, source)
    files[_CALIBRATION_FILE] = _npz(renewed)
    manifest = replace(
        bundle.manifest, calibration={**bundle.manifest.calibration, **renewed.summary()}
    )
    Bundle.save(model, files=files, manifest=manifest, overwrite=True)
    return Decision.of(former), Decision.of(renewed)


def _calibrator(bundle: Bundle) -> AnyCalibrator:
    arrays = bundle.arrays(_CALIBRATION_FILE)
    try:
        return calibrator_from_arrays(arrays)
    except InputError as error:
        raise ModelCorruptError(
            f"{bundle.file(_CALIBRATION_FILE)} is damaged: {error}; fit the model again"
        ) from error


def _npz(calibrator: AnyCalibrator) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **calibrator.arrays())
    return buffer.getvalue()


def _with_rate(content: bytes, calibrator: AnyCalibrator, source: str) -> bytes:
    """Return the scoring graph with another default rate, and metadata that say so."""
    import onnx  # heavy, and to show a decision takes none of it

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf, which is a dependency of onnx's, not of ours
        raise ModelCorruptError(
            f"{source} is no readable ONNX model: {error}; fit the model again"
        ) from error
    known = [value for value in model.graph.initializer if value.name == _RATE]
    if len(known) != 1 or known[0].data_type != onnx.TensorProto.FLOAT or known[0].dims:
        raise ModelCorruptError(
            f"{source} has no default for its input {_RATE!r} that could be changed (one float32 "
            "number is expected); fit the model again"
        )
    rate = np.array(calibrator.false_alarm_rate, dtype=np.float32)
    known[0].CopyFrom(onnx.numpy_helper.from_array(rate, _RATE))
    renewed = {
        "anomgan.false_alarm_rate": repr(calibrator.false_alarm_rate),
        "anomgan.threshold": repr(calibrator.threshold()),
        "anomgan.calibration": json.dumps(calibrator.summary(), sort_keys=True),
    }
    for entry in model.metadata_props:
        entry.value = renewed.get(entry.key, entry.value)
    return bytes(model.SerializeToString(deterministic=True))
