"""The flagship: an ensemble of GANs whose discriminator also grades diffused real rows.

Three networks a member are trained on normal rows only:

- a **generator** and a **critic** head play a relativistic pairing game with zero-centred
  gradient penalties on both sides (Huang et al., 2024);
- the **encoder** learns where a row lies in latent space, and the generator to give it back;
- the discriminator's **noise-grading** heads learn how diffused a row is: real rows are
  blurred with Gaussian noise of log-uniform width, and the level is the class. A critic that
  only ever saw real and generated rows is arbitrary elsewhere; one that graded noise around
  the data knows in which direction the data lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from anomgan.nets.tabular import TabularNetworks
from anomgan.training.loop import Phase, Sampler
from anomgan.training.noise import InstanceNoise
from anomgan.training.objectives import Objective, feature_matching
from anomgan.training.penalties import squared_norm
from anomgan.training.unrolling import FunctionalDiscriminator, unrolled

__all__ = [
    "FlagshipGame",
    "GameWeights",
    "NoiseScale",
    "Stabilisers",
    "latent_dimension",
    "noise_scale",
]

CLEAN_SHARE = 0.25
"""Share of clean rows among those that are graded."""
CLEAN_BLUR = 0.3
"""Blur of the clean class, in units of the nearest-neighbour spacing: it keeps the class a
density where columns are discrete."""
PAIR_SHARE = 0.25
"""Real-against-generated pairs at each step, a graded row: the generator needs fewer."""
LOOSE_FROM = 0.6
"""Looseness from which kernels widen."""
_NARROWEST_KERNEL, _WIDEST_KERNEL = 0.01, 3.0
"""Bounds of the kernel, in standardised units: a stray row may not stretch it without end."""
PENALTY_INTERVAL = 4
"""Steps between two gradient-penalty updates (lazy regularisation)."""


@dataclass(frozen=True)
class NoiseScale:
    """Widths that follow the spacing and the clustering of the known rows.

    Attributes
    ----------
    spacing : float
        q: median nearest-neighbour distance over the square root of the number of features,
        the typical step from a row to its neighbour, a feature.
    looseness : float
        Median nearest-neighbour distance, repeated rows included, over the same of a Gaussian
        sample of equal size and covariance: near 0 for rows in tight clusters, on a thin manifold
        or in several copies, near 1 for rows without any structure that a Gaussian lacks (a
        clustering tendency in the sense of Hopkins & Skellam, 1954, against a Gaussian instead of
        a uniform reference).
    smallest, largest : float
        Range of the graded noise, in standardised units.
    n_levels : int
    """

    spacing: float
    looseness: float
    smallest: float = 0.03
    largest: float = 2.0
    n_levels: int = 7

    @property
    def smoothness(self) -> float:
        """How far to smooth, in [0, 1].

        Where rows have structure at the scale of their neighbours, a narrow kernel and the
        network see it; where they have none, both would only follow the sample.
        """
        return min(1.0, max(0.0, (self.looseness - LOOSE_FROM) / (1.0 - LOOSE_FROM)))

    @property
    def bandwidth(self) -> float:
        """Temperature s of the reconstruction: squared distances count in units of 2 s^2."""
        return min(0.35, max(self.smallest, 3.0 * self.spacing))

    @property
    def kernel_width(self) -> float:
        """Kernel width h of the memory: one spacing, up to three without structure."""
        width = max(_NARROWEST_KERNEL, self.spacing) * (1.0 + 2.0 * self.smoothness)
        return min(_WIDEST_KERNEL, width)

    @property
    def read_level(self) -> float:
        """Noise level at which the score reads the discriminator."""
        return min(self.largest, max(self.smallest, 1.5 * self.spacing))

    @property
    def log_edges(self) -> tuple[float, float]:
        """Logarithms of the range."""
        return math.log(self.smallest), math.log(self.largest)

    def read_weights(self) -> tuple[float, ...]:
        """Weights over the noise classes that read the discriminator at `read_level`.

        Linear interpolation between the two classes whose log-centres enclose it.
        """
        low, high = self.log_edges
        position = (math.log(self.read_level) - low) / (high - low) * self.n_levels - 0.5
        position = min(max(position, 0.0), self.n_levels - 1.0)
        below = min(int(position), self.n_levels - 2)
        share = position - below
        weights = [0.0] * self.n_levels
        weights[below] = 1.0 - share
        weights[below + 1] = share
        return tuple(weights)


def noise_scale(
    nearest_distances: Tensor,
    gaussian_distance: float,
    n_features: int,
    *,
    repeated_share: float = 0.0,
) -> NoiseScale:
    """Measure spacing and looseness.

    Parameters
    ----------
    nearest_distances : Tensor [n]
        Leave-one-out distances of distinct known rows to their nearest neighbour.
    gaussian_distance : float
        Their median in Gaussian samples of as many rows and the same covariance.
    n_features : int
        Encoded columns, d.
    repeated_share : float
        Share of the known rows, in [0, 1], that stand there more than once: their nearest
        neighbour is at distance 0.
    """
    typical = 0.0
    if repeated_share < 0.5:
        level = (0.5 - repeated_share) / (1.0 - repeated_share)
        typical = float(nearest_distances.quantile(level, interpolation="lower"))
    return NoiseScale(
        spacing=float(nearest_distances.median()) / math.sqrt(n_features),
        looseness=typical / gaussian_distance if gaussian_distance > 0.0 else 1.0,
    )


def latent_dimension(
    rows: Tensor, *, share: float = 0.9, smallest: int = 2, largest: int = 24
) -> int:
    """Return how many principal components hold `share` of the rows' variance.

    Parameters
    ----------
    rows : Tensor [n, d]
    share : float
    smallest, largest : int
        Bounds; the result is also below d where d > 1.
    """
    rows = rows.double()
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / max(1, len(rows) - 1)
    values = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0.0)
    total = float(values.sum())
    needed = 1
    if total > 0.0:
        needed += int((torch.cumsum(values, 0) / total < share).sum())
    return max(1, min(max(needed, smallest), largest, max(1, rows.shape[1] - 1)))


@dataclass(frozen=True)
class GameWeights:
    """Weights of the loss terms.

    Attributes
    ----------
    adversarial : float
        Of both players' adversarial losses; the discriminator's grading has weight 1.
    penalty : float
        gamma of R1 and R2 (Mescheder et al., 2018).
    reconstruction : float
        Weight of giving back encoded real rows.
    cycle : float
        Weight of the encoder finding the code of a generated row.
    features : float
        Weight of matching mean features (`anomgan.training.objectives.feature_matching`).
    """

    adversarial: float = 1.0
    penalty: float = 1.0
    reconstruction: float = 10.0
    cycle: float = 0.5
    features: float = 0.0


@dataclass(frozen=True)
class Stabilisers:
    """What else steadies the adversarial game; by default nothing does.

    Attributes
    ----------
    discriminator_steps : int
        Updates of the discriminator at each step, and of its penalties where they are due: their
        weight beside it stays (Goodfellow et al., 2014, algorithm 1).
    unrolled_steps : int
        Steps of the critic that the generator looks ahead (`anomgan.training.unrolling`).
    unrolled_rate : float
        Learning rate of these.
    noise : InstanceNoise
        On the rows that the critic is shown, real and generated, in both players' phases. Graded
        rows have their own noise, which is what the grades tell.
    """

    discriminator_steps: int = 1
    unrolled_steps: int = 0
    unrolled_rate: float = 0.1
    noise: InstanceNoise = field(default_factory=lambda: InstanceNoise(0.0))


class FlagshipGame:
    """Phases of the flagship for one `Trainer`.

    Parameters
    ----------
    networks : TabularNetworks
    sampler : Sampler
    scale : NoiseScale
    objective : Objective
    weights : GameWeights
    batch_rows : int
        Rows graded at each step; `PAIR_SHARE` as many pairs play the adversarial game.
    stabilisers : Stabilisers
    """

    def __init__(
        self,
        networks: TabularNetworks,
        *,
        sampler: Sampler,
        scale: NoiseScale,
        objective: Objective,
        weights: GameWeights,
        batch_rows: int,
        stabilisers: Stabilisers | None = None,
    ) -> None:
        self.networks = networks
        self.sampler = sampler
        self.scale = scale
        self.objective = objective
        self.weights = weights
        self.batch_rows = batch_rows
        self.stabilisers = stabilisers or Stabilisers()
        self.n_clean = max(1, round(CLEAN_SHARE * batch_rows))
        self.n_pairs = max(2, round(PAIR_SHARE * batch_rows))

    def players(self) -> dict[str, list[torch.nn.Parameter]]:
        """Return parameters by optimiser."""
        nets = self.networks
        return {
            "discriminator": list(nets.discriminator.parameters()),
            "generator": [*nets.generator.parameters(), *nets.encoder.parameters()],
        }

    def phases(self) -> tuple[Phase, ...]:
        """Return discriminator, its lazy penalties, then generator with encoder."""
        k = self.stabilisers.discriminator_steps
        return (
            Phase("discriminator", "discriminator", self.discriminator_losses, repeats=k),
            Phase("penalty", "discriminator", self.penalty_losses, PENALTY_INTERVAL, repeats=k),
            Phase("generator", "generator", self.generator_losses),
        )

    def log_priors(self) -> Tensor:
        """Return log class shares in the graded batches, [1 + levels]."""
        clean = self.n_clean / self.batch_rows
        noisy = (1.0 - clean) / self.scale.n_levels
        return torch.tensor([clean] + [noisy] * self.scale.n_levels).log()

    def generate(self, n: int) -> Tensor:
        """Return [m, n, d] generated rows."""
        latents = self.sampler.normal(n, self.networks.sizes.latent_dim)  # [m, n, k]
        return self.networks.generator.fused(latents)

    def discriminator_losses(self) -> Mapping[str, Tensor]:
        """Grade diffused rows, and tell real from generated ones."""
        rows, grades = self._diffused()  # [m, b, d], [m, b]
        real = self.sampler.rows(self.n_pairs)  # [m, p, d]
        with torch.no_grad():
            fake = self.generate(self.n_pairs)  # [m, p, d]
        pairs = self._blurred(torch.cat([real, fake], dim=1))  # [m, 2 p, d]
        logits = self.networks.discriminator.fused(torch.cat([rows, pairs], dim=1))
        graded, paired = logits[:, : self.batch_rows, 1:], logits[:, self.batch_rows :, 0]
        grading = cross_entropy(graded.flatten(0, 1), grades.flatten(), reduction="mean")
        adversarial = self.objective.discriminator_loss(
            paired[:, : self.n_pairs], paired[:, self.n_pairs :]
        )
        return {
            "grading": grading * self.sampler.n_members,
            "adversarial": self.weights.adversarial * adversarial,
        }

    def penalty_losses(self) -> Mapping[str, Tensor]:
        """Return R1 on real and R2 on generated rows, scaled up for the skipped steps."""
        n = self.n_pairs
        real = self.sampler.rows(n)  # [m, p, d]
        with torch.no_grad():
            fake = self.generate(n)
        rows = self._blurred(torch.cat([real, fake], dim=1))
        penalty = squared_norm(self.networks.discriminator.input_gradient(rows, 0))
        # The mean over both halves is (R1 + R2) / 2, the usual gamma / 2 each.
        return {
            "r1r2": self.weights.adversarial * self.weights.penalty * PENALTY_INTERVAL * penalty
        }

    def generator_losses(self) -> Mapping[str, Tensor]:
        """Fool the critic, give back encoded rows, and let the encoder find codes.

        With a weight for it, generated rows also have the features of real ones on average.
        """
        nets, weights = self.networks, self.weights
        real = self.sampler.rows(self.n_pairs)  # [m, p, d]
        latents = self.sampler.normal(self.n_pairs, nets.sizes.latent_dim)  # [m, p, k]
        codes = torch.cat([latents, nets.encoder.fused(real)], dim=1)  # [m, 2 p, k]
        fake, returned = nets.generator.fused(codes).chunk(2, dim=1)  # [m, p, d]
        shown = self._blurred(real), self._blurred(fake)
        adversarial = self._fooling(*shown)
        reconstruction = (returned - real).square().mean(dim=(1, 2)).sum()
        cycle = (nets.encoder.fused(fake.detach()) - latents).square().mean(dim=(1, 2)).sum()
        losses = {
            "adversarial": weights.adversarial * adversarial,
            "reconstruction": weights.reconstruction * reconstruction,
            "cycle": weights.cycle * cycle,
        }
        if weights.features > 0.0:
            losses["features"] = weights.features * self._feature_gap(*shown)
        return losses

    def _fooling(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator by the critic, or by what it will be some steps ahead."""
        discriminator, own = self.networks.discriminator, self.stabilisers
        if own.unrolled_steps == 0:
            logits = discriminator.fused(torch.cat([real, fake], dim=1))[..., 0]
            on_real, on_fake = logits.chunk(2, dim=1)  # [m, p]
            # The generator does not move real rows.
            return self.objective.generator_loss(on_real.detach(), on_fake)

        def answer(d: FunctionalDiscriminator) -> Tensor:
            loss = self.objective.discriminator_loss(d(real)[..., 0], d(fake)[..., 0])
            return self.weights.adversarial * loss

        ahead = unrolled(discriminator, answer, own.unrolled_steps, own.unrolled_rate)
        # Here the generator moves the logits of real rows too: the critic answered to it.
        return self.objective.generator_loss(ahead(real)[..., 0], ahead(fake)[..., 0])

    def _feature_gap(self, real: Tensor, fake: Tensor) -> Tensor:
        hidden = self.networks.discriminator.hidden
        with torch.no_grad():
            on_real = hidden(real)  # [m, p, w]
        return feature_matching(on_real, hidden(fake))

    def _blurred(self, rows: Tensor) -> Tensor:
        return self.stabilisers.noise(rows, self.sampler)

    def _diffused(self) -> tuple[Tensor, Tensor]:
        rows = self.sampler.rows(self.batch_rows)  # [m, b, d]
        noise = self.sampler.normal(self.batch_rows, rows.shape[2])  # [m, b, d]
        place = self.sampler.uniform(self.batch_rows - self.n_clean)  # [m, b - c]
        low, high = self.scale.log_edges
        width = torch.exp(low + (high - low) * place)
        clean = torch.full_like(place[:, :1], CLEAN_BLUR * self.scale.spacing)
        width = torch.cat([clean.expand(-1, self.n_clean), width], dim=1)  # [m, b]
        grade = (place * self.scale.n_levels).long().clamp(max=self.scale.n_levels - 1) + 1
        grade = torch.cat([torch.zeros_like(grade[:, :1]).expand(-1, self.n_clean), grade], dim=1)
        return rows + width.unsqueeze(2) * noise, grade
