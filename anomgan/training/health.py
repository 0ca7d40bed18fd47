"""Is a trained model usable? Judged without labels, on held-out normal rows.

Loss curves do not tell: a collapsed generator has quiet ones. What tells is whether generated
rows lie where held-out rows lie (precision), whether they reach all of them (coverage), whether
a nearest-neighbour test can tell the two apart, and whether rows thrown far away score above
the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Health", "coverage", "judge", "precision", "quality", "two_sample_accuracy"]

Verdict = Literal["healthy", "degraded", "failed"]

_NEIGHBOURS = 5
MIN_COVERAGE = 0.2
"""Below this share of held-out rows reached, the generator has dropped most of the data."""
FAR_AWAY = 6.0
"""Held-out rows are thrown this far in every feature, to see that distance counts."""
MIN_CALIBRATION_ROWS = 20
"""Below this the threshold is little more than a guess."""
MIN_FAR_AUROC = 0.9
"""Rows thrown away must outscore those left in place this often."""


@dataclass(frozen=True)
class Health:
    """Verdict on one training.

    Attributes
    ----------
    verdict : {"healthy", "degraded", "failed"}
    reasons : tuple of str
        Why it is not healthy.
    facts : mapping of str to float
        The measured quantities.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "facts": {k: round(float(v), 6) for k, v in self.facts.items()},
        }

    def __str__(self) -> str:
        return self.verdict if not self.reasons else f"{self.verdict}: {'; '.join(self.reasons)}"


def coverage(real: Tensor, generated: Tensor, *, k: int = _NEIGHBOURS) -> float:
    """Share of real rows that have a generated row inside their k-neighbour ball.

    Naeem et al. (2020), "Reliable fidelity and diversity metrics", section 3.2.

    Parameters
    ----------
    real : Tensor [n, d]
    generated : Tensor [g, d]
    k : int
    """
    radius = _radius(real, k)  # [n]
    return float((_distances(real, generated).min(dim=1).values <= radius).float().mean())


def precision(real: Tensor, generated: Tensor, *, k: int = _NEIGHBOURS) -> float:
    """Share of generated rows inside any real row's k-neighbour ball.

    Kynkaanniemi et al. (2019), "Improved precision and recall metric", eq. 2.
    """
    radius = _radius(real, k)
    return float((_distances(generated, real) <= radius).any(dim=1).float().mean())


def quality(real: Tensor, generated: Tensor) -> float:
    """Smaller one of coverage and precision, in [0, 1].

    A generator that gives few rows again and again loses coverage, one that spreads them beyond
    the real ones precision; neither makes up for the other.
    """
    return min(coverage(real, generated), precision(real, generated))


def two_sample_accuracy(real: Tensor, generated: Tensor) -> float:
    """Leave-one-out accuracy of 1-NN telling real from generated rows; 0.5 is ideal.

    Lopez-Paz and Oquab (2017), section 3.
    """
    n = min(len(real), len(generated))
    both = torch.cat([real[:n], generated[:n]])
    distance = _distances(both, both)
    distance.fill_diagonal_(torch.inf)
    from_real = distance.argmin(dim=1) < n
    is_real = torch.arange(2 * n, device=real.device) < n
    return float((from_real == is_real).float().mean())


def _radius(rows: Tensor, k: int) -> Tensor:
    """Distance of each row to the k-th nearest row that differs from it, [n].

    Twins do not count: in tables of flags most rows have some, and balls of radius 0 would
    reach no generated row.
    """
    distinct, place = torch.unique(rows, dim=0, return_inverse=True)
    k = min(k, len(distinct) - 1)
    # The row itself is its own nearest neighbour, hence k + 1.
    return _distances(distinct, distinct).kthvalue(k + 1, dim=1).values[place]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances [n, g], float64: far rows' squared norms would drown them in float32."""
    return torch.cdist(a.double(), b.double())


def judge(facts: Mapping[str, float]) -> Health:
    """Turn measured facts into a verdict.

    Parameters
    ----------
    facts : mapping
        Keys `far_auroc`, `rollbacks`, `finite_scores` (0 or 1), `coverage` where there were rows
        enough to judge generators, `generator` (0 where none is meant to give normal rows),
        `calibration_rows` where there was a calibration, and any others.
    """
    if not facts["finite_scores"]:
        return Health("failed", ("scores of held-out normal rows are not finite",), facts)
    reasons = []
    if facts["far_auroc"] < MIN_FAR_AUROC:
        reasons.append(
            f"rows thrown {FAR_AWAY:g} standard deviations away outscore the others in only "
            f"{100 * facts['far_auroc']:.0f} % of pairs"
        )
    if facts.get("generator", 1.0):
        reasons += _coverage_faults(facts)
    n_calibration = facts.get("calibration_rows", MIN_CALIBRATION_ROWS)
    if n_calibration < MIN_CALIBRATION_ROWS:
        reasons.append(f"only {n_calibration:.0f} rows to calibrate the threshold with")
    if facts["rollbacks"]:
        reasons.append(f"training was rolled back {facts['rollbacks']:.0f} times")
    return Health("degraded" if reasons else "healthy", tuple(reasons), facts)


def _coverage_faults(facts: Mapping[str, float]) -> list[str]:
    """Say what is wrong with generators that are meant to give normal rows."""
    if "coverage" not in facts:
        return ["there are too few held-out rows to judge the generators by"]
    if facts["coverage"] >= MIN_COVERAGE:
        return []
    return [f"generated rows reach only {100 * facts['coverage']:.0f} % of held-out normal rows"]
