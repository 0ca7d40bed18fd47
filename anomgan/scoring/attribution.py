"""Which columns a row's distance comes from: three views, averaged.

**By distance.** The blame of a column is how much nearer the row would be to the known rows if that
column were not looked at: with D the distance to the nearest of some reference rows and D_j the
same without the features of column j,

    blame_j = max(0, D^2 - D_j^2)

This is a leave-one-covariate-out attribution (as that of Lei et al., 2018, section 6, for
regression): with column j left out, another reference row may be the nearest. Squared differences
to *one* nearest row do not tell as much: a single wrong value pulls the nearest row to a
compromise, in which many columns differ a little.

**By likelihood.** If one value was put in place of the right one, which was it? Where column j
holds a value that was drawn without regard to the others, the row has the density p(x_-j) q_j(x_j),
so that by Bayes' rule, every column being as likely to be wrong,

    posterior_j = p(x_-j) q_j(x_j) / sum_k p(x_-k) q_k(x_k)

Both densities are kernel estimates (Parzen, 1962) over the reference rows. It tells columns apart
that contradict each other, where distances with and without each of them are alike: the rest of
the row has to be common, and so has the value.

**By the generator.** The squared residual that latent inversion leaves in the features of a column
(Schlegl et al., 2017, section 2.3): what the generator, which knows how columns go together, cannot
give back.

Rows that score like most normal ones have nothing to explain. Their term is shared by the generator
alone, which costs next to nothing (`ScoreSettings.explained_from`).

How often the result names the guilty column, on real rows with one column permuted, is measured by
``tests/acceptance/guilty_columns.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from anomgan.scoring.exponential import exp_
from anomgan.scoring.products import product

__all__ = [
    "BY_DIFFERENCES",
    "EXPLAINED_QUANTILE",
    "REACH",
    "RELATIVE_VARIANCE",
    "UNHEARD_OF",
    "VIEWS",
    "Attribution",
]

BY_DIFFERENCES = 3
"""Most features of a column whose squared differences are taken one by one: they stay exact far
out, where a product of sums would not. Columns with more features are categories, and bounded."""


EXPLAINED_QUANTILE = 0.9
"""Held-out rows that score below this quantile of theirs, and rows like them, are not explained."""

VIEWS = 3
"""Each has an equal share of the energy."""

REACH = 4.0
"""Kernel of the posterior's densities, in widths of the memory's: the references are few."""

RELATIVE_VARIANCE = 0.002
"""Added to that kernel's variance, in units of the squared distance to the nearest reference: far
out, columns then compare by shares of the distance and not by its last digits."""

_BLOCK = 64
"""Rows that are explained at once; most rows are not."""

UNHEARD_OF = 1e-4
"""Added to q_j: a wrong value need not be like any that is known."""


@dataclass(frozen=True)
class Attribution:
    """Reference rows, and the features of each column.

    Attributes
    ----------
    references : Tensor float32 [b, d]
        Some known rows.
    counts : Tensor float32 [b]
        How many rows each stands for.
    width : float
        h, the memory's kernel width, standardised units.
    feature_column : Tensor int64 [d]
        Position of each feature's column.
    n_columns : int
    floor : float
        Added to the blame and to the residual of each column that has features, in squared
        standardised units: it keeps the shares defined where both are 0.
    """

    references: Tensor
    counts: Tensor
    width: float
    feature_column: Tensor
    n_columns: int
    floor: float

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """Features of each column, int64 [k] each; none for columns that give no feature."""
        return tuple(
            (self.feature_column == column).nonzero().squeeze(1) for column in range(self.n_columns)
        )

    @cached_property
    def floors(self) -> Tensor:
        """`floor` by column, 0 for columns that give no feature: float32 [n_columns]."""
        return torch.tensor([self.floor if len(f) else 0.0 for f in self.features])

    def share(
        self, x: Tensor, gaps: Tensor, residual: Tensor, energy: Tensor, explained: Tensor
    ) -> Tensor:
        """Share an energy among columns: [n, n_columns], rows sum to it.

        Parameters
        ----------
        x : Tensor float32 [n, d]
        gaps : Tensor float32 [n, b]
            Squared distances to the references, up to a constant for each of them.
        residual : Tensor float32 [n, d]
            Squared residual of the generator.
        energy : Tensor float32 [n]
        explained : Tensor bool [n]
            Rows whose energy all three views share.
        """
        left = residual.new_zeros(len(x), self.n_columns)
        left = left.index_add_(1, self.feature_column, residual) + self.floors
        out = left * (energy / left.sum(dim=1)).unsqueeze(1)
        which = explained.nonzero().squeeze(1)
        for start in range(0, len(which), _BLOCK):
            rows = which[start : start + _BLOCK]
            n = len(rows)
            # Filled up, as every pass is to have the same shape: its rounding may depend on that.
            block = torch.cat([rows, rows.new_zeros(_BLOCK - n)])
            blame, posterior = (view[:n] for view in self.views(x[block], gaps[block]))
            blame = blame + self.floors
            part = (energy[rows] / VIEWS).unsqueeze(1)
            out[rows] = (
                blame * (part / blame.sum(dim=1, keepdim=True))
                + posterior * (part / posterior.sum(dim=1, keepdim=True))
                + out[rows] / VIEWS
            )
        return out

    @cached_property
    def log_weights(self) -> tuple[Tensor, Tensor]:
        """Logarithms of the counts and of the references' shares, float32 [b] each."""
        log_counts = self.counts.double().log()
        log_shares = log_counts - self.counts.double().sum().log()
        return log_counts.float(), log_shares.float()

    def views(self, x: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
        """Blame by distance and posterior up to a factor, [n, n_columns] each."""
        nearest = gaps.min(dim=1, keepdim=True).values  # [n, 1]
        variance = (REACH * self.width) ** 2 + RELATIVE_VARIANCE * nearest.clamp(min=0.0)
        steepness = 0.5 / variance  # [n, 1]
        log_counts, log_shares = self.log_weights
        without, around, marginal = [], [], []
        for features in (f for f in self.features if len(f)):
            gap = self._gap(x, features)  # [n, b]
            rest = gaps - gap
            least = rest.amin(dim=1, keepdim=True)  # [n, 1]
            without.append(least)
            # In place, as memory takes longer to get than to fill.
            kernels = exp_(torch.sub(least, rest, out=rest).mul_(steepness).add_(log_counts))
            around.append(kernels.sum(dim=1, keepdim=True))
            shares = exp_(torch.sub(log_shares, gap.mul_(steepness), out=gap))
            marginal.append(shares.sum(dim=1, keepdim=True))
        rests = torch.cat(without, dim=1)  # [n, columns that have features]
        # Relative to the likeliest column: all logarithms would do is underflow later.
        closeness = ((rests.min(dim=1, keepdim=True).values - rests) * steepness).exp()
        posterior = closeness * torch.cat(around, dim=1) * (torch.cat(marginal, dim=1) + UNHEARD_OF)
        return self._spread((nearest - rests).clamp(min=0.0)), self._spread(posterior)

    def _spread(self, values: Tensor) -> Tensor:
        """Give columns without features their 0: [n, n_columns]."""
        out = values.new_zeros(len(values), self.n_columns)
        out[:, [column for column, f in enumerate(self.features) if len(f)]] = values
        return out

    def _gap(self, x: Tensor, features: Tensor) -> Tensor:
        """Squared distances to the references in some features only, [n, b]."""
        values, known = x[:, features], self.references[:, features]
        if len(features) <= BY_DIFFERENCES:
            gap = (values[:, :1] - known[:, 0]).square_()
            for j in range(1, len(features)):
                gap += (values[:, j : j + 1] - known[:, j]).square_()
            return gap
        squares = known.square().sum(dim=1) + values.square().sum(dim=1, keepdim=True)
        return squares - 2.0 * product(values, known.T.contiguous())
