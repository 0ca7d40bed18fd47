"""The generators of a fitted model, and how well they match the rows of a table.

The measures are those of `anomgan.evaluation.generator_quality`; here they get a model and a table
of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.detectors.base import Detector
from anomgan.errors import InputError, UsageError
from anomgan.evaluation.generator_quality import (
    Features,
    Generate,
    GeneratorQuality,
    judge_generator,
)
from anomgan.fitting import FittedModel
from anomgan.learning import FEWEST_JUDGED
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.program import ProgramScore, TorchArithmetic
from anomgan.tables.readers import TableReader

__all__ = ["IDEALS", "ModelQuality", "RowGenerators", "judge_on_rows", "row_generators"]

IDEALS: Final[Mapping[str, tuple[str, str]]] = {
    "frechet_distance": ("Frechet distance", "0"),
    "frechet_distance_features": ("Frechet distance in the discriminator's features", "0"),
    "sliced_wasserstein": ("sliced Wasserstein distance", "0"),
    "precision": ("precision", "1"),
    "recall": ("recall", "1"),
    "coverage": ("coverage", "1"),
    "two_sample_accuracy": ("two-sample accuracy", "0.5"),
    "inception_score": ("inception score", "that of the real rows"),
    "inception_score_real": ("inception score of the real rows", ""),
    "path_length": ("path length", "small, unless collapsed"),
    "path_length_features": ("path length in the discriminator's features", "small"),
}
"""What each measure of `GeneratorQuality` is called, and its ideal."""

_MOST_ROWS = 2000
"""Rows that judge: time and memory rise with their square, and precision hardly beyond."""


@dataclass(frozen=True)
class RowGenerators:
    """The frozen generators of a model, and the rows that it keeps.

    Attributes
    ----------
    rows : Tensor [a, d]
        Distinct normal rows, encoded.
    counts : Tensor [a]
        How many training rows each stands for.
    n_members : int
        m.
    latent_dim : int
        k.
    generate : callable
        Codes float32 [m, n, k] to encoded rows [m, n, d].
    encode : callable or None
        Rows [n, d] to codes [n, k], by the first member.
    features : callable or None
        Rows [m, n, d] to activations of the discriminator's last hidden layer [m, n, w].
    """

    rows: Tensor
    counts: Tensor
    n_members: int
    latent_dim: int
    generate: Generate
    encode: Callable[[Tensor], Tensor] | None
    features: Features | None


def row_generators(fitted: FittedModel, *, asked: str) -> RowGenerators:
    """Return what makes rows of a model from codes alone.

    Parameters
    ----------
    fitted : FittedModel
    asked : str
        What needs them, for the message.

    Raises
    ------
    UsageError
        The detector has no such generator.
    """
    score = fitted.score
    if isinstance(score, FrozenScore):
        return RowGenerators(
            score.memory_rows,
            score.memory_counts,
            score.n_members,
            score.generator.matrices[0].shape[1],
            score.generator,
            lambda rows: score.encoder.member(0)(rows.unsqueeze(0))[0],
            lambda rows: score.discriminator.activations(rows)[-2],
        )
    # An imputer is called a generator too, and gives as many values; it takes rows, not codes. And
    # one that makes rows in a way of its own needs more than a code.
    detector = fitted.parameters
    plain = (
        isinstance(detector, Detector)
        and detector.judged
        and type(detector).generate is Detector.generate
    )
    networks = score.networks if isinstance(score, ProgramScore) and plain else {}
    generator, encoder = networks.get("generator"), networks.get("encoder")
    d = len(score.feature_column)
    if not isinstance(score, ProgramScore) or generator is None or generator.widths[-1] != d:
        raise UsageError(
            f"{asked} is about what a generator makes of codes, and the detector "
            f"{fitted.parameters.name} keeps none that makes rows"
        )
    a, latent_dim = TorchArithmetic(), generator.widths[0]
    two_way = encoder is not None and (encoder.widths[0], encoder.widths[-1]) == (d, latent_dim)
    return RowGenerators(
        score.memory_rows,
        score.memory_counts,
        1,
        latent_dim,
        lambda codes: a.network(codes[0], generator)[-1].unsqueeze(0),
        (lambda rows: a.network(rows, encoder)[-1]) if two_way and encoder else None,
        None,
    )


@dataclass(frozen=True)
class ModelQuality:
    """A model's generators beside the rows of a table.

    Attributes
    ----------
    source : str
        Name of the table.
    n_rows : int
        Rows that it has.
    n_unreadable : int
        Rows among them that could not be read, and were left out.
    n_judged : int
        Rows of it that were drawn to judge by, without replacement.
    members : tuple of GeneratorQuality
        One a member of the ensemble.
    extra_columns : tuple of str
        Columns of the table that the model does not know.
    """

    source: str
    n_rows: int
    n_unreadable: int
    n_judged: int
    members: tuple[GeneratorQuality, ...]
    extra_columns: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "source": self.source,
            "n_rows": self.n_rows,
            "n_unreadable": self.n_unreadable,
            "n_judged": self.n_judged,
            "members": [member.to_dict() for member in self.members],
        }


def judge_on_rows(
    fitted: FittedModel,
    reader: TableReader,
    *,
    asked: str = "the quality of generators",
    on_bad_row: Literal["error", "skip"] = "error",
    most: int = _MOST_ROWS,
    seed: int = 0,
) -> ModelQuality:
    """Measure a model's generators against rows that it has not seen.

    Rows of training may be handed in as well; a generator that repeats them then looks better than
    it is. The table may be of any length: at most `most` of its rows, drawn at random, are kept.

    Parameters
    ----------
    fitted : FittedModel
    reader : TableReader
        Normal rows with the columns of the model.
    asked : str
        What asks, for the message.
    on_bad_row : {"error", "skip"}
        "skip" leaves out rows that cannot be read.
    most : int
    seed : int
        Of the draw and of all measures. No global generator is touched.

    Raises
    ------
    UsageError
        The detector has no generator that makes rows of codes.
    InputError
        The table cannot be read, lacks columns, or has too few rows.
    """
    generators = row_generators(fitted, asked=asked)
    read = _Read()
    blocks = _encoded(fitted, reader, on_bad_row, read)
    kept = _drawn(blocks, most, np.random.default_rng(seed))
    if len(kept) < FEWEST_JUDGED:
        raise InputError(
            f"{reader.source} has {read.n_rows - read.n_unreadable} rows that can be read: at "
            f"least {FEWEST_JUDGED} are needed to judge a generator by"
        )
    members = judge_generator(
        torch.from_numpy(kept),
        generators.generate,
        latent_dim=generators.latent_dim,
        n_members=generators.n_members,
        features=generators.features,
        seed=seed,
    )
    return ModelQuality(
        source=reader.source,
        n_rows=read.n_rows,
        n_unreadable=read.n_unreadable,
        n_judged=len(kept),
        members=members,
        extra_columns=read.extra_columns,
    )


@dataclass
class _Read:
    """What was found in a table on the way through it."""

    n_rows: int = 0
    n_unreadable: int = 0
    extra_columns: tuple[str, ...] = ()


def _encoded(
    fitted: FittedModel, reader: TableReader, on_bad_row: Literal["error", "skip"], read: _Read
) -> Iterator[NDArray[np.float32]]:
    """Give a table's readable rows as the networks see them, [n, d]."""
    for batch in reader:
        rows = fitted.schema.rows(batch, on_bad_row=on_bad_row)
        read.n_rows += len(rows.numeric)
        read.n_unreadable += len(rows.faults)
        read.extra_columns = rows.extra_columns
        features = fitted.encoder.transform(rows).features
        yield np.delete(features, list(rows.faults), axis=0) if rows.faults else features


def _drawn(
    blocks: Iterator[NDArray[np.float32]], most: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw rows [n, d] without knowing how many will come: those with the smallest random keys.

    Which rows are drawn does not depend on the blocks that they come in.
    """
    kept: NDArray[np.float32] | None = None
    keys = np.empty(0)
    for block in blocks:
        keys = np.concatenate([keys, rng.random(len(block))])
        kept = block if kept is None else np.concatenate([kept, block])
        if len(kept) > most:
            chosen = np.sort(np.argpartition(keys, most)[:most])
            kept, keys = kept[chosen], keys[chosen]
    return np.empty((0, 0), dtype=np.float32) if kept is None else kept
