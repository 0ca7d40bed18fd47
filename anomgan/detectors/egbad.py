"""EGBAD (Zenati et al., 2018): a bidirectional GAN, scored by its reconstruction and its judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import LEAK, BatchedMLP
from anomgan.training.loop import Phase, Sampler
from anomgan.training.penalties import zero_centred_penalty

__all__ = ["EGBAD"]

SCORES = ("cross-e", "fm")
PENALTY_INTERVAL = 4
"""Steps between two penalties, whose weight makes up for it (Karras et al., 2020, appendix B)."""


@dataclass(frozen=True)
class EGBAD(Detector):
    """Efficient GAN-based anomaly detection.

    Generator G and encoder E are trained against one discriminator D(x, z) that tells (x, E(x))
    from (G(z), z), the game of BiGAN (section 3, eq. 1 and 2). A row's score is

        A(x) = alpha L_G(x) + (1 - alpha) L_D(x),  L_G(x) = |x - G(E(x))|_1,

    where L_D is the cross-entropy of D calling (x, E(x)) real, or the L1 distance of D's last
    hidden layer between (x, E(x)) and (G(E(x)), E(x)) (section 3, "feature-matching loss").

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    score_by : {"fm", "cross-e"}
        What L_D is.
    alpha : float
        Weight of L_G, in [0, 1].
    penalty : float
        Weight of R1 (Mescheder et al., 2018, eq. 9) on pairs (x, E(x)); 0: none.

    Notes
    -----
    The networks are those of the paper's experiments on KDD99 (appendix): 64 and 128 units in the
    generator, 64 in the encoder, 128 for rows and 128 for codes in the discriminator and 128 for
    both together, and 32 latent dimensions. Not as there:

    - no dropout in the discriminator, which would leave a score to chance;
    - R1 on the discriminator (`penalty`, 0 leaves it out);
    - averaged weights with a half-life in rows, and fewer and larger steps that decay (the paper:
      1e-5 over 50 epochs of half a million rows; tables are smaller).

    References
    ----------
    Zenati, Foo, Lecouat, Manek & Chandrasekhar (2018). Efficient GAN-based anomaly detection.
    arXiv:1802.06222.
    """

    score_by: str = "fm"
    alpha: float = 0.9
    penalty: float = 1.0

    name: ClassVar[str] = "egbad"
    summary: ClassVar[str] = "bidirectional GAN, scored by reconstruction and discriminator"
    paper: ClassVar[str] = (
        "Zenati, Foo, Lecouat, Manek & Chandrasekhar (2018), Efficient GAN-based anomaly "
        "detection, arXiv:1802.06222"
    )

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"penalty": 0.0}

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        faults = []
        if self.score_by not in SCORES:
            faults.append(
                f"score_by is {self.score_by!r}, it must be one of {', '.join(map(repr, SCORES))}"
            )
        if not 0.0 <= self.alpha <= 1.0:
            faults.append(f"alpha is {self.alpha}, it must lie in [0, 1]")
        return faults

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make generator, encoder and the discriminator's three parts."""
        networks = _Networks(sizes.n_features, self.latent_dim, draws).to(sampler.data.device)
        losses = _Losses(networks, sampler, self)
        judges = [networks.d_x, networks.d_z, networks.d_joint]
        makers = [networks.generator, networks.encoder]
        phases = [
            Phase("discriminator", "discriminator", losses.discriminator),
            Phase("generator", "generator", losses.generator),
        ]
        if self.penalty:
            phases.insert(
                1, Phase("penalty", "discriminator", losses.penalty, interval=PENALTY_INTERVAL)
            )
        return Game(
            networks,
            players={
                "discriminator": [p for net in judges for p in net.parameters()],
                "generator": [p for net in makers for p in net.parameters()],
            },
            phases=tuple(phases),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Weigh |x - G(E(x))|_1, by feature, and what D holds against (x, E(x))."""
        code = a.network(x, networks["encoder"])[-1]
        back = a.network(code, networks["generator"])[-1]  # [n, d]
        of_code = a.activate(a.network(code, networks["d_z"])[-1], "leaky_relu")

        def judged(rows: Any) -> tuple[Any, ...]:
            of_row = a.activate(a.network(rows, networks["d_x"])[-1], "leaky_relu")
            return a.network(a.concatenate(of_row, of_code), networks["d_joint"])

        hidden, logit = judged(x)
        if self.score_by == "cross-e":
            doubt = a.softplus(a.negate(logit))  # -log D(x, E(x))
        else:
            gap = a.absolute(a.subtract(hidden, judged(back)[0]))
            doubt = a.row_sum(gap, networks["d_joint"].widths[-2])
        lost = a.absolute(a.subtract(x, back))
        return Parts(a.scale(lost, self.alpha), a.scale(doubt, 1.0 - self.alpha))


class _Networks(nn.Module):
    def __init__(self, d: int, k: int, draws: torch.Generator) -> None:
        super().__init__()
        self.generator = BatchedMLP(1, (k, 64, 128, d), generator=draws, activation="relu")
        self.encoder = BatchedMLP(1, (d, 64, k), generator=draws)
        self.d_x = BatchedMLP(1, (d, 128), generator=draws)
        self.d_z = BatchedMLP(1, (k, 128), generator=draws)
        self.d_joint = BatchedMLP(1, (256, 128, 1), generator=draws)

    def logit(self, x: Tensor, z: Tensor) -> Tensor:
        """Judge pairs [1, n, d], [1, n, k]: [1, n], larger for pairs that look like data."""
        return pair_logit(self.d_x, self.d_z, self.d_joint, x, z)


def pair_logit(
    of_row: nn.Module, of_code: nn.Module, joint: nn.Module, x: Tensor, z: Tensor
) -> Tensor:
    """Judge rows [1, n, d] with codes [1, n, k], by a layer of each and one of both: [1, n]."""
    hidden = [leaky_relu(of_row(x), LEAK), leaky_relu(of_code(z), LEAK)]
    logit: Tensor = joint(torch.cat(hidden, dim=2))
    return logit.squeeze(2)


class _Losses:
    def __init__(self, networks: _Networks, sampler: Sampler, detector: EGBAD) -> None:
        self.networks, self.sampler, self.detector = networks, sampler, detector

    def discriminator(self) -> dict[str, Tensor]:
        """Tell (x, E(x)) from (G(z), z)."""
        with torch.no_grad():
            x, code, made, z = self._pairs()
        logit = self.networks.logit
        return {"pairs": (softplus(-logit(x, code)) + softplus(logit(made, z))).mean()}

    def penalty(self) -> dict[str, Tensor]:
        """Keep D flat around (x, E(x))."""
        x = self.sampler.rows(self.detector.batch_rows)
        with torch.no_grad():
            pair = torch.cat([x, self.networks.encoder(x)], dim=2)
        pair.requires_grad_(True)
        d = x.shape[2]
        slope = zero_centred_penalty(self.networks.logit(pair[..., :d], pair[..., d:]), pair)
        return {"r1": 0.5 * self.detector.penalty * PENALTY_INTERVAL * slope}

    def generator(self) -> dict[str, Tensor]:
        """Have the pairs taken for each other."""
        x, code, made, z = self._pairs()
        logit = self.networks.logit
        return {"pairs": (softplus(logit(x, code)) + softplus(-logit(made, z))).mean()}

    def _pairs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.sampler.rows(self.detector.batch_rows)  # [1, n, d]
        z = self.sampler.normal(self.detector.batch_rows, self.detector.latent_dim)  # [1, n, k]
        return x, self.networks.encoder(x), self.networks.generator(z), z
