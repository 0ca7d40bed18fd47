"""The normal rows that a model keeps, and what a user would pick instead, learnt from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from anomgan.bundle import Bundle
from anomgan.errors import InputError, ModelCorruptError
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Rows, Schema

__all__ = ["BASELINES", "KnownRows", "Yardstick"]

BASELINES = {"iforest": "IsolationForest", "knn1": "1-NN distance"}
"""Methods that an evaluation stands beside ours, and how they are called."""

_MOST_COPIES = 50_000  # rows given to a baseline, repeated ones included
_MOST_SEEN = 2.0**40  # times that one row of a table was seen


@dataclass(frozen=True)
class KnownRows:
    """Distinct normal rows, as the model encodes them.

    Parameters
    ----------
    encoder : FeatureEncoder
    rows : float32 [a, d]
    counts : float32 [a]
        How many training rows each stands for.
    """

    encoder: FeatureEncoder
    rows: NDArray[np.float32]
    counts: NDArray[np.float32]

    @classmethod
    def of(cls, bundle: Bundle) -> KnownRows:
        """Read them from a model directory, checksums verified.

        Raises
        ------
        ModelCorruptError
            The directory lacks them, as those of format 1 do, or is damaged.
        """
        if not {"scoring.json", "weights.safetensors"} <= set(bundle.names):
            raise _no_rows(bundle, "it lacks scoring.json or weights.safetensors")
        try:
            state = bundle.json("scoring.json")
            tensors = load_arrays(bundle.read("weights.safetensors"))
            encoder = FeatureEncoder.from_dict(state["encoder"])
            encoder.require_schema(Schema.from_dict(bundle.manifest.schema))
            rows, counts = tensors["score.memory_rows"], tensors["score.memory_counts"]
            _require_known(encoder, rows, counts)
            return cls(encoder, rows, counts)
        except (SafetensorError, InputError, KeyError, TypeError, ValueError) as error:
            raise _no_rows(bundle, str(error)) from error

    def repeated(self) -> NDArray[np.float64]:
        """Return the rows as often as they were seen, [n, d]; thinned beyond 50 000."""
        ends = np.cumsum(self.counts.astype(np.int64))
        places = np.arange(ends[-1]) if ends[-1] <= _MOST_COPIES else _spread(int(ends[-1]))
        return self.rows.astype(np.float64)[np.searchsorted(ends, places, side="right")]


def _spread(n: int) -> NDArray[np.int64]:
    return np.linspace(0, n - 1, _MOST_COPIES).astype(np.int64)


def _require_known(encoder: FeatureEncoder, rows: NDArray[Any], counts: NDArray[Any]) -> None:
    """Raise ValueError unless these are rows of the encoder, and how often each was seen."""
    plain = rows.dtype == counts.dtype == np.float32 and 0 < len(rows) == counts.size
    if not plain or rows.shape != (len(rows), encoder.n_features) or counts.ndim != 1:
        raise ValueError(f"known rows of shape {list(rows.shape)}, counts {list(counts.shape)}")
    if not np.isfinite(rows).all() or not ((counts >= 1) & (counts < _MOST_SEEN)).all():
        raise ValueError("known rows are not finite, or seen less than once")


def _no_rows(bundle: Bundle, why: str) -> ModelCorruptError:
    return ModelCorruptError(
        f"{bundle.path} keeps no normal rows to compare with ({why}); fit the model again, or "
        "leave the baselines out (--no-baselines)"
    )


class Yardstick:
    """A baseline that learnt from the rows that the model keeps.

    Parameters
    ----------
    method : str
        Of `BASELINES`.
    known : KnownRows
    seed : int
    """

    def __init__(self, method: str, known: KnownRows, seed: int) -> None:
        from anomgan.evaluation.baselines import fit_numbers  # scikit-learn; not to read rows

        self._encoder = known.encoder
        rows = known.repeated() if method == "iforest" else known.rows.astype(np.float64)
        self._score: Callable[[NDArray[np.float64]], NDArray[np.float64]]
        self._score = fit_numbers(method, rows, seed)

    def score(self, rows: Rows) -> NDArray[np.float64]:
        """Score checked rows, float64 [n], larger for more abnormal ones."""
        if not len(rows.numeric):
            return np.empty(0)
        return self._score(self._encoder.transform(rows).features.astype(np.float64))
