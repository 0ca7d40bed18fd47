"""Adversarial objectives: what discriminator and generator minimise, given logits.

An objective never sees a network, an optimiser or a batch; it maps logits to a loss. A
logit is larger for rows that look real. All losses are means over rows, summed over members.

Some objectives have a constructor argument `smoothing`: one-sided label smoothing (Salimans et
al., 2016, section 3.4) lowers the target of real rows by so much, and leaves that of generated
rows at 0, so that the discriminator is not driven to be ever more certain.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn.functional import softplus

from anomgan.errors import UsageError

__all__ = [
    "OBJECTIVES",
    "SMOOTHED",
    "EnergyBased",
    "Hinge",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "Objective",
    "RelativisticPairing",
    "Wasserstein",
    "feature_matching",
]


class Objective(Protocol):
    """Losses of the two players, each a scalar averaged over rows, summed over members."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator from its logits [m, n] on real and generated rows."""
        ...

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator from the same logits, `fake` carrying its gradient."""
        ...


class RelativisticPairing:
    """Each real row is compared with one generated row (RpGAN).

    With zero-centred gradient penalties on both sides this objective has no bad local
    minima of the mode-dropping kind (Sun et al., 2020) and converges locally (Huang et al.,
    2024, "The GAN is dead; long live the GAN!", eq. 2 and section 2.2).
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean over pairs of softplus(fake - real), summed over members."""
        return softplus(fake - real).mean(dim=1).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean over pairs of softplus(real - fake), summed over members."""
        return softplus(real - fake).mean(dim=1).sum()


class Minimax:
    """The original game, V(D, G), for D = sigmoid(logit) (Goodfellow et al., 2014, eq. 1).

    The generator minimises log(1 - D(fake)), which saturates: where the discriminator is sure,
    the generator hardly learns. `NonSaturating` is what the same paper trains with.

    Parameters
    ----------
    smoothing : float
        One-sided label smoothing, in [0, 1): real rows have the target 1 - smoothing.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = _checked_smoothing(smoothing)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Cross-entropy: -log D(real) - log(1 - D(fake)), with the smoothed target."""
        # -log D = softplus(-logit), -log(1 - D) = softplus(logit): neither overflows.
        on_real = softplus(-real)
        if self.smoothing:
            on_real = (1.0 - self.smoothing) * on_real + self.smoothing * softplus(real)
        return (on_real.mean(dim=1) + softplus(fake).mean(dim=1)).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the mean of log(1 - D(fake)); `real` does not enter."""
        return -softplus(fake).mean(dim=1).sum()


class NonSaturating(Minimax):
    """The generator maximises log D(fake) instead (Goodfellow et al., 2014, section 3).

    Same fixed point as `Minimax`, but a strong gradient where the discriminator is sure.

    Parameters
    ----------
    smoothing : float
        One-sided label smoothing, in [0, 1): real rows have the target 1 - smoothing.
    """

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the mean of -log D(fake); `real` does not enter."""
        return softplus(-fake).mean(dim=1).sum()


class Wasserstein:
    """Difference of the critic's means (Arjovsky et al., 2017, eq. 2 and algorithm 1).

    It estimates a distance only for a critic that is kept Lipschitz, and is unbounded for one
    that is not: combine it with `penalties.clip_weights`, a gradient penalty, or spectral
    normalisation. There is no label, hence no smoothing.
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean logit of generated rows less that of real ones, summed over members."""
        return (fake.mean(dim=1) - real.mean(dim=1)).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the mean logit of generated rows; `real` does not enter."""
        return -fake.mean(dim=1).sum()


class Hinge:
    """Margins of 1 on both sides (Lim & Ye, 2017; Miyato et al., 2018, eq. 16 and 17).

    Rows beyond their margin give the discriminator no gradient. There is no probability to
    smooth.
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Means of max(0, 1 - real) and max(0, 1 + fake), summed over members."""
        return ((1.0 - real).relu().mean(dim=1) + (1.0 + fake).relu().mean(dim=1)).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Minus the mean logit of generated rows; `real` does not enter."""
        return -fake.mean(dim=1).sum()


class LeastSquares:
    """Logits regressed on labels, with a = 0, b = 1, c = 1 (Mao et al., 2017, eq. 2).

    Parameters
    ----------
    smoothing : float
        One-sided label smoothing, in [0, 1): real rows have the label b = 1 - smoothing.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = _checked_smoothing(smoothing)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half the mean squares of real - b and of fake, summed over members."""
        on_real = (real - (1.0 - self.smoothing)).square().mean(dim=1)
        return 0.5 * (on_real + fake.square().mean(dim=1)).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Half the mean square of fake - 1, summed over members; `real` does not enter."""
        return 0.5 * (fake - 1.0).square().mean(dim=1).sum()


class EnergyBased:
    """Low energy for real rows, at least a margin for generated ones (EBGAN).

    Zhao et al., 2017, eq. 1 and 2. A logit is minus an energy; the paper's energy is a
    reconstruction error, which cannot be negative. With a discriminator whose energy can, the
    loss is bounded by a gradient penalty only, as that of `Wasserstein` is.

    Parameters
    ----------
    margin : float
        Energy above 0 from which a generated row gives the discriminator no gradient.
    """

    def __init__(self, margin: float = 1.0) -> None:
        if not margin > 0.0:
            raise UsageError(f"margin is {margin}, it must be above 0")
        self.margin = margin

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean energy of real rows, and what generated ones lack of the margin."""
        return (-real.mean(dim=1) + (self.margin + fake).relu().mean(dim=1)).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean energy of generated rows; `real` does not enter."""
        return -fake.mean(dim=1).sum()


def feature_matching(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Squared distance between mean features of real and of generated rows.

    Salimans et al., 2016, section 3.1. The generator's loss; the discriminator keeps its own.

    Parameters
    ----------
    real_features : Tensor [m, n, w]
        Hidden activations of the discriminator on real rows.
    fake_features : Tensor [m, g, w]
        The same on generated rows, carrying the generator's gradient.

    Returns
    -------
    Tensor
        Scalar: sum over features, summed over members.
    """
    return (real_features.mean(dim=1) - fake_features.mean(dim=1)).square().sum()


def _checked_smoothing(smoothing: float) -> float:
    if not 0.0 <= smoothing < 1.0:
        raise UsageError(f"smoothing is {smoothing}, it must lie in [0, 1)")
    return smoothing


OBJECTIVES: dict[str, type[Objective]] = {
    "relativistic": RelativisticPairing,
    "minimax": Minimax,
    "non-saturating": NonSaturating,
    "wasserstein": Wasserstein,
    "hinge": Hinge,
    "least-squares": LeastSquares,
    "energy-based": EnergyBased,
}
"""Objectives by the name that `GANDetector(objective=...)` takes."""

SMOOTHED: dict[str, type[Minimax] | type[LeastSquares]] = {
    "minimax": Minimax,
    "non-saturating": NonSaturating,
    "least-squares": LeastSquares,
}
"""Those of them that have labels, hence an argument `smoothing`."""
