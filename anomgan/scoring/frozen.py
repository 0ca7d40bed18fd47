"""The frozen score: what a trained ensemble says about a row.

    score = reconstruction + discriminator + surprise        (all in nats)

- **reconstruction**: ``((1 - w) T + w F) / (2 s^2)``. T is the soft squared distance to the
  known rows (`anomgan.scoring.memory`), so that T / 2 s^2 is the negative log of a kernel
  density, tempered to bandwidth s. F is the energy that latent inversion leaves, started from
  the encoder's code and averaged over members: it asks the generator alone.
- **discriminator**: ``v (clip(L - median, -c, c) + c) + 1``. L is the graded discriminator's
  log-odds that a row is diffused by a little noise rather than clean, averaged over members; the
  median is taken over held-out normal rows. By Bayes' rule L is log p_noisy(x) - log p(x): it
  corrects the kernel density by what the network learnt about fine structure. It is bounded
  because a network is arbitrary far from all data, where distance must decide, and its trust v
  falls to 0 where the rows have no fine structure (`anomgan.detectors.anomgan.NoiseScale`). The
  last term keeps scores at or above 1, where a relative difference of two runtimes means
  something.
- **surprise**: log(n + 1) for each state that training never saw (`anomgan.tables.encoding`).

The networks see a row through a box: b is the nearest point to x that lies within `MARGIN`
standard deviations of the known rows' range in each feature. F is that of b plus ``|x - b|^2``,
and L that of b. Nearly all rows lie in the box, and b is x. Beyond it nothing but distances grows:
no score falls when a value moves further away.

The score is never below `FLOOR`. Its parts are attributed to columns, and the discriminator has a
bucket of its own: contributions sum to the score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anomgan.errors import ModelCorruptError
from anomgan.nets.tabular import GENERATOR_ACTIVATION
from anomgan.presets import MOST_STEPS, MOST_WIDTH
from anomgan.scoring.attribution import Attribution
from anomgan.scoring.inversion import Inversion, InversionSettings, MLPWeights
from anomgan.scoring.memory import Memory

__all__ = [
    "FLOOR",
    "MARGIN",
    "SHARE_FLOOR",
    "FrozenScore",
    "ScoreSettings",
    "Scored",
]

FLOOR = 1.0
"""Least score, nats."""

SHARE_FLOOR = 0.01
"""Least blame of a column for a distance, in squared kernel widths."""

MARGIN = 10.0
"""How far beyond the known rows the networks are asked, in standardised units. As far as an
indicator or a category reaches that no known row has (`anomgan.tables.encoding.MIN_DEVIATION`)."""

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
        Median of L over normal rows that the networks behind it never saw, nats.
    discriminator_bound : float
        c, nats.
    discriminator_trust : float
        v, in [0, 1].
    inversion_share : float
        w, the share of the inversion's energy in the reconstruction.
    kernel_width, kernel_peak : float
        Of the memory.
    explained_from : float
        Score from which all views share a row's reconstruction among columns; below it the
        generator's does alone.
    inversion : InversionSettings
    margin : float or None
        How far the box that the networks see rows through reaches beyond the known rows; None: they
        see rows as they are, in models made before there was a box.
    """

    bandwidth: float
    discriminator_median: float
    discriminator_bound: float
    discriminator_trust: float
    inversion_share: float
    kernel_width: float
    kernel_peak: float
    inversion: InversionSettings
    explained_from: float = 0.0
    margin: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "bandwidth": self.bandwidth,
            "discriminator_median": self.discriminator_median,
            "discriminator_bound": self.discriminator_bound,
            "discriminator_trust": self.discriminator_trust,
            "inversion_share": self.inversion_share,
            "kernel_width": self.kernel_width,
            "kernel_peak": self.kernel_peak,
            "explained_from": self.explained_from,
            "margin": self.margin,
            "inversion": {
                "n_steps": self.inversion.n_steps,
                "learning_rate": self.inversion.learning_rate,
                "momentum": self.inversion.momentum,
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreSettings:
        """Read what `to_dict` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            Anything missing, of another kind, or not known here: a score without it is another.
        """
        if unknown := set(data) - {f.name for f in fields(cls)}:
            raise ValueError(f"settings {sorted(unknown)} are not known here: upgrade anomgan")
        inversion, margin = data["inversion"], data.get("margin")
        return cls(
            bandwidth=float(data["bandwidth"]),
            discriminator_median=float(data["discriminator_median"]),
            discriminator_bound=float(data["discriminator_bound"]),
            discriminator_trust=float(data["discriminator_trust"]),
            inversion_share=float(data["inversion_share"]),
            kernel_width=float(data["kernel_width"]),
            kernel_peak=float(data["kernel_peak"]),
            explained_from=float(
                data.get("explained_from", 0.0)
            ),  # models made before there was one
            inversion=InversionSettings(
                n_steps=int(inversion["n_steps"]),
                learning_rate=float(inversion["learning_rate"]),
                momentum=float(inversion["momentum"]),
            ),
            margin=None if margin is None else float(margin),
        )


@dataclass(frozen=True)
class Scored:
    """Scores of n rows.

    Attributes
    ----------
    score : float32 [n]
    contributions : float32 [n, n_columns + 1]
        By column in schema order, then the discriminator; sums to the score, to rounding.
    """

    score: Tensor
    contributions: Tensor


@dataclass(frozen=True)
class _Terms:
    """What the score of n rows is made of, nats [n]; and what shares it among columns."""

    reconstruction: Tensor
    discriminator: Tensor
    gaps: Tensor  # [n, b]
    residual: Tensor  # [n, d]


@dataclass(frozen=True)
class FrozenScore:
    """Frozen networks, memory and scalars; the oracle of the exported graph.

    Attributes
    ----------
    generator, encoder : MLPWeights
    discriminator : MLPWeights
        Its last layer is folded to the single read-out L, [m, width, 1].
    memory_rows : Tensor [a, d]
        Encoded rows of normal operation.
    memory_counts : Tensor [a]
        How many rows each stands for.
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
    memory_rows: Tensor
    memory_counts: Tensor
    preconditioner: Tensor
    pull: Tensor
    feature_column: Tensor
    n_columns: int
    settings: ScoreSettings

    @property
    def n_members(self) -> int:
        """Members of the ensemble, m."""
        return len(self.pull)

    def explaining_from(self, least: float) -> FrozenScore:
        """Return this score, whose contributions all views share from a score of `least`."""
        return replace(self, settings=replace(self.settings, explained_from=least))

    def member(self, k: int) -> FrozenScore:
        """Return the score by the networks of one member alone; memory and scalars are the same."""
        return replace(
            self,
            generator=self.generator.member(k),
            encoder=self.encoder.member(k),
            discriminator=self.discriminator.member(k),
            preconditioner=self.preconditioner[k : k + 1],
            pull=self.pull[k : k + 1],
        )

    def inversion(self) -> Inversion:
        """Return the inversion of this score."""
        return Inversion(self.generator, self.preconditioner, self.pull, self.settings.inversion)

    @cached_property
    def memory(self) -> Memory:
        """The memory of this score."""
        width, peak = self.settings.kernel_width, self.settings.kernel_peak
        return Memory(self.memory_rows, self.memory_counts, width, peak)

    @cached_property
    def box(self) -> tuple[Tensor, Tensor] | None:
        """Corners of the box that the networks see rows through, [d] each; None: there is none."""
        margin = self.settings.margin
        if margin is None:
            return None
        return self.memory_rows.amin(dim=0) - margin, self.memory_rows.amax(dim=0) + margin

    @cached_property
    def attribution(self) -> Attribution:
        """How distances to the memory are shared among columns."""
        memory = self.memory
        return Attribution(
            references=memory.rows[memory.references],
            counts=memory.counts[memory.references],
            width=memory.width,
            feature_column=self.feature_column,
            n_columns=self.n_columns,
            floor=SHARE_FLOOR * memory.width**2,
        )

    @torch.no_grad()
    def __call__(self, features: Tensor, surprise: Tensor, own: Tensor | None = None) -> Scored:
        """Score encoded rows, and share each score among the columns.

        Parameters
        ----------
        features : Tensor float32 [n, d]
        surprise : Tensor float32 [n, n_columns]
        own : Tensor int64 [n], optional
            Where each row itself stands in memory, to be left out; -1 for none. Rows of memory
            are scored so when they stand for new ones.
        """
        totals, shares = [features.new_zeros(0)], [features.new_zeros(0, self.n_columns + 1)]
        for x, states, terms in self._passes(features, surprise, own):
            totals.append(self._total(terms, states))
            shares.append(self._shares(x, terms, states, totals[-1]))
        return Scored(torch.cat(totals)[: len(features)], torch.cat(shares)[: len(features)])

    @torch.no_grad()
    def scores(self, features: Tensor, surprise: Tensor, own: Tensor | None = None) -> Tensor:
        """Score encoded rows as `__call__` does, without the contributions: [n]."""
        totals = [self._total(terms, s) for _, s, terms in self._passes(features, surprise, own)]
        return torch.cat([features.new_zeros(0), *totals])[: len(features)]

    def _passes(
        self, features: Tensor, surprise: Tensor, own: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, _Terms]]:
        """Yield features, surprise and terms in passes of `_CHUNK` rows, the last one padded."""
        if own is None:
            own = torch.full((len(features),), -1)
        for i in range(0, len(features), _CHUNK):
            n = min(_CHUNK, len(features) - i)
            rows = features.new_zeros(_CHUNK, features.shape[1])
            rows[:n] = features[i : i + n]  # a copy: products may round by alignment too
            states = surprise.new_zeros(_CHUNK, surprise.shape[1])
            states[:n] = surprise[i : i + n]
            left_out = torch.full((_CHUNK,), -1)
            left_out[:n] = own[i : i + n]
            yield rows, states, self._terms(rows, left_out)

    def _terms(self, x: Tensor, own: Tensor) -> _Terms:
        near = self._near(x)
        beyond = (x - near).square()  # [n, d]
        rows = self._members(near)  # [m, n, d]
        distance, gaps = self.memory.soft_distance(x, own)  # [n], [n, b]
        energy, residual = self.inversion()(rows, self.encoder(rows))  # [m, n], [m, n, d]
        share = self.settings.inversion_share
        left = energy.mean(dim=0) + beyond.sum(dim=1)  # [n]
        total = (1.0 - share) * distance + share * left
        bound, trust = self.settings.discriminator_bound, self.settings.discriminator_trust
        centred = self.log_odds(x) - self.settings.discriminator_median
        return _Terms(
            reconstruction=total / (2.0 * self.settings.bandwidth**2),
            discriminator=trust * (centred.clamp(-bound, bound) + bound) + FLOOR,
            gaps=gaps,
            residual=residual.square().mean(dim=0) + beyond,
        )

    def _near(self, x: Tensor) -> Tensor:
        """Nearest points of the box, [n, d]."""
        if self.box is None:
            return x
        low, high = self.box
        return torch.minimum(torch.maximum(x, low), high)

    def _total(self, terms: _Terms, surprise: Tensor) -> Tensor:
        return terms.reconstruction + terms.discriminator + surprise.sum(dim=1)

    def _shares(self, x: Tensor, terms: _Terms, surprise: Tensor, total: Tensor) -> Tensor:
        """Contributions, [n, n_columns + 1]: columns, then the discriminator's bucket."""
        explained = total >= self.settings.explained_from
        columns = self.attribution.share(
            x, terms.gaps, terms.residual, terms.reconstruction, explained
        )
        return torch.cat([columns + surprise, terms.discriminator.unsqueeze(1)], dim=1)

    def log_odds(self, x: Tensor) -> Tensor:
        """L: log-odds of "diffused by a little noise" against "clean", [n]."""
        return self.discriminator(self._members(self._near(x)))[..., 0].mean(dim=0)

    def _members(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).expand(self.n_members, -1, -1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for safetensors."""
        return {name: t.contiguous() for name, t in self._named()}

    def settings_dict(self) -> dict[str, Any]:
        """Return the scalars, JSON-ready."""
        return self.settings.to_dict()

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
            A tensor is missing, or the parts do not belong together: it is tried on a row.
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
        score = cls(**parts, n_columns=n_columns, settings=settings)
        try:
            score._try_out()
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelCorruptError(
                f"the parts of the score do not fit each other ({error}); fit the model again"
            ) from error
        return score

    def _try_out(self) -> None:
        """Score one row, of the encoder's mean; ValueError where that makes no sense."""
        column, s = self.feature_column, self.settings
        stated = (*asdict(s).values(), s.inversion.learning_rate, s.inversion.momentum)
        numbers = [v for v in stated if not isinstance(v, dict | None)]
        if s.margin is not None and s.margin < 0.0:
            raise ValueError(f"a box with a margin of {s.margin}")
        if not all(map(math.isfinite, numbers)) or s.bandwidth <= 0 or s.kernel_width <= 0:
            raise ValueError(f"settings {numbers}")
        if not 0 <= s.inversion.n_steps <= MOST_STEPS:
            raise ValueError(f"{s.inversion.n_steps} steps of inversion")
        if column.dtype != torch.int64 or not bool(
            ((column >= 0) & (column < self.n_columns)).all()
        ):
            raise ValueError("features of columns that are not there")
        for name, tensor in self._named():
            if name == "feature_column":
                continue
            if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} holds other than finite float32 numbers")
        self._require_sizes()
        features = torch.zeros(1, len(column))
        scored = self(features, torch.zeros(1, self.n_columns))
        if not bool(torch.isfinite(scored.score).all()):
            raise ValueError("an ordinary row has no finite score")

    def _require_sizes(self) -> None:
        """Refuse shapes that torch would stretch to fit, and such as no training makes."""
        n, d = self.n_members, len(self.feature_column)
        known = self.memory_rows.shape == (len(self.memory_counts), d)
        if not known or not 0 < len(self.memory_counts) <= MOST_WIDTH:
            raise ValueError(f"known rows of shape {list(self.memory_rows.shape)}")
        if not bool((self.memory_counts > 0).all()):
            raise ValueError("known rows that were never seen")
        for name, tensor in self._named():
            if name.split(".")[0] not in ("generator", "encoder", "discriminator"):
                continue
            if tensor.ndim != 3 or len(tensor) != n or n * tensor.shape[-1] > MOST_WIDTH:
                raise ValueError(f"{name} has the shape {list(tensor.shape)}")
        code = self.preconditioner.shape[-1]
        if self.pull.ndim != 1 or self.preconditioner.shape != (n, code, code):
            raise ValueError(f"a preconditioner of shape {list(self.preconditioner.shape)}")


_PLAIN = (
    "memory_rows",
    "memory_counts",
    "preconditioner",
    "pull",
    "feature_column",
)


def _series(tensors: Mapping[str, Tensor], net: str, part: str) -> tuple[Tensor, ...]:
    layers = {key.split(".")[1] for key in tensors if key.startswith(f"{net}.")}
    return tuple(tensors[f"{net}.{i}.{part}"] for i in range(max(len(layers), 1)))
