"""The frozen score: what a trained ensemble says about a row.

    score = reconstruction + discriminator + surprise        (all in nats)

- **reconstruction**: mean over members of ``((1 - w) A + w F) / (2 s^2)``, where A and F are
  energies left after latent inversion. The *anchored* one, A, starts from the code of the
  nearest training row, shifted so that this row is given back exactly: with no steps taken it
  is the negative log of a nearest-neighbour density, and the steps let the neighbour slide
  along the generator's manifold (a manifold Parzen window, Vincent & Bengio, 2003, with the
  tangents learnt by the generator). The *free* one, F, is the lesser of two unshifted starts,
  the encoder's code and the code of the nearest generated row: it asks the generator alone. s
  is the bandwidth, tied to the spacing of the training rows.
- **discriminator**: ``clip(L - median, -c, c) + c + 1``. L is the graded discriminator's log-odds
  that a row is diffused to bandwidth s rather than clean, averaged over members; the median is
  taken over held-out normal rows. By Bayes' rule L is log p_s(x) - log p(x): it corrects the
  Parzen term by what the network learnt about fine structure. It is bounded because a network
  is arbitrary far from all data, where distance must decide. The last term keeps scores at or
  above 1, where a relative difference of two runtimes means something.
- **surprise**: log(n + 1) for each state that training never saw (`anomgan.tables.encoding`).

The score is never below `FLOOR`. Its parts are attributed to columns, and the discriminator has a
bucket of its own: contributions sum to the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anomgan.errors import ModelCorruptError
from anomgan.nets.tabular import GENERATOR_ACTIVATION
from anomgan.scoring.inversion import Inversion, InversionSettings, MLPWeights
from anomgan.scoring.memory import nearest

__all__ = ["FLOOR", "FrozenScore", "ScoreSettings", "Scored"]

FLOOR = 1.0
"""Least score, nats."""

_CHUNK = 256
"""Rows a pass: every pass has this shape, so a row's result cannot depend on its company."""


@dataclass(frozen=True)
class ScoreSettings:
    """Scalars of the score.

    Attributes
    ----------
    bandwidth : float
        s, in standardised units.
    discriminator_median : float
        Median of L over held-out normal rows, nats.
    discriminator_bound : float
        c, nats.
    free_share : float
        w, the share of the unanchored reconstruction.
    inversion : InversionSettings
    """

    bandwidth: float
    discriminator_median: float
    discriminator_bound: float
    free_share: float
    inversion: InversionSettings

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "bandwidth": self.bandwidth,
            "discriminator_median": self.discriminator_median,
            "discriminator_bound": self.discriminator_bound,
            "free_share": self.free_share,
            "inversion": {
                "n_steps": self.inversion.n_steps,
                "learning_rate": self.inversion.learning_rate,
                "momentum": self.inversion.momentum,
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreSettings:
        """Read what `to_dict` wrote."""
        inversion = data["inversion"]
        return cls(
            bandwidth=float(data["bandwidth"]),
            discriminator_median=float(data["discriminator_median"]),
            discriminator_bound=float(data["discriminator_bound"]),
            free_share=float(data["free_share"]),
            inversion=InversionSettings(
                n_steps=int(inversion["n_steps"]),
                learning_rate=float(inversion["learning_rate"]),
                momentum=float(inversion["momentum"]),
            ),
        )


@dataclass(frozen=True)
class Scored:
    """Scores of n rows.

    Attributes
    ----------
    score : float32 [n]
    contributions : float32 [n, n_columns + 1]
        By column in schema order, then the discriminator; sums to the score.
    """

    score: Tensor
    contributions: Tensor


@dataclass(frozen=True)
class FrozenScore:
    """Frozen networks, memory and scalars; the oracle of the exported graph.

    Attributes
    ----------
    generator, encoder : MLPWeights
    discriminator : MLPWeights
        Its last layer is folded to the single read-out L, [m, width, 1].
    memory : Tensor [a, d]
        Encoded training rows.
    memory_codes : Tensor [m, a, k]
        Their latent codes.
    codebook_rows : Tensor [m, c, d]
        Generated rows.
    codebook_codes : Tensor [m, c, k]
    preconditioner : Tensor [m, k, k]
    pull : Tensor [m]
    feature_column : Tensor int64 [d]
        Schema position of each feature's column.
    n_columns : int
    settings : ScoreSettings
    """

    generator: MLPWeights
    encoder: MLPWeights
    discriminator: MLPWeights
    memory: Tensor
    memory_codes: Tensor
    codebook_rows: Tensor
    codebook_codes: Tensor
    preconditioner: Tensor
    pull: Tensor
    feature_column: Tensor
    n_columns: int
    settings: ScoreSettings

    @property
    def n_members(self) -> int:
        """Members of the ensemble, m."""
        return len(self.pull)

    def inversion(self) -> Inversion:
        """Return the inversion of this score."""
        return Inversion(self.generator, self.preconditioner, self.pull, self.settings.inversion)

    @torch.no_grad()
    def __call__(self, features: Tensor, surprise: Tensor) -> Scored:
        """Score encoded rows: float32 [n, d] and [n, n_columns]."""
        parts = [
            self._chunk(features[i : i + _CHUNK], surprise[i : i + _CHUNK])
            for i in range(0, len(features), _CHUNK)
        ]
        if not parts:
            return Scored(features.new_zeros(0), features.new_zeros(0, self.n_columns + 1))
        contributions = torch.cat(parts)
        return Scored(contributions.sum(dim=1), contributions)

    def _chunk(self, features: Tensor, surprise: Tensor) -> Tensor:
        n = len(features)
        rows = features.new_zeros(_CHUNK, features.shape[1])
        rows[:n] = features  # a copy even of a full pass: products may round by alignment too
        contributions = self.contributions(rows)[:n]
        contributions[:, :-1] += surprise
        return contributions

    def contributions(self, x: Tensor) -> Tensor:
        """Reconstruction by column and the discriminator's bucket, [n, n_columns + 1]."""
        by_feature = self.reconstruction(x)  # [n, d]
        out = x.new_zeros(len(x), self.n_columns + 1)
        out.index_add_(1, self.feature_column, by_feature)
        bound = self.settings.discriminator_bound
        centred = self.log_odds(x) - self.settings.discriminator_median
        out[:, -1] = centred.clamp(-bound, bound) + (bound + FLOOR)
        return out

    def log_odds(self, x: Tensor) -> Tensor:
        """L: log-odds of "diffused to the bandwidth" against "clean", [n]."""
        return self.discriminator(self._members(x))[..., 0].mean(dim=0)

    def reconstruction(self, x: Tensor) -> Tensor:
        """Energy in nats by feature, [n, d]; the sum over features is the term."""
        rows = self._members(x)  # [m, n, d]
        invert = self.inversion()
        member = torch.arange(self.n_members, device=x.device).unsqueeze(1)
        anchor = nearest(self.memory, x)  # [n]
        generated = torch.stack([nearest(r, x) for r in self.codebook_rows])  # [m, n]
        anchored = invert(rows, self.memory_codes[:, anchor], self._members(self.memory[anchor]))
        encoded = invert(rows, self.encoder(rows), None)
        drawn = invert(rows, self.codebook_codes[member, generated], None)
        better = drawn[0] < encoded[0]
        free = (
            torch.where(better, drawn[0], encoded[0]),
            torch.where(better.unsqueeze(2), drawn[1], encoded[1]),
        )
        share = self.settings.free_share
        energy = (1.0 - share) * _by_feature(*anchored) + share * _by_feature(*free)
        return energy.mean(dim=0) / (2.0 * self.settings.bandwidth**2)

    def _members(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.n_members, -1, -1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for safetensors."""
        return {name: t.contiguous() for name, t in self._named()}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for net in ("generator", "encoder", "discriminator"):
            weights: MLPWeights = getattr(self, net)
            for i, (matrix, bias) in enumerate(zip(weights.matrices, weights.biases, strict=True)):
                yield f"{net}.{i}.weight", matrix
                yield f"{net}.{i}.bias", bias
        for name in _PLAIN:
            yield name, getattr(self, name)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], *, n_columns: int, settings: ScoreSettings
    ) -> FrozenScore:
        """Rebuild from what `tensors` gave.

        Raises
        ------
        ModelCorruptError
            A tensor is missing.
        """
        try:
            parts: dict[str, Any] = {
                net: MLPWeights(_series(tensors, net, "weight"), _series(tensors, net, "bias"))
                for net in ("generator", "encoder", "discriminator")
            }
            parts["generator"] = replace(parts["generator"], activation=GENERATOR_ACTIVATION)
            parts |= {name: tensors[name] for name in _PLAIN}
        except KeyError as error:
            raise ModelCorruptError(f"the weights lack the tensor {error}; refit") from error
        return cls(**parts, n_columns=n_columns, settings=settings)


def _by_feature(energy: Tensor, residual: Tensor) -> Tensor:
    """Share an energy [m, n] among features as the squared residual [m, n, d] is."""
    square = residual.square()
    # The floor is for rows given back exactly, whose energy is zero: nothing is to be shared.
    return square * (energy / square.sum(dim=2).clamp(min=1e-30)).unsqueeze(2)


_PLAIN = (
    "memory",
    "memory_codes",
    "codebook_rows",
    "codebook_codes",
    "preconditioner",
    "pull",
    "feature_column",
)


def _series(tensors: Mapping[str, Tensor], net: str, part: str) -> tuple[Tensor, ...]:
    layers = {key.split(".")[1] for key in tensors if key.startswith(f"{net}.")}
    return tuple(tensors[f"{net}.{i}.{part}"] for i in range(max(len(layers), 1)))
