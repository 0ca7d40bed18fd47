"""The three networks of the flagship detector: generator, encoder, discriminator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anomgan.nets.batched import Activation, BatchedLinear, BatchedMLP
from anomgan.nets.spectral import SpectralHead, SpectralLinear

__all__ = ["GENERATOR_ACTIVATION", "TabularNetworks", "TabularSizes"]

GENERATOR_ACTIVATION: Activation = "elu"
"""Latent inversion walks along the generator's gradient."""


@dataclass(frozen=True)
class TabularSizes:
    """Widths of the networks.

    Attributes
    ----------
    n_members : int
        Ensemble members, m.
    n_features : int
        Encoded columns, d.
    latent_dim : int
        Latent dimension, k.
    generator_width, discriminator_width : int
        Hidden widths: two hidden layers in generator and encoder, three in the
        discriminator.
    n_noise_levels : int
        Noise classes that the discriminator tells apart, beside "clean".
    """

    n_members: int
    n_features: int
    latent_dim: int
    generator_width: int
    discriminator_width: int
    n_noise_levels: int


class TabularNetworks(nn.Module):
    """Generator, encoder and a two-headed discriminator, for all members at once.

    The discriminator's trunk feeds two heads: one logit that tells real from generated
    rows, and ``1 + n_noise_levels`` logits that grade how diffused a real row is.

    Parameters
    ----------
    sizes : TabularSizes
    generator : torch.Generator
        Source of the initial weights; the global generator is never used.
    scheme : str
        Of the initial weights, a key of `initialisation.INITIALISERS`.
    spectral_norm : bool
        Keeps the slope of the first head at 1 or below: the trunk is of `SpectralLinear`. The
        grading heads are as steep as they need to be.

    rounded : bool
        Whether the discriminator, whose matrices are large, may be trained with products of
        bfloat16 (`anomgan.nets.precision`).

    Raises
    ------
    UsageError
        The scheme is not known.
    """

    def __init__(
        self,
        sizes: TabularSizes,
        *,
        generator: torch.Generator,
        scheme: str = "he",
        spectral_norm: bool = False,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        m, d, k = sizes.n_members, sizes.n_features, sizes.latent_dim
        g_width, d_width = sizes.generator_width, sizes.discriminator_width
        self.sizes = sizes
        self.generator = BatchedMLP(
            m,
            (k, g_width, g_width, d),
            generator=generator,
            activation=GENERATOR_ACTIVATION,
            scheme=scheme,
        )
        self.encoder = BatchedMLP(m, (d, g_width, g_width, k), generator=generator, scheme=scheme)
        self.discriminator = BatchedMLP(
            m,
            (d, d_width, d_width, d_width, 2 + sizes.n_noise_levels),
            generator=generator,
            linear=SpectralLinear if spectral_norm else BatchedLinear,
            last=SpectralHead if spectral_norm else None,
            scheme=scheme,
            rounded=rounded,
        )

    def critic(self, x: Tensor) -> Tensor:
        """Real-against-generated logits: [m, n, d] -> [m, n]; larger is more real."""
        return self.discriminator(x)[..., 0]  # type: ignore[no-any-return]

    def noise_logits(self, x: Tensor) -> Tensor:
        """Noise-grade logits: [m, n, d] -> [m, n, 1 + levels]; class 0 is clean."""
        return self.discriminator(x)[..., 1:]  # type: ignore[no-any-return]
