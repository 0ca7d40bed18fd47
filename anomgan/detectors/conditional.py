"""A conditional GAN with an encoder, which scores values in their context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.detectors.boxed import Box, BoxedDiscriminator, into_box, verdict
from anomgan.detectors.spread import MOST_ROWS, error_spread
from anomgan.errors import UsageError
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler

__all__ = ["Conditional"]

_REACH = 2.5
"""Standard deviations of the codes' distribution that an encoder's code may lie off: beyond, a
generator has hardly been trained, and might make anything."""


@dataclass(frozen=True)
class Conditional(Detector):
    """Conditional GAN with an encoder.

    Some columns are the context c, all others are y, scored given c. The generator makes
    y = G(z, c), the discriminator tells (y, c) of the table from (G(z, c), c) (Mirza & Osindero,
    section 3.2, eq. 2), and from rows with the context of another row (Reed et al., algorithm 1).
    An encoder E(y, c) finds the code of a row: G(E(y, c), c) is to give y back, as in f-AnoGAN
    (Schlegl et al., section 2.2). A row's score has the squared errors of G(E(y, c), c) by
    feature, divided by the spread of such errors in training rows and averaged, plus
    `discriminator_weight` times -log D(y, c). Context features have no errors.

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    context : tuple of str, or str
        Names of the context columns; a string has them separated by commas. Empty: there is no
        context, and the detector is an ordinary GAN with an encoder.
    mismatch_weight : float
        Weight of rows with another row's context in D's loss; 0 for none. Without context there
        are none.
    discriminator_weight : float
        Of -log D in the score.
    cycle_weight : float
        Weight, in E's loss, of the error of E(G(z, c), c) as an estimate of z.
    gradient_penalty : float
        Weight of the squared norm of the logit's gradient at real rows (R1), 0 for none.

    Notes
    -----
    Not as in the papers:

    - E is trained along with G, not after it, and also on G's own rows (the cycle of a BiGAN's
      codes); its codes are kept within 2.5 standard deviations of the codes' distribution by a
      hyperbolic tangent, where G has learnt what is normal.
    - The residual of f-AnoGAN's discriminator features is replaced by -log D(y, c).
    - D is a `BoxedDiscriminator` over y and c; E sees y, and E and G see c, through the same box
      between the first and last percentiles of the features.
    - R1 on D; leaky rectifiers, 128 units a layer and 64 in D's second.

    References
    ----------
    Mirza & Osindero (2014). Conditional generative adversarial nets. arXiv 1411.1784.

    Reed, Akata, Yan, Logeswaran, Schiele & Lee (2016). Generative adversarial text to image
    synthesis. ICML.

    Schlegl, Seeböck, Waldstein, Langs & Schmidt-Erfurth (2019). f-AnoGAN: fast unsupervised anomaly
    detection with generative adversarial networks. Medical Image Analysis.
    """

    n_steps: int = 1000
    latent_dim: int = 8
    context: tuple[str, ...] = ()
    mismatch_weight: float = 3.0
    discriminator_weight: float = 10.0
    cycle_weight: float = 1.0
    gradient_penalty: float = 0.3
    given: tuple[int, ...] = field(default=(), metadata={"internal": True})
    scored: tuple[int, ...] = field(default=(), metadata={"internal": True})

    name: ClassVar[str] = "conditional"
    summary: ClassVar[str] = "conditional GAN with an encoder: values scored in their context"
    paper: ClassVar[str] = (
        "Mirza & Osindero (2014), Conditional generative adversarial nets, arXiv 1411.1784"
    )

    def __post_init__(self) -> None:
        names = self.context.split(",") if isinstance(self.context, str) else self.context
        object.__setattr__(self, "context", tuple(n.strip() for n in names if n.strip()))
        for internal in ("given", "scored"):  # JSON has lists only
            object.__setattr__(self, internal, tuple(map(int, getattr(self, internal))))
        super().__post_init__()

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        own = ("mismatch_weight", "discriminator_weight", "cycle_weight", "gradient_penalty")
        return super().at_least() | dict.fromkeys(own, 0.0)

    def bound(self, sizes: Sizes) -> Conditional:
        """Find the features of the context, and those that are left."""
        unknown = [name for name in self.context if name not in sizes.columns]
        if unknown:
            raise UsageError(
                f"the context names {', '.join(map(repr, unknown))}, which the model does not "
                f"read; its columns are {', '.join(sizes.columns)}"
            )
        given = sorted({i for name in self.context for i in sizes.columns[name]})
        scored = sorted(set(range(sizes.n_features)) - set(given))
        if not scored:
            raise UsageError(
                "the context holds every column that gives a feature: leave out at least one, to "
                "be scored in the context of the others"
            )
        return replace(self, given=tuple(given), scored=tuple(scored))

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make G, E and D."""
        networks = _Networks(self, sampler.data, draws).to(sampler.data.device)
        losses = _Losses(self, networks, sampler)
        return Game(
            networks,
            players={
                "discriminator": list(networks.discriminator.parameters()),
                "generator": list(networks.generator.parameters()),
                "encoder": list(networks.encoder.parameters()),
            },
            phases=(
                Phase("discriminator", "discriminator", losses.discriminator),
                Phase("generator", "generator", losses.generator),
                Phase("encoder", "encoder", losses.encoder),
            ),
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Give y back in its context; compare; ask D."""
        scored = np.array(self.scored, dtype=np.int64)
        near = into_box(a, networks["box"], x)
        y, seen = a.columns(x, scored), a.columns(near, scored)
        given = [a.columns(near, np.array(self.given, dtype=np.int64))] if self.given else []
        code = a.network(a.concatenate(seen, *given), networks["encoder"])[-1]
        code = a.scale(a.tanh(code), _REACH)
        back = a.network(a.concatenate(code, *given), networks["generator"])[-1]
        error = a.divide(a.subtract(back, y), a.constant(networks["spread"].row(0)))
        share = a.scale(a.square(error), 1.0 / len(scored))
        # Each feature back to its place; those of the context get nothing.
        places = np.eye(len(scored) + len(self.given), dtype=np.float32)[scored]
        by_feature = a.product(share, places)
        if not self.discriminator_weight:
            return Parts(by_feature, None)
        return Parts(by_feature, a.scale(verdict(a, networks, x), self.discriminator_weight))

    def generate(self, networks: nn.Module, codes: Tensor) -> Tensor | None:
        """Return rows [1, n, d] made in the contexts of training rows."""
        if not isinstance(networks, _Networks):
            return None
        n = codes.shape[1]
        # Evenly over the training rows: in tables in order the first ones have one context.
        places = torch.arange(n, device=codes.device) * len(networks.rows) // n
        x = networks.box(networks.rows[places].unsqueeze(0))
        return networks.joined(networks.make(codes, networks.context(x)), x)

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out G, E, D and the box, and measure the spread of errors in training rows."""
        if not isinstance(networks, _Networks):
            raise TypeError(f"the networks are {type(networks).__name__}")
        x = networks.rows[:MOST_ROWS].unsqueeze(0)
        with torch.no_grad():
            errors = networks.returned(networks.box(x)) - networks.values(x)
        return {
            "generator": FrozenNetwork.of(networks.generator),
            "encoder": FrozenNetwork.of(networks.encoder),
            "spread": error_spread(errors[0]),
            **BoxedDiscriminator.frozen_of(networks),
        }


class _Networks(nn.Module):
    def __init__(self, detector: Conditional, rows: Tensor, draws: torch.Generator) -> None:
        super().__init__()
        k, n_y, n_c = detector.latent_dim, len(detector.scored), len(detector.given)
        self.scored, self.given = list(detector.scored), list(detector.given)
        self.generator = BatchedMLP(1, (k + n_c, 128, 128, n_y), generator=draws)
        self.encoder = BatchedMLP(1, (n_y + n_c, 128, 128, k), generator=draws)
        self.discriminator = BoxedDiscriminator(rows, (128, 64), draws)
        self.rows = rows
        """Training rows; no part of the state."""

    @property
    def box(self) -> Box:
        """The discriminator's."""
        return self.discriminator.box

    def values(self, x: Tensor) -> Tensor:
        """Return y of rows [1, n, d]."""
        return x[:, :, self.scored]

    def context(self, x: Tensor) -> Tensor:
        """Return c of rows [1, n, d]; it may have no width."""
        return x[:, :, self.given]

    def joined(self, y: Tensor, x: Tensor) -> Tensor:
        """Return rows x with other values y."""
        out = x.clone()
        out[:, :, self.scored] = y
        return out

    def make(self, z: Tensor, context: Tensor) -> Tensor:
        """Return G(z, c)."""
        y: Tensor = self.generator(torch.cat([z, context], dim=2))
        return y

    def encode(self, y: Tensor, context: Tensor) -> Tensor:
        """Return E(y, c), within reach."""
        return _REACH * torch.tanh(self.encoder(torch.cat([y, context], dim=2)))

    def returned(self, x: Tensor) -> Tensor:
        """Return G(E(y, c), c) of rows in the box."""
        context = self.context(x)
        return self.make(self.encode(self.values(x), context), context)


class _Losses:
    def __init__(self, detector: Conditional, networks: _Networks, sampler: Sampler) -> None:
        self.detector, self.networks, self.sampler = detector, networks, sampler

    def discriminator(self) -> dict[str, Tensor]:
        """Tell rows of the table from made ones, and from rows in a wrong context."""
        nets, own = self.networks, self.detector
        x = self.sampler.rows(own.batch_rows)  # [1, n, d]
        with torch.no_grad():
            made = self._made(x)
        losses = {
            "real": softplus(-nets.discriminator(x)).mean(),
            "made": softplus(nets.discriminator(made)).mean(),
            **nets.discriminator.regularised(
                x, self.sampler, penalty=own.gradient_penalty, references=0.0
            ),
        }
        if nets.given and own.mismatch_weight:
            # Rows are drawn at random: the values of the next one are those of any other.
            torn = nets.joined(nets.values(x).roll(1, dims=1), x)
            wrong = softplus(nets.discriminator(torn)).mean()
            losses["mismatched"] = own.mismatch_weight * wrong
        return losses

    def generator(self) -> dict[str, Tensor]:
        """Have made rows taken for those of the table."""
        made = self._made(self.sampler.rows(self.detector.batch_rows))
        return {"taken": softplus(-self.networks.discriminator(made)).mean()}

    def encoder(self) -> dict[str, Tensor]:
        """Find the codes that give rows back, and those that rows were made from."""
        nets, own = self.networks, self.detector
        x = nets.box(self.sampler.rows(own.batch_rows))
        z, context = self._codes(), nets.context(x)
        with torch.no_grad():
            made = nets.joined(nets.make(z, context), x)
        recoded = nets.encode(nets.values(nets.box(made)), context)
        return {
            "returned": (nets.returned(x) - nets.values(x)).square().mean(),
            "cycle": own.cycle_weight * (recoded - z).square().mean(),
        }

    def _codes(self) -> Tensor:
        return self.sampler.normal(self.detector.batch_rows, self.detector.latent_dim)

    def _made(self, x: Tensor) -> Tensor:
        """Put G's values in rows x [1, n, d], in their own context."""
        nets = self.networks
        return nets.joined(nets.make(self._codes(), nets.context(nets.box(x))), x)
