"""`fit`, a straight walk: rows -> split -> encode -> train -> freeze -> calibrate -> judge.

The networks never learn from the calibration rows, and the calibrator never sees a network. What
these rows may do is to have a network replaced that went wrong (`anomgan.training.selection`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan import flagship, published
from anomgan.calibration import LEAST_FOR_TAIL, Calibrator, require_rate
from anomgan.detectors.base import Detector
from anomgan.errors import TableError, UsageError
from anomgan.groups import AnyCalibrator, GroupedCalibrator, calibrate_groups, row_groups
from anomgan.learning import Apart, FitControl, HeldOut, Learnt, choose_device
from anomgan.nets.threads import one_thread
from anomgan.presets import FlagshipParameters
from anomgan.scoring.attribution import EXPLAINED_QUANTILE
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.program import RowScore
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.faults import quoted_names
from anomgan.tables.profile import Profile
from anomgan.tables.schema import Rows, Schema
from anomgan.training.folds import Division
from anomgan.training.health import Health
from anomgan.training.loop import TrainingRecord

__all__ = ["MIN_ROWS", "FitControl", "FittedModel", "fit_rows", "take"]

MIN_ROWS = 4
"""Fewest normal rows that can be split, trained on and calibrated with."""
MAX_EXPLAINED = 2_000
"""Most columns of the flagship, whose graph looks at each of them by itself to explain a row: the
time that onnxruntime takes to open it grows with their square."""
DEFAULT_RATE = 0.01
_CHECK_ROWS = 1000
_PROBE_TEXT_BYTES = 2**26
"""Most that the texts of the probe rows take in a model, a quarter of what is read again."""


@dataclass(frozen=True)
class FittedModel:
    """Everything that a fit gives.

    `probe` are the few rows stored with the model, broken ones among them; `check` are real and
    mixed rows on which an export is compared with torch. `profile` is what new rows as a whole are
    compared with; models of an earlier anomgan have none. `held_out` are the rows that calibrated,
    of models that held them out of everything.
    """

    schema: Schema
    encoder: FeatureEncoder
    score: RowScore
    calibrator: AnyCalibrator
    networks: dict[str, Tensor]
    parameters: FlagshipParameters | Detector
    health: Health
    record: TrainingRecord
    facts: dict[str, Any]
    notes: tuple[str, ...]
    probe: Rows
    check: Rows
    profile: Profile | None
    held_out: HeldOut | None = None

    def scores(self, rows: Rows) -> NDArray[np.float32]:
        """Score [n] of checked rows, by torch."""
        encoded = self.encoder.transform(rows)
        features, surprise = torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise)
        return self.score.scores(features, surprise).numpy()

    def score_rows(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score [n] and contributions [n, n_columns + 1] of checked rows, by torch."""
        encoded = self.encoder.transform(rows)
        scored = self.score(torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise))
        return scored.score.numpy(), scored.contributions.numpy()

    def groups(self, rows: Rows) -> NDArray[Any] | None:
        """Group of each checked row, object [n]; None where the calibration knows no groups."""
        return row_groups(self.calibrator, self.schema, rows)


def take(rows: Rows, index: NDArray[np.int64]) -> Rows:
    """Return the rows at `index`, without ids."""
    return Rows(rows.numeric[index], rows.categorical[index], None, rows.first_row)


def fit_rows(
    schema: Schema,
    rows: Rows,
    parameters: FlagshipParameters | Detector,
    *,
    seed: int,
    false_alarm_rate: float | None,
    control: FitControl,
    calibrate_by: str | None = None,
) -> FittedModel:
    """Fit a detector on checked rows of normal operation.

    Parameters
    ----------
    schema : Schema
    rows : Rows
        n normal rows.
    parameters : FlagshipParameters or Detector
        What is fitted: the flagship, or a detector of the literature.
    seed : int
        Source of every random draw; global generators are never used.
    false_alarm_rate : float or None
        None: 0.01, or the smallest rate that the calibration rows can resolve.
    control : FitControl
    calibrate_by : str, optional
        Categorical column of the schema; the rate holds within each of its groups that has rows
        enough.

    Raises
    ------
    TableError
        Fewer than `MIN_ROWS` rows; more than `MAX_EXPLAINED` columns for the flagship.
    UsageError
        The rate cannot be kept with so few rows; the device is not there.
    TrainingError
        No usable model came out.
    """
    started = control.started if control.started is not None else time.monotonic()
    n = _enough(len(rows.numeric))
    _narrow_enough(schema, parameters)
    device = choose_device(control.device)
    rng = np.random.default_rng(seed)
    groups = None if calibrate_by is None else _group_column(schema, rows, calibrate_by)
    division = _divide(n, parameters, rng, groups)
    if false_alarm_rate is not None:
        # What cannot be kept whatever the scores turn out to be is told before training.
        v = len(division.calibrating)
        require_rate(false_alarm_rate, n=v, has_tail=v >= LEAST_FOR_TAIL)
    encoder = _encoder(schema, take(rows, division.trained))
    features = torch.from_numpy(encoder.transform(rows).features)
    apart = _apart(encoder, rows, division)
    with one_thread():
        learnt = _learn(
            features,
            encoder,
            division,
            apart,
            parameters,
            schema,
            seed=seed,
            device=device,
            control=control,
            started=started,
            rng=rng,
        )
    own = None if groups is None else groups[division.calibrating]
    calibrator, notes = _calibrate(
        learnt.scores.numpy(), false_alarm_rate, calibrate_by, groups, own
    )
    return FittedModel(
        schema=schema,
        encoder=encoder,
        score=_explaining(learnt.score, calibrator),
        calibrator=calibrator,
        networks=learnt.networks,
        parameters=learnt.parameters,
        health=learnt.health,
        record=learnt.record,
        facts=_facts(learnt, division, encoder, device, seed, started),
        notes=(*notes, *_unused_columns(encoder)),
        probe=_probe_rows(rows, division),
        check=_check_rows(rows, rng),
        # A generator of its own, so that what else is drawn stays what it was.
        profile=Profile.fit(schema, rows, calibrator.scores, np.random.default_rng([seed, 2])),
        held_out=_held_out(division, apart, learnt, own),
    )


def _held_out(
    division: Division, apart: Apart, learnt: Learnt, groups: NDArray[Any] | None
) -> HeldOut | None:
    """Keep the rows that calibrate, where nothing else was learnt from them."""
    if division.fold is not None:
        return None
    return HeldOut(apart.features, apart.surprise, learnt.position, groups)


def _enough(n: int) -> int:
    if n < MIN_ROWS:
        raise TableError(
            f"{n} row{'s' * (n != 1)} cannot be learnt from: at least {MIN_ROWS} normal rows are "
            "needed, and a few hundred for a threshold that can be trusted"
        )
    return n


def _narrow_enough(schema: Schema, parameters: FlagshipParameters | Detector) -> None:
    n_columns = len(schema.columns)
    if isinstance(parameters, FlagshipParameters) and n_columns > MAX_EXPLAINED:
        raise TableError(
            f"{n_columns:,} columns are too many for the detector anomgan, which looks at each of "
            f"at most {MAX_EXPLAINED:,} by itself: leave columns out with --drop, or use a "
            "detector that does not, such as --detector so-gaal"
        )


def _encoder(schema: Schema, rows: Rows) -> FeatureEncoder:
    encoder = FeatureEncoder.fit(schema, rows)
    if not encoder.n_features:
        raise TableError(
            "no column gives a feature: date columns are read by time of day, day of week and "
            "season, and need at least two full periods of one; add other columns"
        )
    return encoder


def _unused_columns(encoder: FeatureEncoder) -> tuple[str, ...]:
    return tuple(
        f"column {c!r} gives no feature: it holds no two full days, weeks or years"
        for c in encoder.unused
    )


def _explaining(score: RowScore, calibrator: AnyCalibrator) -> RowScore:
    """Tell the flagship's score from where on rows are explained by all views; others have one."""
    if isinstance(score, FrozenScore):
        return score.explaining_from(_explained_from(calibrator))
    return score


def _explained_from(calibrator: AnyCalibrator) -> float:
    """Score from which rows are explained: a quiet group stands out from lower scores on.

    All rows flagged at the rate of the fit are, and as many that are nearly flagged.
    """
    groups = calibrator.groups.values() if isinstance(calibrator, GroupedCalibrator) else ()
    scores = [calibrator.scores, *(own.scores for own in groups)]
    quantile = min(EXPLAINED_QUANTILE, max(0.0, 1.0 - 2.0 * calibrator.false_alarm_rate))
    return min(float(np.quantile(s.astype(np.float64), quantile)) for s in scores)


def calibrate(
    scores: NDArray[np.float32], false_alarm_rate: float | None
) -> tuple[Calibrator, tuple[str, ...]]:
    """Calibrate; an open rate becomes the default, or what so few rows can resolve."""
    if false_alarm_rate is not None:
        return Calibrator.fit(scores, false_alarm_rate=false_alarm_rate), ()
    resolution = 1.0 / (len(scores) + 1)
    if resolution <= DEFAULT_RATE:
        return Calibrator.fit(scores, false_alarm_rate=DEFAULT_RATE), ()
    trial = Calibrator.fit(scores, false_alarm_rate=resolution)
    if trial.tail is not None:
        return Calibrator.fit(scores, false_alarm_rate=DEFAULT_RATE), ()
    return trial, (
        f"{len(scores)} calibration rows cannot resolve a false-alarm rate of {DEFAULT_RATE}: "
        f"the model uses {resolution:.3g}; more normal rows give a finer one",
    )


def _calibrate(
    scores: NDArray[np.float32],
    false_alarm_rate: float | None,
    by: str | None,
    groups: NDArray[Any] | None,
    own: NDArray[Any] | None,
) -> tuple[AnyCalibrator, tuple[str, ...]]:
    """Calibrate on scores [v], and by group where `groups` [n], `own` [v] of them, are given."""
    pooled, notes = calibrate(scores, false_alarm_rate)
    if by is None or groups is None or own is None:
        return pooled, notes
    calibrator, more = calibrate_groups(by, scores, own, groups, pooled)
    return calibrator, (*notes, *more)


def _divide(
    n: int,
    parameters: FlagshipParameters | Detector,
    rng: np.random.Generator,
    groups: NDArray[Any] | None,
) -> Division:
    """Choose the rows that calibrate, and who may not see them."""
    if parameters.calibration == "split":
        held_out = _split(n, parameters.max_calibration_rows, rng, groups)[1]
        return Division(n, parameters.members, held_out)
    calibrating, fold = _folds(n, parameters.members, parameters.max_calibration_rows, rng, groups)
    return Division(n, parameters.members, calibrating, fold)


def _folds(
    n: int,
    n_folds: int,
    max_calibration: int,
    rng: np.random.Generator,
    groups: NDArray[Any] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that calibrate, all or `max_calibration` of them, and the fold of each.

    Folds are equal to within a row, and so is what each of `groups` [n] gives to them.
    """
    order = rng.permutation(n)
    n_calibrating = min(n, max_calibration)
    if groups is not None:
        order = _evenly(order, groups, n_calibrating, rng.random())
    calibrating = order[:n_calibrating]  # at random, and within groups if there are any
    place = np.argsort(calibrating)
    return calibrating[place], place % n_folds


def _apart(encoder: FeatureEncoder, rows: Rows, division: Division) -> Apart:
    """Encode the calibrating rows like new ones, each fold as the others know it."""
    if division.fold is None:
        encoded = encoder.transform(take(rows, division.calibrating))
        return Apart(torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise))
    everything, v = np.arange(division.n_rows), len(division.calibrating)
    features = torch.empty(v, encoder.n_features)
    surprise = torch.empty(v, encoder.n_columns)
    for k in range(division.n_members):
        own = division.left_out(k)
        others = take(rows, np.setdiff1d(everything, own))
        encoded = encoder.transform_apart(take(rows, own), others)
        place = torch.from_numpy(division.unseen_by(k))
        features[place] = torch.from_numpy(encoded.features)
        surprise[place] = torch.from_numpy(encoded.surprise)
    return Apart(features, surprise)


def _split(
    n: int,
    max_calibration: int,
    rng: np.random.Generator,
    groups: NDArray[Any] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from, and rows held out for calibration.

    A fifth is held out; up to a hundred (the least that resolves 1 %) where that is no more
    than a quarter of the rows. With `groups` [n] each group gives its share, to within a row.
    """
    wanted = max(0.2 * n, min(100.0, 0.25 * n))
    n_held_out = max(1, min(int(wanted), max_calibration))
    order = rng.permutation(n)
    if groups is not None:
        # A generator of its own, so that what else is drawn stays what it was.
        order = _evenly(order, groups, n_held_out, rng.spawn(1)[0].random())
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def _evenly(
    order: NDArray[np.int64], groups: NDArray[Any], n_first: int, start: float
) -> NDArray[np.int64]:
    """Bring rows in random order to one whose first `n_first` are spread evenly over groups.

    Groups are laid end to end and rows taken at equal steps from a random start in [0, 1): a group
    gives its share rounded down or up, and every row has the same chance.
    """
    n = len(order)
    codes = np.unique(groups, return_inverse=True)[1]
    laid = order[np.argsort(codes[order], kind="stable")]
    first = ((np.arange(n_first) + start) * (n / n_first)).astype(np.int64)
    first = np.minimum(first, n - 1)  # rounding may lead one row too far
    return np.concatenate([laid[first], np.delete(laid, first)])


def _group_column(schema: Schema, rows: Rows, name: str) -> NDArray[Any]:
    """Texts of the column that tells the groups, object [n]."""
    if name not in schema.categorical_names:
        raise UsageError(
            f"to calibrate by {name!r}, the model must read it as categories; it reads "
            f"{quoted_names(schema.categorical_names) or 'no column'} so"
        )
    texts: NDArray[Any] = rows.categorical[:, schema.categorical_names.index(name)]
    return texts


def _learn(
    features: Tensor,
    encoder: FeatureEncoder,
    division: Division,
    apart: Apart,
    parameters: FlagshipParameters | Detector,
    schema: Schema,
    **how: Any,
) -> Learnt:
    if isinstance(parameters, FlagshipParameters):
        return flagship.learn(features, encoder, division, apart, parameters, **how)
    names = [column.name for column in schema.columns]
    return published.learn(features, encoder, division, apart, parameters, names=names, **how)


def _facts(
    learnt: Learnt,
    division: Division,
    encoder: FeatureEncoder,
    device: torch.device,
    seed: int,
    started: float,
) -> dict[str, Any]:
    record = learnt.record
    last = record.history[-1] if record.history else {}
    return {
        "n_rows": division.n_rows,
        "n_trained": len(division.trained),
        "n_calibration": len(division.calibrating),
        "calibration": learnt.parameters.calibration,
        "encoder": encoder.describe(),
        **learnt.facts,
        "device": str(device),
        "seed": seed,
        "steps": record.steps_run,
        "stopped_by_deadline": record.stopped_by_deadline,
        "rollbacks": record.n_rollbacks,
        "restarts": record.n_restarts,
        "weights_from_step": record.weights_from_step,
        "training_seconds": round(record.seconds, 3),
        "fit_seconds": round(time.monotonic() - started, 3),
        "losses": {k: v for k, v in last.items() if math.isfinite(v)},
    }


def _check_rows(rows: Rows, rng: np.random.Generator) -> Rows:
    """Real rows, and as many whose cells come from two rows: these stand in no memory."""
    n = len(rows.numeric)
    first, second = rng.integers(n, size=(2, min(n, _CHECK_ROWS)))
    real, other = take(rows, first), take(rows, second)
    numeric = np.where(rng.random(real.numeric.shape) < 0.5, real.numeric, other.numeric)
    coins = rng.random(real.categorical.shape) < 0.5
    categorical = np.where(coins, real.categorical, other.categorical)
    return Rows(
        np.concatenate([real.numeric, numeric]),
        np.concatenate([real.categorical, categorical]),
        None,
        1,
    )


def _probe_rows(rows: Rows, division: Division) -> Rows:
    """Rows that a Scorer scores when it opens the model: calibrating, other, and broken ones."""
    calibrating = division.calibrating[:24]
    others = np.setdiff1d(division.trained, calibrating)[:16]
    parts = [take(rows, calibrating), take(rows, others)]
    broken = take(rows, calibrating[:8])
    numeric, categorical = broken.numeric.copy(), broken.categorical.copy()
    for i in range(len(numeric)):
        # Far out, missing and never seen: the branches that ordinary rows do not take.
        if numeric.shape[1]:
            j = i % numeric.shape[1]
            numeric[i, j] = np.nan if i % 2 else 1e3 * min(1.0 + abs(numeric[i, j]), 1e300)
        if categorical.shape[1]:
            categorical[i, i % categorical.shape[1]] = "" if i % 2 else "\u2205 never seen"
    parts.append(Rows(numeric, categorical, None, 1))
    return Rows(
        np.concatenate([p.numeric for p in parts]),
        _cut(np.concatenate([p.categorical for p in parts])),
        None,
        1,
    )


def _cut(texts: NDArray[Any]) -> NDArray[Any]:
    """Cut texts, object [n, c], so that stored in cells of one width they stay within a bound.

    What is cut is no category any more, which both sides of the comparison score alike.
    """
    width = max(1, _PROBE_TEXT_BYTES // max(1, 4 * texts.size))  # 4 bytes a character
    if all(len(text) <= width for text in texts.flat):
        return texts
    cut = np.array([text[:width] for text in texts.flat], dtype=object)
    return cut.reshape(texts.shape)
