"""How well a generator matches held-out normal rows, measured without labels.

Rows are encoded rows, so a distance is in standardised columns (`anomgan.tables.encoding`), or in
the features that are handed in, such as the discriminator's last hidden layer. No single figure
tells everything: a generator of one perfect row has precision 1, one of noise has recall 1 in few
columns. `judge_generator` therefore measures all, member by member, with fixed seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.training.health import coverage, precision, two_sample_accuracy

__all__ = [
    "GeneratorQuality",
    "Path",
    "coverage",
    "frechet_distance",
    "inception_score",
    "judge_generator",
    "lerp",
    "mixture_classes",
    "path_length",
    "precision",
    "recall",
    "slerp",
    "sliced_wasserstein",
    "two_sample_accuracy",
]

Generate = Callable[[Tensor], Tensor]
"""Latent codes [m, n, k] to rows [m, n, d], each member by its own generator."""
Features = Callable[[Tensor], Tensor]
"""Rows [m, n, d] to what distances are taken in, [m, n, f]."""
Classify = Callable[[Tensor], Tensor]
"""Rows [n, d] to class probabilities [n, c]."""
Path = Literal["slerp", "lerp"]

_NEIGHBOURS = 5
_PROJECTIONS = 128
_ROUNDING = 1e-6
"""Share of its mean below which a column's deviation is rounding: features are float32."""
_FARTHEST = 1e3
"""Deviations beyond which rows are equally far from all modes: squares over the mixture's least
variance still leave digits to tell modes by."""
_MODES = 10
"""Classes of the mixture where none are handed in; images of the inception score have 10 too
(CIFAR-10, Salimans et al., 2016, section 6)."""
_PATHS = 1024
_EPSILON = 1e-4
"""Step along a path, Karras et al. (2019), section 4.1."""
_PARALLEL = 1e-6
"""Sine of an angle below which an arc is as good as a straight line."""


@dataclass(frozen=True)
class GeneratorQuality:
    """One generator against held-out normal rows.

    Attributes
    ----------
    frechet_distance : float
        See `frechet_distance`; in standardised columns, 0 is ideal.
    frechet_distance_features : float or None
        The same in the features that were handed in.
    sliced_wasserstein : float
        See `sliced_wasserstein`; standard deviations, 0 is ideal.
    inception_score, inception_score_real : float
        See `inception_score`; of generated and, to compare with, of real rows.
    precision, recall, coverage : float
        Shares in [0, 1], 1 is ideal.
    two_sample_accuracy : float
        0.5 is ideal; below, generated rows are nearer to real rows than these are to each other.
    path_length : float
        See `path_length`; smaller is smoother, but a collapsed generator is smoothest.
    path_length_features : float or None
        The same in the features that were handed in.
    """

    frechet_distance: float
    frechet_distance_features: float | None
    sliced_wasserstein: float
    inception_score: float
    inception_score_real: float
    precision: float
    recall: float
    coverage: float
    two_sample_accuracy: float
    path_length: float
    path_length_features: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {k: None if v is None else round(float(v), 6) for k, v in asdict(self).items()}


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the rows' means and covariances.

        |mu_r - mu_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))

    Heusel et al. (2017), "GANs trained by a two time-scale update rule", eq. 6; Dowson and Landau
    (1982). The root is taken as that of the symmetric C_r^(1/2) C_g C_r^(1/2), which has the same
    trace and real eigenvalues, singular covariances included. Between samples of the same
    distribution it is above 0, for d independent normal columns of unit variance by about
    ``d (d + 5) / 4 * (1/n + 1/g)``: compare generators on equally many rows.

    Parameters
    ----------
    real : Tensor [n, d]
    generated : Tensor [g, d]

    Raises
    ------
    UsageError
        Fewer than two rows of a kind, other columns, or a value that is not finite.
    """
    a, b = _checked(real, generated, least=2)
    gap = float((a.mean(dim=0) - b.mean(dim=0)).square().sum())
    cov_a, cov_b = _covariance(a), _covariance(b)
    variances, axes = torch.linalg.eigh(cov_a)
    root = (axes * variances.clamp(min=0.0).sqrt()) @ axes.T  # [d, d]
    crossed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0.0).sqrt().sum()
    # Rounding can leave a hair below 0 for identical rows.
    return max(0.0, gap + float(cov_a.trace() + cov_b.trace() - 2.0 * crossed))


def inception_score(probabilities: Tensor) -> float:
    """Exponential of the mean divergence of rows' class probabilities from their mean.

        exp(E_x KL(p(y | x) || p(y)))

    Salimans et al. (2016), "Improved techniques for training GANs", section 4. It lies between 1
    (all rows of one class, or no row of any) and the number of classes (all reached equally often,
    each row clearly of one). Images have a classifier for that; for tables give the probabilities
    of a mixture fitted to real rows (`mixture_classes`), or of labels' classes. What a class looks
    like inside it does not measure, and it compares with nothing real: read it beside the score of
    real rows, and beside precision.

    Parameters
    ----------
    probabilities : Tensor [g, c]
        Class probabilities of generated rows; each row sums to 1.

    Raises
    ------
    UsageError
        No rows, or rows that are no probabilities.
    """
    p = probabilities.double()
    valid = p.ndim == 2 and p.numel() > 0 and bool(torch.isfinite(p).all())
    if not valid or float(p.min()) < 0.0 or float((p.sum(dim=1) - 1.0).abs().max()) > 1e-4:
        raise UsageError(
            f"class probabilities must be [rows, classes], not negative, and sum to 1 in each row; "
            f"got shape {tuple(p.shape)}"
        )
    marginal = p.mean(dim=0)
    entropy = -torch.special.xlogy(marginal, marginal).sum()
    conditional = -torch.special.xlogy(p, p).sum(dim=1).mean()
    return math.exp(max(0.0, float(entropy - conditional)))


def mixture_classes(real: Tensor, *, n_classes: int = _MODES, seed: int = 0) -> Classify:
    """Fit a Gaussian mixture to real rows, and return what gives class probabilities by it.

    scikit-learn's `GaussianMixture` with diagonal covariances: in tables of many columns full ones
    have more parameters than there are rows.

    Parameters
    ----------
    real : Tensor [n, d]
    n_classes : int
        Components; at most as many as there are distinct rows.
    seed : int

    Returns
    -------
    callable
        Rows [n, d] to probabilities float64 [n, c].
    """
    # Here: a fit measures generators too, and needs no mixture.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # The mixture has a floor of variances, 1e-6: huge columns would drown it, or it small ones.
    middle = real.double().cpu().mean(dim=0)
    scale = real.double().cpu().std(dim=0, unbiased=False)
    scale[scale <= _ROUNDING * middle.abs()] = 1.0

    def standardised(rows: Tensor) -> Tensor:
        return ((rows.double().cpu() - middle) / scale).clamp(-_FARTHEST, _FARTHEST)

    rows = standardised(real)
    n_classes = min(n_classes, len(torch.unique(rows, dim=0)))
    mixture = GaussianMixture(n_classes, covariance_type="diag", random_state=seed)
    with warnings.catch_warnings():  # a mixture that has not quite converged still names modes
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(rows.numpy())

    def classify(rows: Tensor) -> Tensor:
        return torch.from_numpy(mixture.predict_proba(standardised(rows).numpy()))

    return classify


def recall(real: Tensor, generated: Tensor, *, k: int = _NEIGHBOURS) -> float:
    """Share of real rows inside any generated row's k-neighbour ball.

    Kynkaanniemi et al. (2019), "Improved precision and recall metric", eq. 2: precision with the
    roles swapped. Unlike `coverage`, scattered generated rows have wide balls and reach much.

    Parameters
    ----------
    real : Tensor [n, d]
    generated : Tensor [g, d]
    k : int
    """
    return precision(generated, real, k=k)


def sliced_wasserstein(
    real: Tensor,
    generated: Tensor,
    *,
    n_projections: int = _PROJECTIONS,
    order: float = 2.0,
    seed: int = 0,
) -> float:
    """Wasserstein distance of the rows' projections onto random directions.

        (E_u W_p(u . real, u . generated)^p)^(1/p),  u uniform on the sphere

    Rabin et al. (2011); Bonneel et al. (2015), "Sliced and Radon Wasserstein barycenters of
    measures", section 3. On a line the distance is that of the quantile functions, here exactly,
    also for unequal numbers of rows. A shift by v gives about ``|v| / sqrt(d)`` for p = 2.

    Parameters
    ----------
    real : Tensor [n, d]
    generated : Tensor [g, d]
    n_projections : int
    order : float
        p, at least 1.
    seed : int
        Of the directions.

    Raises
    ------
    UsageError
        No rows of a kind, other columns, a value that is not finite, or p below 1.
    """
    if not order >= 1.0 or n_projections < 1:
        raise UsageError(
            f"order must be 1 or more and n_projections 1 or more, got {order} and {n_projections}"
        )
    a, b = _checked(real, generated, least=1)
    n, g = len(a), len(b)
    rng = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_projections, a.shape[1], generator=rng, dtype=torch.float64)
    directions = (directions / directions.norm(dim=1, keepdim=True)).to(a.device)
    sorted_a = (a @ directions.T).sort(dim=0).values  # [n, projections]
    sorted_b = (b @ directions.T).sort(dim=0).values  # [g, projections]
    # Both quantile functions are constant between these levels, counted in 1 / (n g);
    # those that both have give a weight of 0.
    steps = torch.cat([torch.arange(n + 1) * g, torch.arange(g + 1) * n]).sort().values
    steps = steps.to(a.device)
    weight = steps.diff().double() / (n * g)
    place = steps[:-1].clamp(max=n * g - 1)
    gaps = (sorted_a[place // g] - sorted_b[place // n]).abs()
    mean: float = (weight @ gaps**order).mean().item()
    return math.pow(mean, 1.0 / order)


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight line from codes `a` [..., k] to `b` at `t` [...]: a at 0, b at 1."""
    t = t.unsqueeze(-1)
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Arc from codes `a` [..., k] to `b` at `t` [...]: a at 0, b at 1.

    Shoemake (1985), section 3.3; White (2016), "Sampling generative networks", section 2.1: normal
    codes of many dimensions lie near a sphere, and the straight line leaves it. Codes on one line
    through 0 have no single arc; the straight line takes its place.
    """
    from_a, to_b = (torch.nn.functional.normalize(x.double(), dim=-1) for x in (a, b))
    # Kahan's form of the angle: the arc cosine loses half of the digits where codes are parallel.
    angle = 2.0 * torch.atan2((from_a - to_b).norm(dim=-1), (from_a + to_b).norm(dim=-1))
    sine = torch.sin(angle)
    at_zero = (a == 0.0).all(dim=-1) | (b == 0.0).all(dim=-1)
    flat = (sine < _PARALLEL) | at_zero
    safe = torch.where(flat, 1.0, sine)
    shares = torch.sin((1.0 - t) * angle) / safe, torch.sin(t * angle) / safe
    arc = shares[0].unsqueeze(-1) * a + shares[1].unsqueeze(-1) * b
    return torch.where(flat.unsqueeze(-1), lerp(a, b, t), arc.to(a.dtype))


def path_length(
    generate: Generate,
    *,
    latent_dim: int,
    n_members: int = 1,
    features: Features | None = None,
    path: Path = "slerp",
    n_paths: int = _PATHS,
    epsilon: float = _EPSILON,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[float]:
    """How far rows move for a small step between two random codes: perceptual path length.

        E [ |f(G(s(a, b; t + eps))) - f(G(s(a, b; t)))|^2 / eps^2 ],  a, b normal, t uniform

    Karras et al. (2019), "A style-based generator architecture", section 4.1, with the squared
    distance in standardised columns (or in the features f) in place of that of a vision network.
    For a linear generator on straight lines it is twice the squared norm of its matrix. In float32
    rounding adds up to about 1e-6 a column of unit size.

    Parameters
    ----------
    generate : callable
        Codes [m, n, k] to rows [m, n, d].
    latent_dim : int
        k.
    n_members : int
        m.
    features : callable, optional
        Rows [m, n, d] to features [m, n, f].
    path : {"slerp", "lerp"}
        s: the arc, as for normal codes, or the straight line.
    n_paths : int
        n, pairs of codes; the same for every member.
    epsilon : float
    seed : int
    device : torch.device or str
        Where the codes go; they are drawn on the CPU, so that devices agree.

    Returns
    -------
    list of float
        One a member.
    """
    if not 0.0 < epsilon < 1.0:
        raise UsageError(f"epsilon must lie between 0 and 1, got {epsilon}")
    rng = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, n_paths, latent_dim, generator=rng)
    t = (1.0 - epsilon) * torch.rand(n_paths, generator=rng)
    along = slerp if path == "slerp" else lerp
    codes = torch.cat([along(ends[0], ends[1], t), along(ends[0], ends[1], t + epsilon)])
    with torch.no_grad():
        rows = generate(codes.to(device).expand(n_members, -1, -1))
        seen = (rows if features is None else features(rows)).double()  # [m, 2 n, f]
    moved = (seen[:, n_paths:] - seen[:, :n_paths]).square().sum(dim=2) / epsilon**2
    return [float(length) for length in moved.mean(dim=1)]


def judge_generator(
    real: Tensor,
    generate: Generate,
    *,
    latent_dim: int,
    n_members: int = 1,
    features: Features | None = None,
    classify: Classify | None = None,
    path: Path = "slerp",
    seed: int = 0,
) -> tuple[GeneratorQuality, ...]:
    """Measure each member's generator against held-out normal rows.

    Every member generates as many rows as there are real ones, from the same codes. Time and
    memory rise with the square of the rows: a thousand or two say enough.

    Parameters
    ----------
    real : Tensor [n, d] or [m, n, d]
        Encoded normal rows that training did not see; with three axes each member's own.
    generate : callable
        Codes float32 [m, n, k] to rows [m, n, d]: a generator, or the frozen one
        (`FrozenScore.generator`).
    latent_dim : int
        k.
    n_members : int
        m.
    features : callable, optional
        Rows [m, n, d] to [m, n, f], such as ``networks.discriminator.hidden``.
    classify : callable, optional
        Rows [n, d] to class probabilities [n, c] for the inception score; by default a mixture
        fitted to the real rows, see `mixture_classes`.
    path : {"slerp", "lerp"}
        See `path_length`.
    seed : int
        Of codes, projections, paths and mixture. No global generator is touched.

    Returns
    -------
    tuple of GeneratorQuality
        One a member.

    Raises
    ------
    UsageError
        Too few rows, shapes that do not fit, or values that are not finite.
    """
    own = real if real.ndim == 3 else real.expand(n_members, *real.shape)
    if own.ndim != 3 or len(own) != n_members or own.shape[1] < 2:
        raise UsageError(
            f"real rows must be [n, d] or [{n_members}, n, d] with n of 2 or more, "
            f"got {tuple(real.shape)}"
        )
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randn(own.shape[1], latent_dim, generator=rng).to(real.device)
    with torch.no_grad():
        generated = generate(codes.expand(n_members, -1, -1))
        seen = None if features is None else (features(own), features(generated))
    walked = partial(
        path_length,
        generate,
        latent_dim=latent_dim,
        n_members=n_members,
        path=path,
        seed=seed,
        device=real.device,
    )
    lengths = walked()
    in_features = None if features is None else walked(features=features)
    return tuple(
        _judged(
            own[k],
            generated[k],
            classify or mixture_classes(own[k], seed=seed),
            seed=seed,
            seen=None if seen is None else (seen[0][k], seen[1][k]),
            lengths=(lengths[k], None if in_features is None else in_features[k]),
        )
        for k in range(n_members)
    )


def _judged(
    real: Tensor,
    generated: Tensor,
    classify: Classify,
    *,
    seed: int,
    seen: tuple[Tensor, Tensor] | None,
    lengths: tuple[float, float | None],
) -> GeneratorQuality:
    """Measure one member: rows [n, d], what both look like in features, its path lengths."""
    return GeneratorQuality(
        frechet_distance=frechet_distance(real, generated),
        frechet_distance_features=None if seen is None else frechet_distance(*seen),
        sliced_wasserstein=sliced_wasserstein(real, generated, seed=seed),
        inception_score=inception_score(classify(generated)),
        inception_score_real=inception_score(classify(real)),
        precision=precision(real, generated),
        recall=recall(real, generated),
        coverage=coverage(real, generated),
        two_sample_accuracy=two_sample_accuracy(real, generated),
        path_length=lengths[0],
        path_length_features=lengths[1],
    )


def _covariance(rows: Tensor) -> Tensor:
    """Unbiased covariance of rows [n, d], float64 [d, d]."""
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / (len(rows) - 1)


def _checked(real: Tensor, generated: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64, or a fault."""
    fits = real.ndim == 2 and generated.ndim == 2 and real.shape[1] == generated.shape[1]
    if not fits or min(len(real), len(generated)) < least or not real.shape[1]:
        raise UsageError(
            f"rows must be [n, d] and [g, d] with {least} or more of each, got "
            f"{tuple(real.shape)} and {tuple(generated.shape)}"
        )
    if not (bool(torch.isfinite(real).all()) and bool(torch.isfinite(generated).all())):
        raise UsageError("some values of the rows are not finite; a generator may have diverged")
    return real.double(), generated.double()
