"""ALAD (Zenati et al., 2018): a bidirectional GAN with cycle consistency, scored by features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.detectors.egbad import pair_logit
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.nets.spectral import SpectralLinear
from anomgan.training.loop import Phase, Sampler

__all__ = ["ALAD"]

Pair = tuple[Tensor, Tensor]
SCORES = ("features", "logits", "l1", "l2")


@dataclass(frozen=True)
class ALAD(Detector):
    """Adversarially learned anomaly detection.

    Generator G and encoder E are trained against three discriminators: D_xz tells (x, E(x)) from
    (G(z), z), D_xx tells (x, x) from (x, G(E(x))), and D_zz tells (z, z) from (z, E(G(z))) (section
    3.1, eq. 3 to 5). A row's score is the L1 distance of the features f of D_xx, its last hidden
    layer, between (x, x) and (x, G(E(x))) (section 3.3, eq. 6).

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    score_by : {"features", "logits", "l1", "l2"}
        The four scores that section 4.4 compares: features of D_xx, its logit, and the L1 or
        squared L2 distance of the row to G(E(x)).
    spectral_norm : bool
        Divide the matrices of the discriminators by their largest singular values (section 3.2;
        Miyato et al., 2018).

    Notes
    -----
    The networks are those of the authors' code for KDD-99: 64 and 128 units in the generator, 64 in
    the encoder, in D_xz a layer of 128 for the row, one for the code and one for both, 128 units in
    D_xx and 32 in D_zz, 32 latent dimensions, Xavier's initial weights. Not as there:

    - no batch normalisation and no dropout: a row's score would depend on other rows, or on chance;
    - spectral normalisation as the paper has it, which the code uses for images alone, and not in
      the encoder;
    - fewer, larger and decaying steps (the code takes 100 epochs at a rate of 1e-5);
    - the logit score is softplus(-logit) of D_xx at (x, G(E(x))), minus the log of what the
      discriminator believes.

    References
    ----------
    Zenati, Romain, Foo, Lecouat & Chandrasekhar (2018). Adversarially learned anomaly detection.
    ICDM.
    """

    score_by: str = "features"
    spectral_norm: bool = True

    name: ClassVar[str] = "alad"
    summary: ClassVar[str] = "bidirectional GAN with cycle consistency, scored by features of D_xx"
    paper: ClassVar[str] = (
        "Zenati, Romain, Foo, Lecouat & Chandrasekhar (2018), Adversarially learned anomaly "
        "detection, ICDM"
    )

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        if self.score_by in SCORES:
            return []
        return [f"score_by is {self.score_by!r}, it must be one of {', '.join(SCORES)}"]

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make five networks, and three discriminators' phases beside the generator's."""
        networks = _Networks(sizes.n_features, self.latent_dim, draws, spectral=self.spectral_norm)
        networks = networks.to(sampler.data.device)
        losses = _Losses(networks, sampler, self.batch_rows, self.latent_dim)
        parts = (networks.d_x, networks.d_z, networks.d_joint, networks.d_xx, networks.d_zz)
        judges = [p for part in parts for p in part.parameters()]
        makers = [*networks.generator.parameters(), *networks.encoder.parameters()]
        return Game(
            networks,
            players={"discriminators": judges, "generator": makers},
            phases=(
                Phase("discriminators", "discriminators", losses.discriminators),
                Phase("generator", "generator", losses.generator),
            ),
        )

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out encoder, generator and D_xx: the score knows no other."""
        frozen = super().freeze(networks)
        return {name: frozen[name] for name in ("encoder", "generator", "d_xx")}

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Compare (x, x) with (x, G(E(x)))."""
        code = a.network(x, networks["encoder"])[-1]
        back = a.network(code, networks["generator"])[-1]  # [n, d]
        gap = a.subtract(back, x)
        if self.score_by == "l1":
            return Parts(a.absolute(gap), None)
        if self.score_by == "l2":
            return Parts(a.square(gap), None)
        judge = networks["d_xx"]
        *_, returned, logit = a.network(a.concatenate(x, back), judge)
        if self.score_by == "logits":
            return Parts(None, a.softplus(a.negate(logit)))
        itself = a.network(a.concatenate(x, x), judge)[-2]
        distance = a.row_sum(a.absolute(a.subtract(itself, returned)), judge.widths[-2])
        return Parts(None, distance)


class _Networks(nn.Module):
    def __init__(self, d: int, k: int, draws: torch.Generator, *, spectral: bool) -> None:
        super().__init__()
        plain = partial(BatchedMLP, 1, generator=draws, scheme="xavier")
        make = partial(plain, linear=SpectralLinear) if spectral else plain
        self.generator = plain((k, 64, 128, d), activation="relu")
        self.encoder = plain((d, 64, k))
        self.d_x, self.d_z, self.d_joint = make((d, 128)), make((k, 128)), make((256, 128, 1))
        self.d_xx = make((2 * d, 128, 1))
        self.d_zz = make((2 * k, 32, 1))

    def judge_xz(self, pair: Pair) -> Tensor:
        """Judge (x, z), [1, n]."""
        return pair_logit(self.d_x, self.d_z, self.d_joint, *pair)

    def judge_xx(self, pair: Pair) -> Tensor:
        """Judge (x, x'), [1, n]."""
        logit: Tensor = self.d_xx(torch.cat(pair, dim=2))
        return logit.squeeze(2)

    def judge_zz(self, pair: Pair) -> Tensor:
        """Judge (z, z'), [1, n]."""
        logit: Tensor = self.d_zz(torch.cat(pair, dim=2))
        return logit.squeeze(2)


class _Losses:
    """Losses of both sides; logits are larger for the first pair of each kind."""

    def __init__(
        self, networks: _Networks, sampler: Sampler, batch_rows: int, latent_dim: int
    ) -> None:
        self.networks, self.sampler = networks, sampler
        self.batch_rows, self.latent_dim = batch_rows, latent_dim

    def discriminators(self) -> dict[str, Tensor]:
        """Tell pairs of data from pairs that were made."""
        with torch.no_grad():
            pairs = self._pairs()
        return {name: _tell(judge(a), judge(b)) for name, judge, a, b in pairs}

    def generator(self) -> dict[str, Tensor]:
        """Have the pairs taken for each other."""
        return {name: _tell(judge(b), judge(a)) for name, judge, a, b in self._pairs()}

    def _pairs(self) -> list[tuple[str, Callable[[Pair], Tensor], Pair, Pair]]:
        nets = self.networks
        x = self.sampler.rows(self.batch_rows)  # [1, n, d]
        z = self.sampler.normal(self.batch_rows, self.latent_dim)  # [1, n, k]
        code, made = nets.encoder(x), nets.generator(z)
        back, recoded = nets.generator(code), nets.encoder(made)
        return [
            ("xz", nets.judge_xz, (x, code), (made, z)),
            ("xx", nets.judge_xx, (x, x), (x, back)),
            ("zz", nets.judge_zz, (z, z), (z, recoded)),
        ]


def _tell(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of calling the first pair 1 and the second 0, from logits [1, n]."""
    return (softplus(-first) + softplus(second)).mean()
