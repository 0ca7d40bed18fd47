"""Which columns a row's distance comes from: two views, averaged.

**By the known rows.** The blame of a column is how much nearer the row would be to the known rows
if that column were not looked at: with D the distance to the nearest of some reference rows and D_j
the same without the features of column j,

    blame_j = max(0, D^2 - D_j^2)

This is a leave-one-covariate-out attribution (as that of Lei et al., 2018, section 6, for
regression): with column j left out, another reference row may be the nearest. Squared differences
to *one* nearest row do not tell as much: a single wrong value pulls the nearest row to a
compromise, in which many columns differ a little.

**By the generator.** The squared residual that latent inversion leaves in the features of a column
(Schlegl et al., 2017, section 2.3): what the generator, which knows how columns go together, cannot
give back.

How often the result names the guilty column, on real rows with one column permuted, is measured by
``tests/acceptance/guilty_columns.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from anomgan.scoring.products import product

__all__ = ["BY_DIFFERENCES", "Attribution"]

BY_DIFFERENCES = 3
"""Most features of a column whose squared differences are taken one by one: they stay exact far
out, where a product of sums would not. Columns with more features are categories, and bounded."""


@dataclass(frozen=True)
class Attribution:
    """Reference rows, and the features of each column.

    Attributes
    ----------
    references : Tensor float32 [b, d]
        Some known rows.
    feature_column : Tensor int64 [d]
        Position of each feature's column.
    n_columns : int
    floor : float
        Added to the blame and to the residual of each column that has features, in squared
        standardised units: it keeps the shares defined where both are 0.
    """

    references: Tensor
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

    def share(self, x: Tensor, gaps: Tensor, residual: Tensor, energy: Tensor) -> Tensor:
        """Share an energy among columns: [n, n_columns], rows sum to it.

        Parameters
        ----------
        x : Tensor float32 [n, d]
        gaps : Tensor float32 [n, b]
            Squared distances to the references, up to a constant for each of them.
        residual : Tensor float32 [n, d]
            Squared residual of the generator.
        energy : Tensor float32 [n]
        """
        blame = self._blame(x, gaps) + self.floors  # [n, n_columns]
        left = torch.zeros_like(blame).index_add_(1, self.feature_column, residual) + self.floors
        half = (0.5 * energy).unsqueeze(1)
        return blame * (half / blame.sum(dim=1, keepdim=True)) + left * (
            half / left.sum(dim=1, keepdim=True)
        )

    def _blame(self, x: Tensor, gaps: Tensor) -> Tensor:
        nearest = gaps.min(dim=1).values  # [n]
        blame = x.new_zeros(len(x), self.n_columns)
        for column, features in enumerate(self.features):
            if len(features):
                without = (gaps - self._gap(x, features)).min(dim=1).values
                blame[:, column] = (nearest - without).clamp(min=0.0)
        return blame

    def _gap(self, x: Tensor, features: Tensor) -> Tensor:
        """Squared distances to the references in some features only, [n, b]."""
        values, known = x[:, features], self.references[:, features]
        if len(features) <= BY_DIFFERENCES:
            gap = values.new_zeros(len(x), len(known))
            for j in range(len(features)):
                gap = gap + (values[:, j : j + 1] - known[:, j]).square()
            return gap
        squares = known.square().sum(dim=1) + values.square().sum(dim=1, keepdim=True)
        return squares - 2.0 * product(values, known.T.contiguous())
