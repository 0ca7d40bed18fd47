"""The frozen score of one row, in loops and float64; what anomgan.scoring should compute."""

import math

import numpy as np
from oracle_networks import forward, jacobian

FLOOR = 1.0


def nearest(rows, x):
    """Index of the first row at the least distance."""
    best, index = math.inf, -1
    for i, row in enumerate(rows):
        gap = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(row, x, strict=True))
        if gap < best:
            best, index = gap, i
    return index


def invert(generator, preconditioner, pull, x, start, shift, *, n_steps, rate, momentum):
    """Walk n_steps from `start`; return energy and residual of the better of both ends."""

    def residual(code):
        out = np.array(forward(generator, code)[-1])
        return out + shift - x

    start = np.array(start, dtype=np.float64)
    code, velocity = start.copy(), np.zeros_like(start)
    for _ in range(n_steps):
        slope = jacobian(generator, code)  # [k, d]
        gradient = slope @ residual(code) + pull * (code - start)
        velocity = momentum * velocity - rate * (preconditioner @ gradient)
        code = code + velocity
    first, last = residual(start), residual(code)
    before = float(first @ first)
    after = float(last @ last) + pull * float((code - start) @ (code - start))
    return (after, last) if after < before else (before, first)


def share(energy, residual):
    """An energy shared among features as the squared residual is."""
    total = float(residual @ residual)
    return residual**2 * (energy / total) if total > 0.0 else np.zeros_like(residual)


def score(model, x, surprise):
    """Contributions by column, then the discriminator's bucket; their sum is the score.

    `model` is a dict of float64 arrays and scalars with the names of `FrozenScore`; networks
    are lists over members, each as in `oracle_networks`.
    """
    x = np.array(x, dtype=np.float64)
    n_members = len(model["pull"])
    walk = {key: model[key] for key in ("n_steps", "rate", "momentum")}
    energy = np.zeros(len(x))
    log_odds = 0.0
    anchor = nearest(model["memory"], x)
    for m in range(n_members):
        generator = model["generator"][m]

        def inverted(start, shift, m=m, generator=generator):
            matrix, pull = model["preconditioner"][m], model["pull"][m]
            return invert(generator, matrix, pull, x, start, shift, **walk)

        code = model["memory_codes"][m][anchor]
        shift = model["memory"][anchor] - np.array(forward(generator, code)[-1])
        anchored = inverted(code, shift)
        drawn = nearest(model["codebook_rows"][m], x)
        free = [
            inverted(forward(model["encoder"][m], x)[-1], 0.0),
            inverted(model["codebook_codes"][m][drawn], 0.0),
        ]
        better = min(free, key=lambda found: found[0])
        energy += (1.0 - model["free_share"]) * share(*anchored) / n_members
        energy += model["free_share"] * share(*better) / n_members
        log_odds += forward(model["discriminator"][m], x)[-1][0] / n_members
    contributions = np.array([*surprise, 0.0], dtype=np.float64)
    for feature, column in enumerate(model["feature_column"]):
        contributions[column] += energy[feature] / (2.0 * model["bandwidth"] ** 2)
    bound = model["discriminator_bound"]
    centred = log_odds - model["discriminator_median"]
    contributions[-1] = min(max(centred, -bound), bound) + bound + FLOOR
    return contributions
