"""Generators with a planted truth: which rows are anomalous, and which columns make them so.

Every generator is a function of its arguments and its seed alone. Rows come in random order, so
that half of them are as good as the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomgan.errors import DatasetError

__all__ = ["Synthetic", "gaussian_blocks", "gaussian_grid", "gaussian_ring", "machine_log"]

_RING_MODES = 8
_GRID_SIDE = 5


@dataclass(frozen=True)
class Synthetic:
    """Generated rows and the truth about them.

    Parameters
    ----------
    X : pandas.DataFrame [n, d]
        The rows.
    y : int8 [n]
        1 = anomaly.
    guilty : bool [n, d]
        True where a column makes its row anomalous: with other values in these columns alone the
        row would be a normal one. A normal row has none.
    modes : float64 [k, d], optional
        Centres of the modes of the normal rows, where all of them are known points.
    spread : float, optional
        Standard deviation around a mode, in each coordinate.
    """

    X: pd.DataFrame
    y: NDArray[np.int8]
    guilty: NDArray[np.bool_]
    modes: NDArray[np.float64] | None = None
    spread: float | None = None


def gaussian_ring(
    n_normal: int = 2000, n_anomalies: int = 100, *, spread: float = 0.05, seed: int = 0
) -> Synthetic:
    """Draw 8 round Gaussians on the unit circle.

    Anomalies lie around the centre of the ring, or half-way between two neighbouring modes; both
    columns are guilty. None lies within 5 spreads of a mode.

    Parameters
    ----------
    n_normal, n_anomalies : int
        Rows of each kind.
    spread : float
        Standard deviation of a mode; at most 0.07, beyond it the modes touch.
    seed : int
        Seed of every draw.

    Raises
    ------
    DatasetError
        When a count is negative, no row is asked for, or the spread is out of range.
    """
    rng = _generator(n_normal, n_anomalies, seed)
    _check_spread(spread, 0.07)
    angles = 2 * np.pi * np.arange(_RING_MODES) / _RING_MODES
    modes = np.column_stack([np.cos(angles), np.sin(angles)])  # [8, 2]
    normal = modes[rng.integers(_RING_MODES, size=n_normal)]
    normal = normal + spread * rng.standard_normal((n_normal, 2))
    gaps = angles + np.pi / _RING_MODES
    between = np.column_stack([np.cos(gaps), np.sin(gaps)]) * np.cos(np.pi / _RING_MODES)
    places = np.concatenate([between, np.zeros((_RING_MODES, 2))])  # [16, 2], half of them central
    planted = places[rng.integers(len(places), size=n_anomalies)]
    # Uniform in a small disc: a Gaussian's tail could reach a mode and falsify the label.
    radius = 0.02 * np.sqrt(rng.random((n_anomalies, 1)))
    turn = 2 * np.pi * rng.random(n_anomalies)
    planted = planted + radius * np.column_stack([np.cos(turn), np.sin(turn)])
    guilty = np.ones((n_anomalies, 2), dtype=bool)
    return _shuffled(rng, _plane(normal), _plane(planted), guilty, modes=modes, spread=spread)


def gaussian_grid(
    n_normal: int = 2500, n_anomalies: int = 100, *, spread: float = 0.05, seed: int = 0
) -> Synthetic:
    """Draw 25 round Gaussians on the grid {-2, -1, 0, 1, 2} x {-2, -1, 0, 1, 2}.

    An anomaly lies half-way between grid lines in one coordinate (that column is guilty, the other
    is as in a normal row) or in both. Each single column of it lies within the range of the normal
    rows.

    Parameters
    ----------
    n_normal, n_anomalies : int
        Rows of each kind.
    spread : float
        Standard deviation of a mode; at most 0.09, beyond it the modes touch.
    seed : int
        Seed of every draw.

    Raises
    ------
    DatasetError
        When a count is negative, no row is asked for, or the spread is out of range.
    """
    rng = _generator(n_normal, n_anomalies, seed)
    _check_spread(spread, 0.09)
    lines = np.arange(_GRID_SIDE, dtype=np.float64) - _GRID_SIDE // 2
    modes = np.stack(np.meshgrid(lines, lines), axis=-1).reshape(-1, 2)  # [25, 2]
    normal = modes[rng.integers(len(modes), size=n_normal)]
    normal = normal + spread * rng.standard_normal((n_normal, 2))
    on_grid = modes[rng.integers(len(modes), size=n_anomalies)]
    on_grid = on_grid + spread * rng.standard_normal((n_anomalies, 2))
    off_grid = rng.integers(-2, 2, size=(n_anomalies, 2)) + rng.uniform(
        0.45, 0.55, (n_anomalies, 2)
    )
    kinds = np.array([[True, False], [False, True], [True, True]])
    guilty = kinds[rng.integers(len(kinds), size=n_anomalies)]
    planted = np.where(guilty, off_grid, on_grid)
    return _shuffled(rng, _plane(normal), _plane(planted), guilty, modes=modes, spread=spread)


def gaussian_blocks(
    n_normal: int = 2000,
    n_anomalies: int = 100,
    *,
    n_blocks: int = 3,
    block_width: int = 5,
    n_components: int = 4,
    seed: int = 0,
) -> Synthetic:
    """Draw a mixture of Gaussians whose columns are correlated within blocks.

    In every component each column of a block is a loading of +1 or -1 times the block's hidden
    factor, plus noise of a tenth of it. An anomaly is a normal row with one or two guilty columns
    in one block: half of them are turned against their factor (a value that is ordinary for the
    column and wrong beside its neighbours), the other half lie 8 to 12 standard deviations of the
    component away.

    Parameters
    ----------
    n_normal, n_anomalies : int
        Rows of each kind.
    n_blocks, block_width : int
        Number of blocks, and columns in each (at least 3, so that the guilty ones are a minority).
    n_components : int
        Gaussians in the mixture.
    seed : int
        Seed of every draw, the loadings and centres included.

    Raises
    ------
    DatasetError
        When a count is negative, no row is asked for, or a size is too small.
    """
    rng = _generator(n_normal, n_anomalies, seed)
    if n_blocks < 1 or n_components < 1 or block_width < 3:
        raise DatasetError(
            f"n_blocks={n_blocks}, n_components={n_components}, block_width={block_width}: "
            "at least 1, 1 and 3 are needed"
        )
    width = n_blocks * block_width
    loadings = rng.choice([-1.0, 1.0], size=(n_components, n_blocks, block_width))
    centres = rng.uniform(-5.0, 5.0, size=(n_components, n_blocks, block_width))
    n_rows = n_normal + n_anomalies
    component = rng.integers(n_components, size=n_rows)
    factor = rng.standard_normal((n_rows, n_blocks, 1))
    signal = loadings[component] * factor  # [n, blocks, width]
    noise = 0.1 * rng.standard_normal(signal.shape)
    guilty = np.zeros(signal.shape, dtype=bool)
    for row in range(n_normal, n_rows):
        # Fewer than half of the block: the others say what the guilty ones should be.
        n_guilty = rng.integers(1, min(2, (block_width - 1) // 2) + 1)
        columns = rng.choice(block_width, size=n_guilty, replace=False)
        block = rng.integers(n_blocks)
        guilty[row, block, columns] = True
        if rng.random() < 0.5:
            # A factor near 0 would make the turned value an ordinary one: keep it away from 0.
            hidden = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 2.0)
            signal[row, block] = loadings[component[row], block] * hidden
            signal[row, block, columns] *= -1.0
        else:
            signal[row, block, columns] = rng.choice([-1.0, 1.0]) * rng.uniform(
                8.0, 12.0, size=len(columns)
            )
    values = (centres[component] + signal + noise).reshape(n_rows, width)
    frame = pd.DataFrame(
        values, columns=[f"b{b}_{c}" for b in range(n_blocks) for c in range(block_width)]
    )
    guilty_rows = guilty.reshape(n_rows, width)[n_normal:]
    return _shuffled(rng, frame.iloc[:n_normal], frame.iloc[n_normal:], guilty_rows)


def machine_log(
    n_normal: int = 2000, n_anomalies: int = 100, *, missing_rate: float = 0.02, seed: int = 0
) -> Synthetic:
    """Draw a log of machines: numbers, text, truth values, times, an identifier and gaps.

    Columns: `record_id` (text, all distinct), `time` (datetime64, one minute apart), `machine` and
    `mode` (text), `door_open` (bool), `speed_rpm`, `load_pct`, `power_kw`, `temperature_c`,
    `vibration_mm_s` (float64). Normal rows: the mode sets speed and load, power follows speed
    times load, temperature follows power, vibration follows speed, and the door is open only when
    idle. Anomalies, in equal shares: power that speed and load do not explain; a hot machine;
    vibration of a worn bearing; a door open at speed; a mode never seen in normal rows.

    Parameters
    ----------
    n_normal, n_anomalies : int
        Rows of each kind.
    missing_rate : float
        Share of sensor cells (and of `machine`) that are missing, 0 to 0.5; a guilty cell never is.
    seed : int
        Seed of every draw.

    Raises
    ------
    DatasetError
        When a count is negative, no row is asked for, or the rate is out of range.
    """
    rng = _generator(n_normal, n_anomalies, seed)
    if not 0.0 <= missing_rate <= 0.5:
        raise DatasetError(f"missing_rate={missing_rate}: expected 0 to 0.5")
    n_rows = n_normal + n_anomalies
    frame = _healthy_machines(rng, n_rows)
    guilty = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    _break_machines(rng, frame, guilty, first=n_normal)
    for column in ("machine", "speed_rpm", "load_pct", "power_kw", "temperature_c"):
        lost = (rng.random(n_rows) < missing_rate) & ~guilty[column].to_numpy()
        frame.loc[lost, column] = None if column == "machine" else np.nan
    planted = guilty.to_numpy(dtype=bool)[n_normal:]
    made = _shuffled(rng, frame.iloc[:n_normal], frame.iloc[n_normal:], planted)
    # Written after the shuffle: a log has its times and record numbers in order.
    made.X["record_id"] = [f"R{row:06d}" for row in range(n_rows)]
    made.X["time"] = pd.date_range("2024-03-01", periods=n_rows, freq="min", unit="s")
    return made


def _healthy_machines(rng: np.random.Generator, n_rows: int) -> pd.DataFrame:
    modes = np.array(["idle", "cutting", "drilling", "polishing"])
    mode = rng.choice(len(modes), size=n_rows, p=[0.2, 0.4, 0.25, 0.15])
    speed = np.array([300.0, 1800.0, 1200.0, 3000.0])[mode] * rng.normal(1.0, 0.04, n_rows)
    load = np.array([5.0, 70.0, 85.0, 30.0])[mode] * rng.normal(1.0, 0.08, n_rows)
    power = 0.5 + speed * load / 12_000.0 + rng.normal(0.0, 0.15, n_rows)
    temperature = 24.0 + 2.2 * power + rng.normal(0.0, 1.0, n_rows)
    vibration = 0.4 + speed / 1_500.0 * rng.lognormal(0.0, 0.08, n_rows)
    door_open = (mode == 0) & (rng.random(n_rows) < 0.5)
    return pd.DataFrame(
        {
            "record_id": [""] * n_rows,
            "time": pd.Timestamp("2024-03-01"),
            "machine": rng.choice(["M-01", "M-02", "M-07"], size=n_rows),
            "mode": modes[mode],
            "door_open": door_open,
            "speed_rpm": speed.round(0),
            "load_pct": load.round(1),
            "power_kw": power.round(2),
            "temperature_c": temperature.round(1),
            "vibration_mm_s": vibration.round(2),
        }
    )


def _break_machines(
    rng: np.random.Generator, frame: pd.DataFrame, guilty: pd.DataFrame, first: int
) -> None:
    """Plant a fault in every row from `first` on, in place, and mark the guilty columns."""
    rows = np.arange(first, len(frame))
    faults = np.arange(len(rows)) % 5
    power, hot, worn, opened, unseen = (rows[faults == fault] for fault in range(5))

    # Five or more of the normal spread around what the other columns say (see _healthy_machines).
    frame.loc[power, "power_kw"] += rng.uniform(3.0, 6.0, len(power)).round(2)
    guilty.loc[power, "power_kw"] = True
    frame.loc[hot, "temperature_c"] += rng.uniform(10.0, 25.0, len(hot)).round(1)
    guilty.loc[hot, "temperature_c"] = True
    frame.loc[worn, "vibration_mm_s"] += rng.uniform(1.5, 4.0, len(worn)).round(2)
    guilty.loc[worn, "vibration_mm_s"] = True
    busy = _healthy_machines(rng, 8 * len(opened) + 8)
    busy = busy[busy["mode"] != "idle"].iloc[: len(opened)]
    frame.loc[opened, busy.columns] = busy.to_numpy(dtype=object)
    frame.loc[opened, "door_open"] = True
    guilty.loc[opened, "door_open"] = True
    frame.loc[unseen, "mode"] = "welding"
    guilty.loc[unseen, "mode"] = True


def _generator(n_normal: int, n_anomalies: int, seed: int) -> np.random.Generator:
    if n_normal < 0 or n_anomalies < 0 or n_normal + n_anomalies == 0:
        raise DatasetError(
            f"n_normal={n_normal}, n_anomalies={n_anomalies}: expected counts from 0, "
            "at least one row in all"
        )
    return np.random.default_rng(seed)


def _check_spread(spread: float, largest: float) -> None:
    if not 0.0 < spread <= largest:
        raise DatasetError(f"spread={spread}: expected more than 0 and at most {largest}")


def _plane(points: NDArray[np.float64]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["x", "y"])


def _shuffled(
    rng: np.random.Generator,
    normal: pd.DataFrame,
    planted: pd.DataFrame,
    guilty: NDArray[np.bool_],
    *,
    modes: NDArray[np.float64] | None = None,
    spread: float | None = None,
) -> Synthetic:
    order = rng.permutation(len(normal) + len(planted))
    frame = pd.concat([normal, planted], ignore_index=True)
    blame = np.concatenate([np.zeros((len(normal), frame.shape[1]), dtype=bool), guilty])[order]
    return Synthetic(
        X=frame.iloc[order].reset_index(drop=True),
        y=np.asarray(blame.any(axis=1), dtype=np.int8),
        guilty=blame,
        modes=modes,
        spread=spread,
    )
