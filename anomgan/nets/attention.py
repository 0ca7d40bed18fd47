"""Self-attention over the columns of a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomgan.nets.initialisation import initialise

__all__ = ["ColumnAttention"]


class ColumnAttention(nn.Module):
    """Adds to every column what the other columns tell of it.

    Zhang et al., 2019, "Self-attention generative adversarial networks", eq. 1 to 3, with
    the columns of a row in the place of the positions of an image. A column is one number, so
    it first gets features: its value times a vector of its own, plus another one, which tell
    columns apart (the tokens of Gorishniy et al., 2021, section 3.3). A last vector of its own
    turns what was attended to into one number again. A row's output depends on that row alone.

    The result is weighted with gamma, one a member, which starts at 0: training begins with
    the identity, and local evidence is learnt first.

    Parameters
    ----------
    n_members : int
    n_columns : int
        Encoded columns, d.
    width : int
        Features of a column, and of queries, keys and values.
    generator : torch.Generator
        Source of the initial weights; the global generator is never used.
    """

    def __init__(
        self, n_members: int, n_columns: int, width: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()

        def drawn(n_in: int, n_out: int) -> nn.Parameter:
            weight = torch.empty(n_members, n_in, n_out)
            initialise(weight, "xavier", gain=1.0, generator=generator)
            return nn.Parameter(weight)

        self.scale = drawn(n_columns, width)
        self.shift = drawn(n_columns, width)
        self.query = drawn(width, width)
        self.key = drawn(width, width)
        self.value = drawn(width, width)
        self.back = drawn(n_columns, width)
        self.gamma = nn.Parameter(torch.zeros(n_members, 1, 1))

    def attention(self, x: Tensor) -> Tensor:
        """Return how much column j attends to column i: [m, n, d] -> [m, n, d, d], over (j, i).

        The last axis sums to 1.
        """
        return self._attention(self._features(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map [m, n, d] to [m, n, d]."""
        features = self._features(x)  # [m, n, d, w]
        values = features @ self.value.unsqueeze(1)  # [m, n, d, w]
        attended = self._attention(features) @ values  # [m, n, d, w]
        return x + self.gamma * (attended * self.back.unsqueeze(1)).sum(dim=3)

    def _features(self, x: Tensor) -> Tensor:
        return x.unsqueeze(3) * self.scale.unsqueeze(1) + self.shift.unsqueeze(1)

    def _attention(self, features: Tensor) -> Tensor:
        queries = features @ self.query.unsqueeze(1)  # [m, n, d, w]
        keys = features @ self.key.unsqueeze(1)
        return torch.softmax(queries @ keys.transpose(2, 3), dim=3)
