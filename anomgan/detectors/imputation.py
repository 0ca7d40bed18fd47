"""Adversarial masked imputation: each column predicted from the others by a GAIN generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.detectors.boxed import Box, into_box
from anomgan.detectors.spread import MOST_ROWS, error_spread
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler

__all__ = ["Imputation"]


@dataclass(frozen=True)
class Imputation(Detector):
    """Adversarial imputation, as in GAIN, used to score.

    A generator G is shown a row in which some columns are masked, noise in their place, and
    imputes them; a discriminator D is to tell, feature by feature, imputed values from observed
    ones, with a hint that gives away most of the mask (section 4.3 and 4.4, algorithm 1). A row's
    score: each column in turn is masked and imputed from all others; the squared error of its
    features is divided by the spread of such errors in training rows, and summed.

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    latent_dim : int
        Width of G's middle layer: what is passed on of the observed columns.
    mask_share : float
        Chance of a group of columns to be masked in training, in (0, 1).
    hint_share : float
        Chance that D is told whether a group is masked, in [0, 1).
    adversarial_weight : float
        Of D's part in G's loss; the prediction error has weight 1.
    max_groups : int
        Columns are masked one at a time, and where there are more than this, in so many groups:
        column j is in group j modulo `max_groups`.

    Notes
    -----
    Not as in the paper:

    - GAIN imputes cells that are missing; here all are there and some are hidden, so that G learns
      from the error of what it imputes (there only of what it was shown).
    - A column's features (a category's, a date's) are masked together, with one hint for all, and
      missing cells are what the encoder makes of them: the median, and a feature that says so.
    - Noise is normal, and 0 when rows are scored: no score depends on chance.
    - D's loss is over all features, as in the authors' code.
    - G and D see rows through the box between the first and last percentiles of the features, and
      G imputes within it: one far cell cannot spoil what is imputed of others. The error is that
      of the row itself, so that it grows without bound.
    - Leaky rectifiers, 128 units a layer.

    References
    ----------
    Yoon, Jordon & van der Schaar (2018). GAIN: missing data imputation using generative
    adversarial nets. ICML.
    """

    mask_share: float = 0.2
    hint_share: float = 0.9
    adversarial_weight: float = 0.05
    max_groups: int = 32
    groups: tuple[tuple[int, ...], ...] = field(default=(), metadata={"internal": True})

    name: ClassVar[str] = "imputation"
    summary: ClassVar[str] = "each column imputed from the others by a GAIN generator"
    paper: ClassVar[str] = (
        "Yoon, Jordon & van der Schaar (2018), GAIN: missing data imputation using generative "
        "adversarial nets, ICML"
    )
    judged: ClassVar[bool] = False
    bottleneck: ClassVar[bool] = False

    def __post_init__(self) -> None:
        # JSON has lists only.
        object.__setattr__(self, "groups", tuple(tuple(map(int, g)) for g in self.groups))
        super().__post_init__()

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        own = {"hint_share": 0.0, "adversarial_weight": 0.0, "max_groups": 1}
        return super().at_least() | own

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return (*super().above_zero(), "mask_share")

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        return [
            f"{name} is {getattr(self, name)}, it must be below 1"
            for name in ("mask_share", "hint_share")
            if getattr(self, name) >= 1.0
        ]

    def bound(self, sizes: Sizes) -> Imputation:
        """Deal the columns that have features into groups."""
        columns = [places for places in sizes.columns.values() if places]
        columns = columns or [(i,) for i in range(sizes.n_features)]
        dealt = (columns[i :: self.max_groups] for i in range(min(self.max_groups, len(columns))))
        groups = tuple(tuple(sorted(i for places in group for i in places)) for group in dealt)
        return replace(self, groups=groups)

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make G and D."""
        networks = _Networks(self, sampler.data, draws).to(sampler.data.device)
        losses = _Losses(self, networks, sampler)
        return Game(
            networks,
            players={
                "discriminator": list(networks.discriminator.parameters()),
                "generator": list(networks.generator.parameters()),
            },
            phases=(
                Phase("discriminator", "discriminator", losses.discriminator),
                Phase("generator", "generator", losses.generator),
            ),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Impute one group after the other; compare."""
        near, imputed = into_box(a, networks["box"], x), None
        for observed in observed_rows(self.groups, networks["generator"].widths[-1]):
            kept = a.constant(observed.reshape(1, -1))
            shown = a.concatenate(a.multiply(near, kept), a.copies(x, observed))
            out = a.network(shown, networks["generator"])[-1]
            own = a.multiply(out, a.constant(1.0 - observed.reshape(1, -1)))
            imputed = own if imputed is None else a.add(imputed, own)
        gap = a.subtract(x, into_box(a, networks["box"], imputed))
        return Parts(a.square(a.divide(gap, a.constant(networks["spread"].row(0)))), None)

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out G and the box, and measure the spread of its errors in training rows."""
        if not isinstance(networks, _Networks):
            raise TypeError(f"the networks are {type(networks).__name__}")
        return {
            "generator": FrozenNetwork.of(networks.generator),
            "box": networks.box.frozen(),
            "spread": error_spread(_errors(networks)),
        }


def observed_rows(groups: tuple[tuple[int, ...], ...], d: int) -> NDArray[np.float32]:
    """Return 0 where a feature is of the group and 1 elsewhere, [n_groups, d]."""
    observed = np.ones((len(groups), d), dtype=np.float32)
    for i, places in enumerate(groups):
        observed[i, list(places)] = 0.0
    return observed


@torch.no_grad()
def _errors(networks: _Networks) -> Tensor:
    """Errors of what is imputed in training rows, [n, d]."""
    x = networks.rows[:MOST_ROWS].unsqueeze(0)  # [1, n, d]
    gap = torch.empty_like(x)
    for observed in networks.observed:
        imputed = networks.impute(networks.box(x) * observed, observed.expand_as(x))
        gap = torch.where(observed > 0.0, gap, x - networks.box(imputed))
    return gap[0]


class _Networks(nn.Module):
    observed: Tensor

    def __init__(self, detector: Imputation, rows: Tensor, draws: torch.Generator) -> None:
        super().__init__()
        d = rows.shape[1]
        widths = (2 * d, 128, detector.latent_dim, 128, d)
        self.generator = BatchedMLP(1, widths, generator=draws)
        self.discriminator = BatchedMLP(1, (2 * d, 128, 128, d), generator=draws)
        self.box = Box(rows)
        self.register_buffer(
            "observed", torch.from_numpy(observed_rows(detector.groups, d)), persistent=False
        )
        self.rows = rows
        """Training rows; no part of the state."""

    def impute(self, shown: Tensor, mask: Tensor) -> Tensor:
        """Return G's values [1, n, d], given what is shown and where it is real (1)."""
        rows: Tensor = self.generator(torch.cat([shown, mask], dim=2))
        return rows


class _Losses:
    def __init__(self, detector: Imputation, networks: _Networks, sampler: Sampler) -> None:
        self.detector, self.networks, self.sampler = detector, networks, sampler

    def discriminator(self) -> dict[str, Tensor]:
        """Tell imputed features from observed ones (eq. 5)."""
        with torch.no_grad():
            x, mask, imputed = self._imputed()
        logits = self._judge(x, mask, imputed)
        return {"mask": binary_cross_entropy_with_logits(logits, mask)}

    def generator(self) -> dict[str, Tensor]:
        """Have imputed features taken for observed ones, and be right (eq. 6 to 8)."""
        x, mask, imputed = self._imputed()
        hidden = 1.0 - mask
        n_hidden = hidden.sum().clamp(min=1.0)
        taken = hidden * softplus(-self._judge(x, mask, imputed))
        error = hidden * (x - imputed).square()
        return {
            "taken": self.detector.adversarial_weight * taken.sum() / n_hidden,
            "error": error.sum() / n_hidden,
        }

    def _imputed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in the box, masks and what G makes of them, [1, n, d] each."""
        nets, n = self.networks, self.detector.batch_rows
        x = nets.box(self.sampler.rows(n))
        chosen = self.sampler.uniform(n, len(nets.observed)) < self.detector.mask_share
        mask = self._by_feature(~chosen)
        noise = self.sampler.normal(n, x.shape[2])
        return x, mask, nets.impute(x * mask + noise * (1.0 - mask), mask)

    def _judge(self, x: Tensor, mask: Tensor, imputed: Tensor) -> Tensor:
        told = self.sampler.uniform(x.shape[1], len(self.networks.observed))
        told = self._by_feature(told < self.detector.hint_share)
        hint = told * mask + 0.5 * (1.0 - told)
        completed = mask * x + (1.0 - mask) * imputed
        logits: Tensor = self.networks.discriminator(torch.cat([completed, hint], dim=2))
        return logits

    def _by_feature(self, by_group: Tensor) -> Tensor:
        """Spread truth values [1, n, n_groups] over the groups' features: 0 or 1, [1, n, d]."""
        return by_group.float() @ (1.0 - self.networks.observed)
