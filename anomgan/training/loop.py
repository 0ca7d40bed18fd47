"""The one alternating-update loop, for every detector.

The loop knows phases, not formulas: a phase names the parameters it may change, how often
it runs, and a function that returns the loss. A new regulariser or network is a new phase.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from anomgan.errors import TrainingError, TrainingInterrupted, UsageError
from anomgan.training.checkpoints import Checkpointer, TrainingState, moments_of, set_moments
from anomgan.training.selection import Selection, Weights

__all__ = ["Phase", "Progress", "Sampler", "Trainer", "TrainingPlan", "TrainingRecord"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called as ``progress(step, n_steps, facts)`` a few times a second, and after the last step."""

_SNAPSHOT_STEPS = 50
"""Steps between snapshots: what a roll-back or an interrupt can lose."""
_MAX_ROLLBACKS = 3
"""After so many roll-backs training is given up: the data, not luck, is the reason."""
_REPORT_S = 0.2
"""Least time between two progress reports."""


@dataclass(frozen=True)
class Phase:
    """One kind of update.

    A phase has a window of the training, for methods in stages. Its bounds are shares of the
    plan's length as it is now, rounded to steps. Without a deadline that is `n_steps`. With one
    the length follows the pace, so the windows do too, and the stages keep their shares of the
    time; around a boundary a window may then open or close for a few steps more than once. A
    window shorter than half a step may hold none. Windows that meet neither overlap nor leave a
    gap.

    Attributes
    ----------
    name : str
        Key of the phase's losses in the record.
    player : str
        Optimiser that steps; phases of one player share its state.
    loss : callable
        Returns named scalar losses; their sum is minimised.
    interval : int
        The phase runs at every `interval`-th step (lazy regularisation, Karras et al.,
        2020, appendix B; the phase's own weight makes up for the skipped steps). Counted
        from the start of the training, not of the window.
    repeats : int
        Updates at each step at which the phase runs; the loss is called anew for each (the k
        discriminator steps of Goodfellow et al., 2014, algorithm 1).
    start, stop : float
        The window: the phase runs from the share `start` of the planned steps until just
        before the share `stop`.
    after : callable or None
        Called after each of the phase's optimiser steps, without gradients: a projection of
        the parameters, such as weight clipping.

    Raises
    ------
    UsageError
        An attribute is out of its range.
    """

    name: str
    player: str
    loss: Callable[[], Mapping[str, Tensor]]
    interval: int = 1
    repeats: int = 1
    start: float = 0.0
    stop: float = 1.0
    after: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}, it must be at least 1"
            for name in ("interval", "repeats")
            if getattr(self, name) < 1
        ]
        if not 0.0 <= self.start < self.stop <= 1.0:
            faults.append(
                f"the window is {self.start} to {self.stop}, it must lie in [0, 1] and not be empty"
            )
        if faults:
            raise UsageError(f"phase {self.name!r}: {'; '.join(faults)}", faults)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    Attributes
    ----------
    n_steps : int
    batch_rows : int
        Real rows a member sees at each step; the unit of the EMA's half-life.
    learning_rate : float
        Start of a cosine decay to a twentieth.
    betas : tuple of float
        Adam's; the first is low because the opponent moves (Kingma & Ba, 2015).
    weight_decay : float
        Decoupled (AdamW), per step.
    ema_half_life_samples : float
        Half-life of the averaged weights, in real rows a member saw.
    deadline : float or None
        `time.monotonic()` value by which training ends, whatever the step.
    rates : mapping of str to float
        Factors on the learning rate by player, 1 for those not named: the two time-scale
        update rule (Heusel et al., 2017, section 2) has a faster discriminator.
    """

    n_steps: int
    batch_rows: int
    learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    ema_half_life_samples: float
    deadline: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass
class TrainingRecord:
    """What happened: losses by name at each snapshot, steps run, roll-backs, restarts.

    `weights_from_step` has the step that each member's final weights are of.
    """

    steps_run: int = 0
    n_rollbacks: int = 0
    n_restarts: int = 0
    weights_from_step: list[int] = field(default_factory=list)
    stopped_by_deadline: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def health_facts(self) -> dict[str, float]:
        """Return what the verdict on a training tells of its course."""
        return {
            "rollbacks": float(self.n_rollbacks),
            "restarts": float(self.n_restarts),
            "weights_from_step": float(min(self.weights_from_step, default=self.steps_run)),
        }


class Sampler:
    """Draws batches and noise for all members from one generator, on one device.

    Parameters
    ----------
    rows : Tensor [n, d]
        Training rows, resident on the device.
    n_members : int
    rng : torch.Generator
        On the same device.

    Attributes
    ----------
    done : float
        Share of the planned steps that are done, in [0, 1): what a loss that changes over
        training reads. The trainer sets it before every step, from the step alone, so that a
        resumed run finds it as it was.
    """

    def __init__(self, rows: Tensor, n_members: int, rng: torch.Generator) -> None:
        self.data = rows
        self.n_members = n_members
        self.rng = rng
        self.done = 0.0

    def rows(self, n: int) -> Tensor:
        """Draw [m, n, d] real rows, independently for each member, with replacement."""
        index = torch.randint(
            len(self.data), (self.n_members, n), generator=self.rng, device=self.data.device
        )
        return self.data[index]

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal values of the given trailing shape, [m, *shape]."""
        return torch.randn((self.n_members, *shape), generator=self.rng, device=self.data.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw uniform values in [0, 1) of the given trailing shape, [m, *shape]."""
        return torch.rand((self.n_members, *shape), generator=self.rng, device=self.data.device)


class Trainer:
    """Alternates the phases until the plan ends; keeps averaged weights.

    Parameters
    ----------
    networks : nn.Module
        All networks; the averaged copy of all its parameters is what `run` leaves in it.
    players : mapping of str to sequence of Parameter
        Parameters by optimiser. Each parameter belongs to one player.
    phases : sequence of Phase
    sampler : Sampler
    plan : TrainingPlan
    checkpointer : Checkpointer, optional
        Where to keep what a resumed run needs.
    monitor : callable, optional
        Measures health without labels at each snapshot, for the record and the progress bar;
        it must draw from no generator of the training.
    selection : Selection, optional
        Judges the averaged weights on the way; may restart members, and choose earlier averages.

    Raises
    ------
    UsageError
        `plan.rates` has a factor for no player, or one that is not above 0; or a parameter has no
        slice for each member that `selection` judges.
    """

    def __init__(
        self,
        networks: nn.Module,
        *,
        players: Mapping[str, Sequence[nn.Parameter]],
        phases: Sequence[Phase],
        sampler: Sampler,
        plan: TrainingPlan,
        checkpointer: Checkpointer | None = None,
        monitor: Callable[[], Mapping[str, float]] | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.networks = networks
        self.players = {name: list(parameters) for name, parameters in players.items()}
        self.phases = tuple(phases)
        self.sampler = sampler
        self.plan = plan
        self.checkpointer = checkpointer
        self.monitor = monitor
        self.selection = selection
        _check_rates(plan.rates, self.players)
        self.optimizers = {
            name: torch.optim.AdamW(
                parameters,
                lr=plan.learning_rate,
                betas=plan.betas,
                weight_decay=plan.weight_decay,
                fused=True,
            )
            for name, parameters in self.players.items()
        }
        self.parameters: list[Tensor] = list(networks.parameters())
        self.averaged = [p.detach().clone() for p in self.parameters]
        if selection is not None:
            selection.check(self.parameters)
        self.record = TrainingRecord()
        self._step = 0
        self._rate_factor = 1.0
        self._n_steps = plan.n_steps
        self._pace: tuple[int, float] | None = None
        self._forget_sums()

    def run(
        self,
        *,
        progress: Progress | None = None,
        stop_requested: Callable[[], bool] | None = None,
    ) -> TrainingRecord:
        """Train to the plan's end, then put the averaged weights into the networks.

        Raises
        ------
        TrainingInterrupted
            When `stop_requested` turned true; the last snapshot is in the checkpoint. So it is
            after an interrupt, and at the end: what follows may be stopped, too.
        TrainingError
            When losses stay non-finite after several roll-backs.
        ModelCorruptError, UsageError
            When the checkpoint to resume from is damaged, or of other rows or parameters.
        """
        started = time.monotonic()
        if self.checkpointer is not None:
            state = self.checkpointer.load(self.sampler.data.device)
            if state is not None:
                try:
                    self._restore(state)
                except (KeyError, ValueError, RuntimeError) as error:  # of another network
                    raise self.checkpointer.unusable(error) from error
        self._train(progress, stop_requested)
        self._settle()
        self.record.steps_run = self._step
        self.record.seconds = time.monotonic() - started
        return self.record

    def _train(self, progress: Progress | None, stop_requested: Callable[[], bool] | None) -> None:
        snapshot, last_report = self._snapshot(), 0.0
        try:
            while self._step < self._n_steps:
                if stop_requested is not None and stop_requested():
                    self._interrupt(snapshot)
                self._update()
                self._fit_to_deadline()
                if self._step % _SNAPSHOT_STEPS == 0 or self._step == self._n_steps:
                    snapshot = self._review(snapshot)
                now = time.monotonic()
                ended = self._step >= self._n_steps
                if progress is not None and (ended or now - last_report > _REPORT_S):
                    last_report = now
                    latest = self.record.history[-1] if self.record.history else {}
                    progress(self._step, self._n_steps, latest)
            self._keep(snapshot)
        except KeyboardInterrupt:
            self._keep(snapshot)
            raise

    def _keep(self, snapshot: TrainingState) -> None:
        if self.checkpointer is not None:
            self.checkpointer.save(snapshot)

    def _update(self) -> None:
        rate = self.plan.learning_rate * self._rate_factor * self._decay()
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * self.plan.rates.get(name, 1.0)
        self.sampler.done = self._step / self._n_steps
        for phase in self.phases:
            if self._step % phase.interval or not self._in_window(phase):
                continue
            for _ in range(phase.repeats):
                self._run_phase(phase)
        # The half-life is ramped up with the rows seen, so that the random start is forgotten.
        seen = (self._step + 1) * self.plan.batch_rows
        half_life = min(self.plan.ema_half_life_samples, 0.1 * seen)
        keep = 0.5 ** (self.plan.batch_rows / half_life)
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.parameters, 1.0 - keep)
        self._step += 1

    def _in_window(self, phase: Phase) -> bool:
        first, end = round(phase.start * self._n_steps), round(phase.stop * self._n_steps)
        return first <= self._step < end

    def _run_phase(self, phase: Phase) -> None:
        own = self.players[phase.player]
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        for parameter in own:
            parameter.requires_grad_(True)
            # None, not zero: what the phase does not touch is then not decayed either.
            parameter.grad = None
        losses = phase.loss()
        total = torch.stack(tuple(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizers[phase.player].step()
        if phase.after is not None:
            with torch.no_grad():
                phase.after()
        self._runs[phase.name] += 1
        for name, value in losses.items():
            key = f"{phase.name}.{name}"
            value = value.detach() / self.sampler.n_members
            self._sums[key] = self._sums[key] + value if key in self._sums else value

    def _decay(self) -> float:
        done = self._step / max(1, self._n_steps)
        return 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def _review(self, snapshot: TrainingState) -> TrainingState:
        means = {k: float(v) / self._runs[k.split(".")[0]] for k, v in self._sums.items()}
        self._forget_sums()
        finite = all(math.isfinite(v) for v in means.values()) and all(
            bool(torch.isfinite(p).all()) for p in self.parameters
        )
        if not finite:
            return self._roll_back(snapshot)
        health = self.monitor() if self.monitor is not None else {}
        self.record.history.append({"step": float(self._step), **means, **health})
        if self.selection is not None:
            self.selection.review(snapshot.step, self._step, self._n_steps, self._weights())
        snapshot = self._snapshot()
        if self.checkpointer is not None:
            self.checkpointer.save_if_due(snapshot)
        return snapshot

    def _settle(self) -> None:
        """Put the averages into the networks: the last ones, unless earlier ones are chosen."""
        averaged: Sequence[Tensor] = self.averaged
        self.record.weights_from_step = [self._step] * self.sampler.n_members
        if self.selection is not None:
            averaged, steps = self.selection.settled(self._step, self._weights())
            self.record.weights_from_step = steps
            self.record.n_restarts = sum(self.selection.state.restarts)
        with torch.no_grad():
            for parameter, average in zip(self.parameters, averaged, strict=True):
                parameter.copy_(average)

    def _weights(self) -> Weights:
        return Weights(self.parameters, self.averaged, tuple(self.optimizers.values()))

    def _roll_back(self, snapshot: TrainingState) -> TrainingState:
        self.record.n_rollbacks += 1
        if self.record.n_rollbacks > _MAX_ROLLBACKS:
            raise TrainingError(
                f"training diverged {self.record.n_rollbacks} times (non-finite losses near step "
                f"{self._step}); check the table for extreme values, or lower learning_rate "
                f"(now {self.plan.learning_rate:g})"
            )
        logger.warning("non-finite loss at step %d: back to step %d", self._step, snapshot.step)
        rollbacks = self.record.n_rollbacks
        self._restore(snapshot)
        self.record.n_rollbacks = rollbacks
        self._rate_factor *= 0.5
        return self._snapshot()

    def _fit_to_deadline(self) -> None:
        """Shorten or stretch the schedule, so that it reaches its end by the deadline."""
        if self.plan.deadline is None:
            return
        now = time.monotonic()
        if self._pace is None:  # the first step warms up and tells nothing of the next ones
            self._pace = (self._step, now)
        else:
            step, since = self._pace
            per_step = max(1e-9, (now - since) / (self._step - step))
            affordable = self._step + int(max(0.0, self.plan.deadline - now) / per_step)
            self._n_steps = min(self.plan.n_steps, affordable)
        if now >= self.plan.deadline:
            self._n_steps = self._step
        self.record.stopped_by_deadline = self._n_steps < self.plan.n_steps

    def _forget_sums(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._runs: Counter[str] = Counter()

    def _snapshot(self) -> TrainingState:
        return TrainingState(
            step=self._step,
            rate_factor=self._rate_factor,
            n_rollbacks=self.record.n_rollbacks,
            history=[dict(h) for h in self.record.history],
            parameters=[p.detach().clone() for p in self.parameters],
            averaged=[p.clone() for p in self.averaged],
            optimizers={name: moments_of(opt) for name, opt in self.optimizers.items()},
            rng_state=self.sampler.rng.get_state().clone(),
            selection=None if self.selection is None else self.selection.state,
        )

    def _restore(self, state: TrainingState) -> None:
        self._step = state.step
        self._pace = None
        self._rate_factor = state.rate_factor
        self.record.n_rollbacks = state.n_rollbacks
        self.record.history = [dict(h) for h in state.history]
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state.parameters, strict=True):
                parameter.copy_(value)
            for average, value in zip(self.averaged, state.averaged, strict=True):
                average.copy_(value)
        for name, optimizer in self.optimizers.items():
            set_moments(optimizer, state.optimizers[name])
        if self.selection is not None:
            self.selection.restore(state.selection, self.parameters)
        self.sampler.rng.set_state(state.rng_state.cpu())
        self._forget_sums()

    def _interrupt(self, snapshot: TrainingState) -> None:
        if self.checkpointer is None:
            raise TrainingInterrupted(
                f"training was stopped at step {self._step} of {self._n_steps}; nothing was kept"
            )
        self.checkpointer.save(snapshot)
        raise TrainingInterrupted(
            f"training was stopped at step {self._step} of {self._n_steps}; go on with the same "
            f"command and --resume (checkpoint: {self.checkpointer.path})"
        )


def _check_rates(rates: Mapping[str, float], players: Mapping[str, object]) -> None:
    faults = [
        f"a learning-rate factor is for {name!r}, the players are {sorted(players)}"
        for name in rates
        if name not in players
    ]
    faults += [
        f"the learning-rate factor of {name!r} is {factor}, it must be above 0"
        for name, factor in rates.items()
        if not factor > 0.0
    ]
    if faults:
        raise UsageError("; ".join(faults), faults)
