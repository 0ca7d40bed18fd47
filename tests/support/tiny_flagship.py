"""The flagship at toy size: its game on a ring of Gaussians, and small fitted scores."""

import functools

import numpy as np
import polars as pl
import torch

from anomgan.detectors.anomgan import FlagshipGame, GameWeights, NoiseScale
from anomgan.fitting import FitControl, fit_rows
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.presets import FlagshipParameters
from anomgan.tables import Batch, Schema, SchemaOptions
from anomgan.training.loop import Sampler, Trainer, TrainingPlan
from anomgan.training.objectives import RelativisticPairing

SCALE = NoiseScale(spacing=0.1, looseness=0.5)


def ring(n, seed=0, *, modes=8, spread=0.05):
    """Rows on `modes` Gaussians around the unit circle, float32 [n, 2]."""
    rng = np.random.default_rng(seed)
    angle = 2.0 * np.pi * rng.integers(0, modes, n) / modes
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1) + spread * rng.normal(size=(n, 2))
    return torch.from_numpy(rows.astype(np.float32))


def tiny_game(
    seed=0,
    rows=None,
    *,
    batch_rows=16,
    objective=None,
    weights=None,
    stabilisers=None,
    spectral_norm=False,
):
    """The flagship's game with two members of width 8."""
    rows = ring(64) if rows is None else rows
    sizes = TabularSizes(
        n_members=2,
        n_features=rows.shape[1],
        latent_dim=2,
        generator_width=8,
        discriminator_width=8,
        n_noise_levels=SCALE.n_levels,
    )
    draws = torch.Generator().manual_seed(seed)
    networks = TabularNetworks(sizes, generator=draws, spectral_norm=spectral_norm)
    sampler = Sampler(rows, 2, torch.Generator().manual_seed(seed + 1))
    return FlagshipGame(
        networks,
        sampler=sampler,
        scale=SCALE,
        objective=objective or RelativisticPairing(),
        weights=weights or GameWeights(),
        batch_rows=batch_rows,
        stabilisers=stabilisers,
    )


def tiny_plan(n_steps=120, **changes):
    values = {
        "n_steps": n_steps,
        "batch_rows": 16,
        "learning_rate": 1e-3,
        "betas": (0.5, 0.99),
        "weight_decay": 1e-4,
        "ema_half_life_samples": 300.0,
    }
    return TrainingPlan(**(values | changes))


def tiny_trainer(seed=0, n_steps=120, *, rows=None, checkpointer=None, **changes):
    """A trainer of the tiny game; its networks are `trainer.networks`."""
    game = tiny_game(seed, rows)
    return Trainer(
        game.networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=tiny_plan(n_steps, **changes),
        checkpointer=checkpointer,
    )


@functools.cache
def fitted(d=4, n=240, n_steps=80, seed=0):
    """A small flagship fitted to n correlated rows of d columns x0, x1, ...; shared."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    frame = pl.DataFrame({f"x{i}": rows[:, i] for i in range(d)})
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    parameters = FlagshipParameters(
        n_steps=n_steps,
        batch_rows=64,
        generator_width=20,
        discriminator_width=24,
        memory_size=150,
    )
    return fit_rows(
        schema,
        schema.rows(Batch(frame, 1, "normal")),
        parameters,
        seed=seed,
        false_alarm_rate=None,
        control=FitControl(device="cpu"),
    )
