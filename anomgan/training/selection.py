"""Which weights a training leaves, and which member of an ensemble starts anew.

GANs do not get better with every step: a generator may collapse, early or late, and the losses do
not tell (`anomgan.training.health`). So the averaged networks are judged without labels at fixed
steps, member by member. A member whose last average is clearly worse than an earlier one is left
with the earlier one (as "early stopping" picks by a validation error; Prechelt, 1998). A member
whose generator has collapsed early, while another one has not, is initialised again, once.

The judge draws from no generator of the training and changes no weight, so a training in which
nothing goes wrong ends with the bits that it would have without one. What has been found stands in
a `SelectionState`, which checkpoints hold, so that a resumed run decides alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anomgan.errors import UsageError

__all__ = ["FIRST_KEPT", "Fresh", "Judge", "Selection", "SelectionState", "Weights", "clear_margin"]

logger = logging.getLogger(__name__)

Fresh = Callable[[int, int], Sequence[Tensor]]
"""Called as ``fresh(member, restart)``: initial weights of all networks, [m, ...] tensors."""

FIRST_KEPT = 0.3
"""Share of the planned steps before which no average is kept: most networks still learn then."""
_MARKS = 20
"""Evenly spaced places in a training; at the next review after one the averages are judged."""
_CLEAR_MARGIN = 0.2
_MARGIN_ROWS = 128
_RESTART_SHARES = (0.25, 0.5)
"""Shares of the planned steps at whose next review collapsed members are restarted."""
_LATEST_RESTART = 0.6
"""Share after which a fresh member could not catch up: reviews are coarse in short trainings."""
_COLLAPSED = 0.2
"""A collapsed member's quality is below this share of the best member's ..."""
_SOUND = 0.3
"""... which has this quality at least: where none is good, the table is hard for all."""


def clear_margin(n_rows: int) -> float:
    """Return by how much two qualities have to differ to be more than the luck of n rows.

    0.2 with 128 rows or more. A share of n rows has a standard error of at most 0.5 / sqrt(n), a
    difference of two one of sqrt(2) times as much, 0.0625 at n = 128: the margin is 3.2 of them.
    With fewer rows it grows as the error does.
    """
    return _CLEAR_MARGIN * math.sqrt(max(1.0, _MARGIN_ROWS / max(1, n_rows)))


@dataclass(frozen=True)
class Judge:
    """Measures the networks as they stand, without labels.

    Attributes
    ----------
    measure : callable
        Returns a quality in [0, 1] for each member, NaN for one that cannot be judged. It must
        draw from no generator of the training, and record no gradient.
    margins : sequence of float
        By how much a quality of each member has to differ to be more than chance.
    """

    measure: Callable[[], Sequence[float]]
    margins: Sequence[float]


@dataclass(frozen=True)
class Weights:
    """What a trainer holds; all of it is changed in place.

    Attributes
    ----------
    parameters, averaged : sequence of Tensor [m, ...]
        A slice a member.
    optimizers : sequence of Optimizer
    """

    parameters: Sequence[Tensor]
    averaged: Sequence[Tensor]
    optimizers: Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class SelectionState:
    """What was found so far, member by member; never changed in place.

    Attributes
    ----------
    steps : tuple of int
        Of the best averages; 0 where there are none yet.
    qualities : tuple of float
        Of the best averages, in [0, 1].
    restarts : tuple of int
        How often each member was initialised again.
    best : sequence of Tensor [m, ...]
        The best averages; empty where no member has any.
    """

    steps: tuple[int, ...]
    qualities: tuple[float, ...]
    restarts: tuple[int, ...]
    best: Sequence[Tensor] = ()


class Selection:
    """Keeps each member's best averages, and restarts members that have collapsed.

    Parameters
    ----------
    judge : Judge
    first : float
        Share of the planned steps before which no average is kept.
    fresh : callable or None
        Gives initial weights of all networks, in the order of the parameters, for a member that
        starts anew for the n-th time: always the same ones for the same two numbers. None: no
        member is restarted.

    Attributes
    ----------
    state : SelectionState
    """

    def __init__(
        self, judge: Judge, *, first: float = FIRST_KEPT, fresh: Fresh | None = None
    ) -> None:
        self.judge = judge
        self.first = first
        self.fresh = fresh
        self.n_members = len(judge.margins)
        none = (0,) * self.n_members
        self.state = SelectionState(steps=none, qualities=(0.0,) * self.n_members, restarts=none)

    def check(self, parameters: Sequence[Tensor]) -> None:
        """Refuse parameters without a slice for each member.

        Raises
        ------
        UsageError
            A parameter has another first dimension.
        """
        shapes = [tuple(p.shape) for p in parameters if p.shape[:1] != (self.n_members,)]
        if shapes:
            raise UsageError(
                f"parameters of shape {shapes} have no slice for each of {self.n_members} members: "
                "networks whose members are judged need a member axis in front"
            )

    def review(self, since: int, step: int, n_steps: int, weights: Weights) -> None:
        """Keep what is best so far, and restart who has collapsed, where it is time for that.

        Parameters
        ----------
        since : int
            Step of the last review.
        step : int
        n_steps : int
            The planned length as it is now.
        weights : Weights
            Of members that are restarted all are changed, the moments too.
        """
        keeps = self._keeps_at(since, step, n_steps)
        fresh = self.fresh if _restarts_at(since, step, n_steps) else None
        if not keeps and fresh is None:
            return
        qualities = self._qualities(weights)
        if keeps:
            self._keep(step, qualities, weights.averaged)
        if fresh is not None:
            for member in self._collapsed(step, qualities):
                self._restart(member, weights, fresh)

    def settled(self, step: int, weights: Weights) -> tuple[Sequence[Tensor], list[int]]:
        """Return the averages to use at the end, and the step that each member's are of.

        Those are the last ones, but for a member whose best ones were clearly better.
        """
        state, steps = self.state, [step] * self.n_members
        if not state.best:
            return weights.averaged, steps
        last = self._qualities(weights)
        settled = [average.clone() for average in weights.averaged]
        for k, margin in enumerate(self.judge.margins):
            if not state.qualities[k] - last[k] > margin:  # nor where it cannot be judged
                continue
            steps[k] = state.steps[k]
            for own, best in zip(settled, state.best, strict=True):
                own[k] = best[k]
            logger.warning(
                "member %d has got worse since step %d (quality %.2f, at step %d %.2f): its "
                "weights of then are used",
                k + 1,
                state.steps[k],
                state.qualities[k],
                step,
                last[k],
            )
        return settled, steps

    def restore(self, state: SelectionState | None, parameters: Sequence[Tensor]) -> None:
        """Go on from a state.

        Raises
        ------
        ValueError
            It is of other networks.
        """
        if state is None:
            raise ValueError("it keeps no best weights")
        lengths = {len(state.steps), len(state.qualities), len(state.restarts)}
        shapes = [t.shape for t in state.best]
        expected = [p.shape for p in parameters] if any(state.steps) else []
        if lengths != {self.n_members} or shapes != expected:
            raise ValueError("its best weights are of other networks")
        self.state = state

    def _keeps_at(self, since: int, step: int, n_steps: int) -> bool:
        passed = _MARKS * step // n_steps > _MARKS * since // n_steps
        # The last averages need not be kept: they are there.
        return passed and self.first * n_steps <= step < n_steps

    @torch.no_grad()
    def _qualities(self, weights: Weights) -> Sequence[float]:
        """Judge the averages: they take the parameters' place for the time that this takes."""
        own = [p.detach().clone() for p in weights.parameters]
        _put(weights.averaged, weights.parameters)
        try:
            return self.judge.measure()
        finally:
            _put(own, weights.parameters)

    def _keep(self, step: int, qualities: Sequence[float], averaged: Sequence[Tensor]) -> None:
        state = self.state
        better = [k for k in range(self.n_members) if qualities[k] > state.qualities[k]]
        if not better:
            return
        # A copy: snapshots of the trainer hold the former one.
        best = [t.clone() for t in state.best or averaged]
        for own, average in zip(best, averaged, strict=True):
            own[better] = average[better]
        self.state = replace(
            state,
            steps=tuple(step if k in better else s for k, s in enumerate(state.steps)),
            qualities=tuple(
                qualities[k] if k in better else q for k, q in enumerate(state.qualities)
            ),
            best=best,
        )

    def _collapsed(self, step: int, qualities: Sequence[float]) -> list[int]:
        """Return the members that have collapsed and were not restarted yet, and say so."""
        best = max((q for q in qualities if not math.isnan(q)), default=0.0)
        collapsed = [
            k
            for k, quality in enumerate(qualities)
            if best >= _SOUND
            and quality < _COLLAPSED * best
            and best - quality > self.judge.margins[k]
            and not self.state.restarts[k]
        ]
        for k in collapsed:
            logger.warning(
                "member %d has collapsed at step %d (quality %.2f, the best member's %.2f): it "
                "starts anew",
                k + 1,
                step,
                qualities[k],
                best,
            )
        return collapsed

    @torch.no_grad()
    def _restart(self, member: int, weights: Weights, fresh: Fresh) -> None:
        """Give a member fresh weights, and let the optimisers forget it.

        Adam's moments start at 0 again, but its count of steps is that of all members. Without
        the correction for the start (Kingma & Ba, 2015, section 3) a few steps are longer: about
        five times with the flagship's betas, less than twice after thirty.
        """
        restarts = [n + (k == member) for k, n in enumerate(self.state.restarts)]
        drawn = fresh(member, restarts[member])
        for parameter, average, new in zip(
            weights.parameters, weights.averaged, drawn, strict=True
        ):
            parameter[member] = new[member]
            average[member] = new[member]
        for optimizer in weights.optimizers:
            for parameter, moments in optimizer.state.items():
                for moment in moments.values():
                    if moment.shape == parameter.shape:  # all but the count of steps
                        moment[member] = 0.0
        self.state = replace(self.state, restarts=tuple(restarts))


def _restarts_at(since: int, step: int, n_steps: int) -> bool:
    due = any(since < share * n_steps <= step for share in _RESTART_SHARES)
    return due and step <= _LATEST_RESTART * n_steps


def _put(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for target, value in zip(into, values, strict=True):
        target.copy_(value)
