"""Fitted models to model directories and back; data only, nothing is executed on load."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from anomgan import __version__
from anomgan.bundle import FORMAT_VERSION, Bundle, Manifest
from anomgan.calibration import Calibrator
from anomgan.detectors.base import Detector
from anomgan.detectors.registry import DETECTORS
from anomgan.distillation import N_STEPS, distil
from anomgan.errors import AnomganError, ModelCorruptError, UsageError
from anomgan.export import Parity, build_scorer, check_parity, run_scorer
from anomgan.export.half_loss import measure_half
from anomgan.export.parity import check_p_values
from anomgan.export.precision import FP16, FP32, Precision
from anomgan.fitting import FittedModel
from anomgan.groups import (
    AnyCalibrator,
    GroupedCalibrator,
    calibrator_from_arrays,
    row_p_values,
)
from anomgan.learning import HeldOut
from anomgan.presets import FlagshipParameters
from anomgan.scoring.frozen import FrozenScore, ScoreSettings
from anomgan.scoring.program import ProgramScore, RowScore
from anomgan.tables import Rows, Schema
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.profile import Profile
from anomgan.training.health import Health
from anomgan.training.loop import Progress, TrainingRecord

__all__ = ["export_fast", "export_half", "export_scorer", "load_fitted", "save_fitted"]

_SCORE, _NETWORKS = "score.", "networks."


def export_scorer(
    fitted: FittedModel,
    *,
    created_at: str,
    more: Mapping[str, str] | None = None,
    precision: Precision = FP32,
) -> tuple[bytes, Parity, dict[str, NDArray[Any]]]:
    """Build the scoring graph; check it on real rows and on the probe rows.

    Parameters
    ----------
    fitted : FittedModel
    created_at : str
    more : mapping of str to str, optional
        Metadata of the graph beside what every graph has.
    precision : Precision
        What the networks compute in.

    Returns
    -------
    tuple of bytes, Parity, dict
        The model, the agreement with torch, and the outputs on the probe rows.

    Raises
    ------
    ExportError
        The graph disagrees with torch.
    """
    metadata = {
        "anomgan.format_version": str(FORMAT_VERSION),
        "anomgan.version": __version__,
        "anomgan.detector": fitted.parameters.name,
        "anomgan.created_at": created_at,
        "anomgan.calibration": json.dumps(fitted.calibrator.summary(), sort_keys=True),
        **(more or {}),
    }
    model = build_scorer(
        fitted.schema,
        fitted.encoder,
        fitted.score,
        fitted.calibrator,
        metadata=metadata,
        precision=precision,
    )
    parity, _ = _compared(model, fitted, fitted.check, precision)
    _, outputs = _compared(model, fitted, fitted.probe, precision)
    return model, parity, outputs


def export_fast(
    fitted: FittedModel,
    *,
    created_at: str,
    n_steps: int = N_STEPS,
    progress: Progress | None = None,
) -> tuple[bytes, Parity, Mapping[str, float]]:
    """Distil a student of the score, calibrate it, and build its graph.

    Parameters
    ----------
    fitted : FittedModel
    created_at : str
    n_steps : int
        Steps that the student learns.
    progress : callable, optional
        Called while the student learns.

    Returns
    -------
    tuple of bytes, Parity, mapping
        The model, the agreement of graph and torch, and how near the student comes to the score
        (`anomgan.distillation.Distilled`), which the metadata hold as ``anomgan.fast``.

    Raises
    ------
    UsageError
        The model keeps no held-out rows, or these are too few for the rate under the student.
    ExportError
        The graph disagrees with torch.
    """
    held_out = fitted.held_out
    if held_out is None:
        raise UsageError(
            "a fast scorer is calibrated on rows that nothing was learnt from, and this model "
            "keeps none (it was fitted with calibration 'cross', or by an earlier anomgan): fit it "
            "again, with calibration 'split'"
        )
    seed = int(fitted.facts["seed"])
    distilled = distil(fitted.score, held_out, seed=seed, n_steps=n_steps, progress=progress)
    calibrator = _calibrated(fitted.calibrator, distilled.scores, held_out)
    student = replace(fitted, score=distilled.score, calibrator=calibrator)
    facts = {name: round(value, 6) for name, value in distilled.facts.items()}
    more = {"anomgan.fast": json.dumps(facts, sort_keys=True)}
    model, parity, _ = export_scorer(student, created_at=created_at, more=more)
    return model, parity, distilled.facts


def export_half(
    fitted: FittedModel, *, created_at: str
) -> tuple[bytes, Parity, Mapping[str, float]]:
    """Build the scoring graph with networks in float16, for GPUs, and measure what that changes.

    Parameters
    ----------
    fitted : FittedModel
    created_at : str

    Returns
    -------
    tuple of bytes, Parity, mapping
        The model; the agreement with torch, rounded as a GPU rounds; and how near the scores stay
        (`anomgan.export.half_loss.HalfLoss`), which the metadata hold as ``anomgan.fp16``.

    Raises
    ------
    UsageError
        The score is none of the default detector, or float16 cannot hold its networks' numbers.
    ExportError
        The graph disagrees with torch by more than float16 explains.
    """
    if not isinstance(fitted.score, FrozenScore):
        raise UsageError(
            f"only the default detector is exported in fp16: the networks of "
            f"{fitted.parameters.name!r} see rows however far out they are, and float16 ends at "
            "65504; export it with --precision fp32"
        )
    loss = measure_half(fitted.score, int(fitted.facts["seed"]))
    found = loss.left_out
    facts = {
        "rank_correlation": found.rank_correlation,
        "auroc_fp32": found.auroc,
        "auroc_fp16": found.other_auroc,
        "p99_relative": found.p99_relative,
        "max_relative": found.max_relative,
        "far_relative": loss.far_relative,
    }
    rounded = {name: float(f"{value:.6g}") for name, value in facts.items()}
    more = {"anomgan.fp16": json.dumps(rounded, sort_keys=True)}
    model, parity, _ = export_scorer(fitted, created_at=created_at, more=more, precision=FP16)
    return model, parity, facts


def _calibrated(
    known: AnyCalibrator, scores: NDArray[np.float32], held_out: HeldOut
) -> AnyCalibrator:
    """Calibrate other scores of the held-out rows as these were: same rate, same groups."""
    pooled = Calibrator.fit(scores, false_alarm_rate=known.false_alarm_rate)
    if not isinstance(known, GroupedCalibrator) or held_out.groups is None:
        return pooled
    return GroupedCalibrator.fit(known.by, scores, held_out.groups, pooled) or pooled


def _compared(
    model: bytes, fitted: FittedModel, rows: Rows, precision: Precision
) -> tuple[Parity, dict[str, NDArray[Any]]]:
    """Run the graph; compare its scores with torch, and its p-values with the calibrator."""
    outputs = run_scorer(model, rows, precision)
    parity = check_parity(outputs, fitted.score, fitted.encoder, rows, precision)
    groups = fitted.groups(rows)
    check_p_values(outputs, row_p_values(fitted.calibrator, outputs["score"], groups))
    return parity, outputs


def save_fitted(
    fitted: FittedModel, path: str | os.PathLike[str], *, overwrite: bool, source: str
) -> Bundle:
    """Export, check, and write the model directory, complete or not at all.

    Parameters
    ----------
    fitted : FittedModel
    path : path-like
    overwrite : bool
    source : str
        Name of the training table, for the manifest.

    Raises
    ------
    ExportError
        The graph disagrees with torch.
    ModelExistsError, OutputError
        See `anomgan.bundle.Bundle.save`.
    """
    manifest = Manifest(schema=fitted.schema.to_dict())
    model, parity, outputs = export_scorer(fitted, created_at=manifest.created_at)
    manifest = replace(
        manifest,
        parameters={"detector": fitted.parameters.name, **fitted.parameters.to_dict()},
        training={
            **fitted.facts,
            "source": source,
            "notes": list(fitted.notes),
            "parity": parity.to_dict(),
            "history": fitted.record.history,
        },
        health=fitted.health.to_dict(),
        calibration=fitted.calibrator.summary(),
    )
    probe = {
        "numeric": fitted.probe.numeric,
        "categorical": fitted.probe.categorical.astype(np.str_),
        "score": outputs["score"],
        "p_value": outputs["p_value"],
    }
    scoring = {
        "encoder": fitted.encoder.to_dict(),
        "settings": fitted.score.settings_dict(),
    }
    if fitted.held_out is not None and fitted.held_out.groups is not None:
        scoring["held_out_groups"] = fitted.held_out.groups.tolist()
    tensors = {_SCORE + k: v for k, v in fitted.score.tensors().items()}
    tensors |= {_NETWORKS + k: v.contiguous() for k, v in fitted.networks.items()}
    files: dict[str, bytes | Path] = {
        "scorer.onnx": model,
        "weights.safetensors": save_tensors(tensors),
        "scoring.json": json.dumps(scoring, allow_nan=False).encode(),
        "calibration.npz": _npz(fitted.calibrator.arrays()),
        "probe.npz": _npz(probe),
    }
    if fitted.profile is not None:
        files[_PROFILE_FILE] = json.dumps(fitted.profile.to_dict(), allow_nan=False).encode()
    if fitted.held_out is not None:
        files[_HELD_OUT_FILE] = save_tensors(_held_out_tensors(fitted.held_out))
    return Bundle.save(path, files=files, manifest=manifest, overwrite=overwrite)


def load_fitted(path: str | os.PathLike[str]) -> FittedModel:
    """Rebuild a fitted model from its directory, checksums verified.

    Raises
    ------
    ModelNotFoundError, ModelCorruptError
        Nothing there, damaged, or of a format whose weights mean something else.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if manifest.format_version < _OLDEST_TORCH_FORMAT:
        raise ModelCorruptError(
            f"{path} has format {manifest.format_version}, of an earlier anomgan with another "
            "score: Scorer and `anomgan score` still read it; to load it here, fit it again"
        )
    try:
        schema = Schema.from_dict(manifest.schema)
        scoring = bundle.json("scoring.json")
        encoder = FeatureEncoder.from_dict(scoring["encoder"])
        encoder.require_schema(schema)
        tensors = load_tensors(bundle.read("weights.safetensors"))
        parameters = _parameters(manifest.parameters)
        score = _score(parameters, _part(tensors, _SCORE), encoder.n_columns, scoring["settings"])
        probe = bundle.arrays("probe.npz")
        rows = _probe_rows(probe, schema)
        health, facts = manifest.health, dict(manifest.training)
        facts["seed"] = int(facts["seed"])
        return FittedModel(
            schema=schema,
            encoder=encoder,
            score=score,
            calibrator=_calibrator(bundle, schema),
            networks=_part(tensors, _NETWORKS),
            parameters=parameters,
            health=Health(health["verdict"], tuple(health["reasons"]), health.get("facts", {})),
            record=TrainingRecord(history=list(manifest.training.get("history", []))),
            facts={k: v for k, v in facts.items() if k not in _RECORDED},
            notes=tuple(manifest.training.get("notes", ())),
            probe=rows,
            check=rows,
            profile=_profile(bundle),
            held_out=_held_out(
                bundle, encoder, scoring.get("held_out_groups"), len(score.tensors()["memory_rows"])
            ),
        )
    except ModelCorruptError as error:
        if str(path) in str(error):
            raise
        raise ModelCorruptError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise ModelCorruptError(f"{path} is damaged: {error}; fit the model again") from error


_OLDEST_TORCH_FORMAT = 2
_DAMAGE = (
    *(AnomganError, SafetensorError, LookupError, TypeError, ValueError),
    *(AttributeError, OverflowError, RuntimeError),  # torch raises these of odd tensors
)
_PROFILE_FILE = "profile.json"
_HELD_OUT_FILE = "held-out.safetensors"
_RECORDED = ("source", "notes", "parity", "history")


def _probe_rows(probe: Mapping[str, NDArray[Any]], schema: Schema) -> Rows:
    numeric, categorical = probe["numeric"], probe["categorical"]
    n = len(numeric)
    fits = numeric.shape == (n, len(schema.numeric_names)) and numeric.dtype == np.float64
    texts = categorical.shape == (n, len(schema.categorical_names))
    if not (fits and texts and categorical.dtype.kind == "U"):
        raise ModelCorruptError("the probe rows are not of this model")
    return Rows(numeric, categorical.astype(object), None, 1)


def _parameters(stored: Mapping[str, Any]) -> FlagshipParameters | Detector:
    """Rebuild the parameters, of the class that the manifest names."""
    named = {k: v for k, v in stored.items() if k != "detector"}
    name = stored["detector"]
    if name == FlagshipParameters.name:
        return FlagshipParameters(**named)
    if name not in DETECTORS:
        raise ModelCorruptError(
            f"the model is of the detector {name!r}, which this anomgan does not know: Scorer and "
            "`anomgan score` read it all the same"
        )
    return DETECTORS[name](**named)


def _score(
    parameters: FlagshipParameters | Detector,
    tensors: Mapping[str, Tensor],
    n_columns: int,
    settings: Mapping[str, Any],
) -> RowScore:
    if isinstance(parameters, FlagshipParameters):
        read = ScoreSettings.from_dict(settings)
        return FrozenScore.from_tensors(tensors, n_columns=n_columns, settings=read)
    return ProgramScore.from_tensors(
        tensors, formula=parameters, n_columns=n_columns, settings=settings
    )


def _calibrator(bundle: Bundle, schema: Schema) -> AnyCalibrator:
    calibrator = calibrator_from_arrays(bundle.arrays("calibration.npz"))
    by = getattr(calibrator, "by", None)
    if by is not None and by not in schema.categorical_names:
        raise ModelCorruptError(
            f"{bundle.file('calibration.npz')} is calibrated by {by!r}, which is no column of "
            "categories of the model; fit the model again"
        )
    return calibrator


def _profile(bundle: Bundle) -> Profile | None:
    if _PROFILE_FILE not in bundle.names:
        return None
    return Profile.from_dict(bundle.json(_PROFILE_FILE))


def _held_out_tensors(held_out: HeldOut) -> dict[str, Tensor]:
    tensors = {
        "features": held_out.features,
        "surprise": held_out.surprise,
        "own": held_out.own,
    }
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _held_out(bundle: Bundle, encoder: FeatureEncoder, groups: Any, n_known: int) -> HeldOut | None:
    """Read the rows that calibrated; None in models of an earlier anomgan, and with folds."""
    if _HELD_OUT_FILE not in bundle.names:
        return None
    tensors = load_tensors(bundle.read(_HELD_OUT_FILE))
    features, surprise, own = (tensors[name] for name in ("features", "surprise", "own"))
    n = len(features)
    fits = features.shape == (n, encoder.n_features) and surprise.shape == (n, encoder.n_columns)
    fits = fits and own.shape == (n,) and n > 0 and (groups is None or len(groups) == n)
    plain = features.dtype == surprise.dtype == torch.float32 and own.dtype == torch.int64
    if not (fits and plain and bool(torch.isfinite(features).all())) or not bool(
        ((own >= -1) & (own < n_known)).all()
    ):
        raise ModelCorruptError(f"the rows of {_HELD_OUT_FILE} are not of this model")
    named = None if groups is None else np.array([str(name) for name in groups], dtype=object)
    return HeldOut(features, surprise, own, named)


def _part(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
