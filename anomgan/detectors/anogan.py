"""AnoGAN (Schlegl et al., 2017): a GAN, and a search for each row's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler
from anomgan.training.objectives import NonSaturating
from anomgan.training.penalties import zero_centred_penalty

__all__ = ["AnoGAN"]

PENALTY_INTERVAL = 4
"""Steps between two penalties, whose weight makes up for it (Karras et al., 2020, appendix B)."""
BETAS = (0.9, 0.999)
"""Of the search's Adam (Kingma & Ba, 2015, algorithm 1), as is its epsilon, 1e-8."""
SMOOTH = 0.1
"""Gap, in standard deviations, below which a distance is nearly a square: see the notes."""
RESOLUTION = 0.01
"""Added to every loss: see the notes."""
_WORST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class AnoGAN(Detector):
    """Unsupervised anomaly detection with GANs.

    Generator G and discriminator D play the GAN game, D(x) large for rows (section 2.1, eq. 1).
    For a row x, `inversion_steps` steps of Adam search the code z that minimises (section 2.2,
    eq. 2 to 5)

        L(z) = (1 - lambda) L_R(z) + lambda L_D(z),
        L_R(z) = |x - G(z)|_1,  L_D(z) = |f(x) - f(G(z))|_1,

    f being the last hidden layer of D. The score is L at the best code on the way (section 2.3).
    Nothing but the codes moves.

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    feature_weight : float
        lambda, in [0, 1].
    inversion_steps : int
        Steps of the search.
    inversion_rate : float
        Adam's rate in the search.
    penalty : float
        Weight of R1 (Mescheder et al., 2018, eq. 9) on rows; 0: none.

    Notes
    -----
    Not as in the paper:

    - two latent dimensions (chosen on three development sets of the project): a search through as
      many codes as a row has values gives every row back, abnormal ones too. For a table as varied
      as KDD-99 two are too few (docs/accuracy.md): give it more there;
    - perceptrons (64 and 128 units in the generator, 128 and 64 in the discriminator) instead of
      convolutions: rows are no images. No batch normalisation;
    - every search starts from z = 0, the likeliest code, instead of a random one: a row's score
      must be the same today and tomorrow;
    - the best code of the walk is kept, instead of the last;
    - |r| is r^2 / (sqrt(r^2 + c^2) + c), which is |r| - c for r far above c = 0.1 standard
      deviations, and networks have ELU units. At a kink two runtimes round to different sides,
      and 500 steps later their codes have parted;
    - the search's rate falls linearly to 0, so that a walk comes to rest;
    - a score is the loss plus 0.01, which changes no rank: where a generator gives rows back
      exactly, what is left of the loss is rounding, and must not become the unit of the scores;
    - the GAN is trained with R1 (`penalty`, 0 leaves it out), and its weights are averaged.

    References
    ----------
    Schlegl, Seeboeck, Waldstein, Schmidt-Erfurth & Langs (2017). Unsupervised anomaly detection
    with generative adversarial networks to guide marker discovery. IPMI. arXiv:1703.05921.
    """

    latent_dim: int = 2
    feature_weight: float = 0.1
    inversion_steps: int = 500
    inversion_rate: float = 0.02
    penalty: float = 1.0

    name: ClassVar[str] = "anogan"
    summary: ClassVar[str] = "GAN, and a search for the code of each row"
    paper: ClassVar[str] = (
        "Schlegl, Seeböck, Waldstein, Schmidt-Erfurth & Langs (2017), Unsupervised anomaly "
        "detection with generative adversarial networks to guide marker discovery, IPMI"
    )

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"inversion_steps": 1, "penalty": 0.0}

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return (*super().above_zero(), "inversion_rate")

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        if 0.0 <= self.feature_weight <= 1.0:
            return []
        return [f"feature_weight is {self.feature_weight}, it must lie in [0, 1]"]

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make a generator and a discriminator."""
        networks = _Networks(sizes.n_features, self.latent_dim, draws).to(sampler.data.device)
        losses = _Losses(networks, sampler, self)
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
            players={name: list(net.parameters()) for name, net in networks.named_children()},
            phases=tuple(phases),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Search each row's code, and give what it leaves."""
        k = networks["generator"].widths[0]
        features = a.network(x, networks["discriminator"])[-2]
        zeros = a.copies(x, np.zeros(k, dtype=np.float32))
        turns = self.inversion_steps + 1  # the last one looks at the last code, and goes nowhere

        def turn(a: Arithmetic[Any], state: tuple[Any, ...]) -> tuple[Any, ...]:
            walk, best, least = state[:-2], state[-2], state[-1]
            code = walk[0]
            search = _Search(a, networks, self.feature_weight, x, features, code)
            better = a.subtract(least, search.loss)  # a loss that is no number is no better
            return (
                *self._step(a, walk, search.gradient()),
                a.choose(better, code, best),
                a.choose(better, search.loss, least),
            )

        one, worst = (a.copies(x, np.full(1, v, dtype=np.float32)) for v in (1.0, _WORST))
        state = (zeros, zeros, zeros, one, one, one, zeros, worst)
        best = a.repeat(turns, turn, state)[-2]
        found = _Search(a, networks, self.feature_weight, x, features, best)
        return Parts(found.residual, a.add(found.doubt, a.constant(RESOLUTION)))

    def _step(self, a: Arithmetic[Any], walk: tuple[Any, ...], gradient: Any) -> tuple[Any, ...]:
        """Take a step of Adam; `walk` is code, moments, powers of the betas, share of the rate."""
        code, first, second, power1, power2, share = walk
        one = a.constant(1.0)
        first = a.add(a.scale(first, BETAS[0]), a.scale(gradient, 1.0 - BETAS[0]))
        second = a.add(a.scale(second, BETAS[1]), a.scale(a.square(gradient), 1.0 - BETAS[1]))
        power1, power2 = a.scale(power1, BETAS[0]), a.scale(power2, BETAS[1])
        mean = a.divide(first, a.subtract(one, power1))
        size = a.sqrt(a.divide(second, a.subtract(one, power2)))
        move = a.divide(mean, a.add(size, a.constant(1e-8)))
        code = a.subtract(code, a.multiply(move, a.scale(share, self.inversion_rate)))
        share = a.subtract(share, a.constant(1.0 / self.inversion_steps))
        return code, first, second, power1, power2, share


class _Search:
    """L(z) of rows at their codes, and its gradient.

    Attributes
    ----------
    residual : value [n, d]
        (1 - lambda) L_R, by feature.
    doubt, loss : value [n, 1]
        lambda L_D, and the sum of both.
    """

    def __init__(
        self,
        a: Arithmetic[Any],
        networks: Mapping[str, FrozenNetwork],
        weight: float,
        x: Any,
        features: Any,
        code: Any,
    ) -> None:
        self.a, self.weight = a, weight
        self.generator, self.judge = networks["generator"], networks["discriminator"]
        self.made = a.network(code, self.generator)
        self.judged = a.network(self.made[-1], self.judge)[:-1]
        gap, self.slope = self._smooth(a.subtract(self.made[-1], x))  # [n, d]
        feature_gap, self.feature_slope = self._smooth(a.subtract(self.judged[-1], features))
        self.residual = a.scale(gap, 1.0 - weight)
        self.doubt = a.scale(a.row_sum(feature_gap, self.judge.widths[-2]), weight)
        self.loss = a.add(a.row_sum(self.residual, self.judge.widths[0]), self.doubt)

    def gradient(self) -> Any:
        """Give dL/dz, [n, k]."""
        a = self.a
        of_features = a.scale(self.feature_slope, self.weight)
        of_row = a.add(
            a.scale(self.slope, 1.0 - self.weight),
            a.pull_back(self.judge, self.judged, of_features),
        )
        return a.pull_back(self.generator, self.made, of_row)

    def _smooth(self, r: Any) -> tuple[Any, Any]:
        """Give sqrt(r^2 + c^2) - c, written so that nothing cancels, and its derivative."""
        a = self.a
        square, c = a.square(r), a.constant(SMOOTH)
        root = a.sqrt(a.add(square, a.constant(SMOOTH**2)))
        return a.divide(square, a.add(root, c)), a.divide(r, root)


class _Networks(nn.Module):
    def __init__(self, d: int, k: int, draws: torch.Generator) -> None:
        super().__init__()
        self.generator = BatchedMLP(1, (k, 64, 128, d), generator=draws, activation="elu")
        self.discriminator = BatchedMLP(1, (d, 128, 64, 1), generator=draws, activation="elu")


class _Losses:
    def __init__(self, networks: _Networks, sampler: Sampler, detector: AnoGAN) -> None:
        self.networks, self.sampler, self.detector = networks, sampler, detector
        self.objective = NonSaturating()

    def discriminator(self) -> dict[str, Tensor]:
        """Tell rows from generated ones."""
        real = self.sampler.rows(self.detector.batch_rows)
        with torch.no_grad():
            fake = self._made()
        return {"rows": self.objective.discriminator_loss(self._logit(real), self._logit(fake))}

    def penalty(self) -> dict[str, Tensor]:
        """Keep D flat around rows."""
        x = self.sampler.rows(self.detector.batch_rows).requires_grad_(True)
        slope = zero_centred_penalty(self._logit(x), x)
        return {"r1": 0.5 * self.detector.penalty * PENALTY_INTERVAL * slope}

    def generator(self) -> dict[str, Tensor]:
        """Make rows that D takes for real."""
        fake = self._logit(self._made())
        return {"rows": self.objective.generator_loss(fake, fake)}

    def _logit(self, rows: Tensor) -> Tensor:
        logit: Tensor = self.networks.discriminator(rows).squeeze(2)
        return logit

    def _made(self) -> Tensor:
        codes = self.sampler.normal(self.detector.batch_rows, self.detector.latent_dim)
        rows: Tensor = self.networks.generator(codes)
        return rows
