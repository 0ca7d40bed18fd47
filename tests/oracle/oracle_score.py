"""The frozen score of one row, in loops and float64; what anomgan.scoring should compute."""

import math

import numpy as np
from oracle_networks import forward, jacobian

FLOOR = 1.0
SHARE_FLOOR = 0.01


def nearest(rows, x):
    """Index of the first row at the least distance."""
    best, index = math.inf, -1
    for i, row in enumerate(rows):
        gap = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(row, x, strict=True))
        if gap < best:
            best, index = gap, i
    return index


def log_kernels(rows, counts, width, x, own=-1):
    """Log of each row's kernel at x times its count; the row `own` counts once less."""
    logs = []
    for j, (row, count) in enumerate(zip(rows, counts, strict=True)):
        left = float(count) - (1.0 if j == own else 0.0)
        gap = math.fsum((float(a) - float(b)) ** 2 for a, b in zip(row, x, strict=True))
        logs.append(math.log(left) - gap / (2.0 * width**2) if left > 0.0 else -math.inf)
    return logs


def log_sum(logs):
    """Log of the sum of exponentials."""
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in logs))


def peak(rows, counts, width, index=None):
    """Log of the largest kernel sum found at the known rows (at `index` only)."""
    index = range(len(rows)) if index is None else index
    return max(log_sum(log_kernels(rows, counts, width, rows[i])) for i in index)


def soft_distance(rows, counts, width, top, x, own=-1):
    """Soft squared distance of x to the rows, and its shares by feature."""
    logs = log_kernels(rows, counts, width, x, own)
    total = log_sum(logs)
    energy = max(0.0, 2.0 * width**2 * (top - total))
    shares = []
    for i, value in enumerate(x):
        terms = zip(logs, rows, strict=True)
        mean = math.fsum(math.exp(log - total) * float(row[i]) for log, row in terms)
        shares.append((float(value) - mean) ** 2 + SHARE_FLOOR * width**2)
    whole = math.fsum(shares)
    return energy, np.array([energy * part / whole for part in shares])


def invert(generator, preconditioner, pull, x, start, *, n_steps, rate, momentum):
    """Walk n_steps from `start`; return energy and residual of the better of both ends."""

    def residual(code):
        out = np.array(forward(generator, code)[-1])
        return out - x

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


def score(model, x, surprise, own=-1):
    """Contributions by column, then the discriminator's bucket; their sum is the score.

    `model` is a dict of float64 arrays and scalars with the names of `FrozenScore`; networks
    are lists over members, each as in `oracle_networks`. `own` is the place of x in memory.
    """
    x = np.array(x, dtype=np.float64)
    n_members = len(model["pull"])
    walk = {key: model[key] for key in ("n_steps", "rate", "momentum")}
    memory = (model[f"memory_{key}"] for key in ("rows", "counts"))
    _, known = soft_distance(*memory, model["kernel_width"], model["kernel_peak"], x, own)
    energy = (1.0 - model["inversion_share"]) * known
    log_odds = 0.0
    for m in range(n_members):
        code = forward(model["encoder"][m], x)[-1]
        left = invert(
            model["generator"][m], model["preconditioner"][m], model["pull"][m], x, code, **walk
        )
        energy += model["inversion_share"] * share(*left) / n_members
        log_odds += forward(model["discriminator"][m], x)[-1][0] / n_members
    contributions = np.array([*surprise, 0.0], dtype=np.float64)
    for feature, column in enumerate(model["feature_column"]):
        contributions[column] += energy[feature] / (2.0 * model["bandwidth"] ** 2)
    bound = model["discriminator_bound"]
    bounded = min(max(log_odds - model["discriminator_median"], -bound), bound)
    contributions[-1] = model["discriminator_trust"] * (bounded + bound) + FLOOR
    return contributions
