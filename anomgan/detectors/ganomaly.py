"""GANomaly (Akcay et al., 2018): encoder, decoder and encoder again, compared by their codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler

__all__ = ["GANomaly"]


@dataclass(frozen=True)
class GANomaly(Detector):
    """Semi-supervised anomaly detection via adversarial training.

    The generator G is an autoencoder: G_E gives a code, G_D the row back, and a second encoder E
    of G_E's shape gives that row's code. With f the last hidden layer of the discriminator D, the
    three minimise (section 3.2, eq. 1 to 4)

        w_adv |f(x) - f(G(x))|_2 + w_con |x - G(x)|_1 + w_enc |G_E(x) - E(G(x))|_2,

    and D tells x from G(x) by cross-entropy. A row's score is |G_E(x) - E(G(x))|_1 (section 3.2,
    eq. 5). No normal row is ever made from noise, so the health of a fit is not judged by that.

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    w_adv, w_con, w_enc : float
        Weights of the three losses.

    Notes
    -----
    Not as in the paper:

    - perceptrons of 64 and 32 units instead of convolutions: rows are no images;
    - no batch normalisation, and the score is not brought to [0, 1] by a test set's minimum and
      maximum (eq. 6): a row's score would depend on other rows;
    - the losses are means over features, codes and rows, and the L2 losses mean squares, as in
      the authors' code;
    - no new start of a discriminator that has won, which their code has: with feature matching
      the generator's gradient does not fade.

    References
    ----------
    Akcay, Atapour-Abarghouei & Breckon (2018). GANomaly: semi-supervised anomaly detection via
    adversarial training. ACCV. arXiv:1805.06725.
    """

    w_adv: float = 1.0
    w_con: float = 50.0
    w_enc: float = 1.0

    name: ClassVar[str] = "ganomaly"
    summary: ClassVar[str] = "encoder, decoder and encoder again, scored by the gap of their codes"
    paper: ClassVar[str] = (
        "Akcay, Atapour-Abarghouei & Breckon (2018), GANomaly: semi-supervised anomaly detection "
        "via adversarial training, ACCV"
    )
    judged: ClassVar[bool] = False

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"w_adv": 0.0, "w_con": 0.0}

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return (*super().above_zero(), "w_enc")  # else the second encoder, and the score, are noise

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make two encoders, a decoder and a discriminator."""
        networks = _Networks(sizes.n_features, self.latent_dim, draws).to(sampler.data.device)
        losses = _Losses(networks, sampler, self)
        makers = [networks.encoder, networks.decoder, networks.recoder]
        return Game(
            networks,
            players={
                "discriminator": list(networks.discriminator.parameters()),
                "generator": [p for net in makers for p in net.parameters()],
            },
            phases=(
                Phase("discriminator", "discriminator", losses.discriminator),
                Phase("generator", "generator", losses.generator),
            ),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Compare the codes of x and of G(x)."""
        code = a.network(x, networks["encoder"])[-1]  # [n, k]
        back = a.network(code, networks["decoder"])[-1]
        again = a.network(back, networks["recoder"])[-1]
        return Parts(None, a.row_sum(a.absolute(a.subtract(code, again)), self.latent_dim))


class _Networks(nn.Module):
    def __init__(self, d: int, k: int, draws: torch.Generator) -> None:
        super().__init__()
        self.encoder = BatchedMLP(1, (d, 64, 32, k), generator=draws)
        self.decoder = BatchedMLP(1, (k, 32, 64, d), generator=draws, activation="relu")
        self.recoder = BatchedMLP(1, (d, 64, 32, k), generator=draws)
        self.discriminator = BatchedMLP(1, (d, 64, 32, 1), generator=draws)


class _Losses:
    def __init__(self, networks: _Networks, sampler: Sampler, detector: GANomaly) -> None:
        self.networks, self.sampler, self.detector = networks, sampler, detector

    def discriminator(self) -> dict[str, Tensor]:
        """Tell rows from what the autoencoder makes of them."""
        nets = self.networks
        x = self.sampler.rows(self.detector.batch_rows)  # [1, n, d]
        with torch.no_grad():
            back = nets.decoder(nets.encoder(x))
        judge = nets.discriminator
        return {"rows": (softplus(-judge(x)) + softplus(judge(back))).mean()}

    def generator(self) -> dict[str, Tensor]:
        """Match features of D, the row, and its code."""
        nets, weights = self.networks, self.detector
        x = self.sampler.rows(weights.batch_rows)
        code = nets.encoder(x)
        back = nets.decoder(code)
        features = nets.discriminator.hidden
        return {
            "adv": weights.w_adv * (features(x) - features(back)).square().mean(),
            "con": weights.w_con * (x - back).abs().mean(),
            "enc": weights.w_enc * (code - nets.recoder(back)).square().mean(),
        }
