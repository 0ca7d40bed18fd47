"""f-AnoGAN (Schlegl et al., 2019): a Wasserstein GAN, and then an encoder for its generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler
from anomgan.training.objectives import Wasserstein
from anomgan.training.penalties import interpolates, one_centred_penalty

__all__ = ["FAnoGAN"]


@dataclass(frozen=True)
class FAnoGAN(Detector):
    """Fast unsupervised anomaly detection with GANs.

    First a generator G and a critic D are trained as a WGAN with a gradient penalty (section 2.1;
    Gulrajani et al., 2017, algorithm 1). Then both stay as they are, and an encoder E learns
    with the izi_f loss (section 2.2, eq. 3)

        |x - G(E(x))|^2 / n + kappa |f(x) - f(G(E(x)))|^2 / n_d,

    f being the critic's last hidden layer, of n_d units, and n the number of features. The same
    expression is a row's score (section 2.3, eq. 4 to 6).

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    kappa : float
        Weight of the critic's features.
    critic_steps : int
        Steps of the critic for one of the generator.
    penalty : float
        Weight of the gradient penalty.
    gan_share : float
        Share of the steps that train the GAN, in (0, 1); the rest train the encoder.

    Notes
    -----
    Not as in the paper:

    - eight latent dimensions (chosen on two development sets of the project), since most tables
      are narrower than the paper's 128: a code as wide as a row can give every row back;
    - perceptrons (64 and 128 units in the generator, 128 and 64 in critic and encoder) instead of
      residual convolutions, since rows are no images, and a linear last layer of the encoder;
    - Adam's rate is larger and decays over both stages, and its betas are 0.5 and 0.999;
    - what is kept are averaged weights. The average goes on in the second stage, where G stands
      still: E meets in scoring nearly the G that it was trained with.

    References
    ----------
    Schlegl, Seeboeck, Waldstein, Langs & Schmidt-Erfurth (2019). f-AnoGAN: fast unsupervised
    anomaly detection with generative adversarial networks. Medical Image Analysis 54.
    """

    latent_dim: int = 8
    kappa: float = 1.0
    critic_steps: int = 5
    penalty: float = 10.0
    gan_share: float = 0.5

    name: ClassVar[str] = "f-anogan"
    summary: ClassVar[str] = "Wasserstein GAN with a gradient penalty, then an encoder for it"
    paper: ClassVar[str] = (
        "Schlegl, Seeböck, Waldstein, Langs & Schmidt-Erfurth (2019), f-AnoGAN: fast unsupervised "
        "anomaly detection with generative adversarial networks, Medical Image Analysis 54"
    )

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"n_steps": 2, "kappa": 0.0, "critic_steps": 1, "penalty": 0.0}

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        if not 0.0 < self.gan_share < 1.0:
            return [f"gan_share is {self.gan_share}, it must lie in (0, 1)"]
        n_gan = round(self.gan_share * self.n_steps)
        if 1 <= n_gan < self.n_steps:
            return []
        return [
            f"gan_share is {self.gan_share}, which leaves {n_gan} of {self.n_steps} steps to the "
            "GAN; both stages need some"
        ]

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make three networks, and two stages."""
        networks = _Networks(sizes.n_features, self.latent_dim, draws).to(sampler.data.device)
        losses = _Losses(networks, sampler, self)
        share = self.gan_share
        return Game(
            networks,
            players={name: list(net.parameters()) for name, net in networks.named_children()},
            phases=(
                Phase("critic", "critic", losses.critic, repeats=self.critic_steps, stop=share),
                Phase("generator", "generator", losses.generator, stop=share),
                Phase("encoder", "encoder", losses.encoder, start=share),
            ),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Compare x and G(E(x)), as rows and by the critic's features."""
        critic, n = networks["critic"], networks["encoder"].widths[0]
        code = a.network(x, networks["encoder"])[-1]
        back = a.network(code, networks["generator"])[-1]  # [n, d]
        gap = a.subtract(a.network(x, critic)[-2], a.network(back, critic)[-2])
        width = critic.widths[-2]
        return Parts(
            a.scale(a.square(a.subtract(x, back)), 1.0 / n),
            a.scale(a.row_sum(a.square(gap), width), self.kappa / width),
        )


class _Networks(nn.Module):
    def __init__(self, d: int, k: int, draws: torch.Generator) -> None:
        super().__init__()
        self.generator = BatchedMLP(1, (k, 64, 128, d), generator=draws, activation="relu")
        self.critic = BatchedMLP(1, (d, 128, 64, 1), generator=draws)
        self.encoder = BatchedMLP(1, (d, 128, 64, k), generator=draws)


class _Losses:
    def __init__(self, networks: _Networks, sampler: Sampler, detector: FAnoGAN) -> None:
        self.networks, self.sampler, self.detector = networks, sampler, detector
        self.objective = Wasserstein()

    def critic(self) -> dict[str, Tensor]:
        """Tell rows from generated ones, with a slope of 1 between them."""
        critic, n = self.networks.critic, self.detector.batch_rows
        real = self.sampler.rows(n)  # [1, n, d]
        with torch.no_grad():
            fake = self._made()
        between = interpolates(real, fake, self.sampler.uniform(n))
        judged = critic(torch.cat([real, fake, between], dim=1)).squeeze(2).split(n, dim=1)
        return {
            "rows": self.objective.discriminator_loss(judged[0], judged[1]),
            "penalty": self.detector.penalty * one_centred_penalty(judged[2], between),
        }

    def generator(self) -> dict[str, Tensor]:
        """Make rows that the critic takes for real."""
        judged = self.networks.critic(self._made()).squeeze(2)
        return {"rows": self.objective.generator_loss(judged, judged)}

    def encoder(self) -> dict[str, Tensor]:
        """Find the codes of rows."""
        nets = self.networks
        x = self.sampler.rows(self.detector.batch_rows)
        back = nets.generator(nets.encoder(x))
        features = nets.critic.hidden
        return {
            "rows": (x - back).square().mean(),
            "features": self.detector.kappa * (features(x) - features(back)).square().mean(),
        }

    def _made(self) -> Tensor:
        codes = self.sampler.normal(self.detector.batch_rows, self.detector.latent_dim)
        rows: Tensor = self.networks.generator(codes)
        return rows
