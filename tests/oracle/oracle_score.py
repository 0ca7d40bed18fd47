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
    """Soft squared distance of x to the rows, and its gap to each of them."""
    logs = log_kernels(rows, counts, width, x, own)
    energy = max(0.0, 2.0 * width**2 * (top - log_sum(logs)))
    return energy, np.array([-2.0 * width**2 * log for log in logs])


def references(n, most=512):
    """Positions of the rows that columns are compared with: all, or evenly spread ones."""
    if n <= most:
        return list(range(n))
    return [int(i * (n - 1) / (most - 1)) for i in range(most)]


def blame(rows, gaps, x, feature_column, n_columns):
    """How much nearer x is to its nearest row when a column is not looked at, by column."""
    nearest = min(gaps)
    found = []
    for column in range(n_columns):
        left = []
        for row, gap in zip(rows, gaps, strict=True):
            own = [
                (float(x[f]) - float(row[f])) ** 2
                for f in range(len(x))
                if feature_column[f] == column
            ]
            left.append(gap - math.fsum(own))
        found.append(max(0.0, nearest - min(left)) if math.isfinite(nearest) else 0.0)
    return found


def posterior(rows, gaps, counts, width, x, feature_column, n_columns):
    """How likely each column is the one whose value was drawn without regard to the others."""
    nearest = min(gaps)
    variance = (4.0 * width) ** 2 + 0.002 * max(0.0, nearest)
    log_joint = []
    for column in range(n_columns):
        features = [f for f in range(len(x)) if feature_column[f] == column]
        if not features:
            log_joint.append(-math.inf)
            continue
        own = [math.fsum((float(x[f]) - float(row[f])) ** 2 for f in features) for row in rows]
        rest = [(gap - g) / (2.0 * variance) for gap, g in zip(gaps, own, strict=True)]
        least = min(rest)
        around = math.fsum(c * math.exp(least - r) for c, r in zip(counts, rest, strict=True))
        kernels = [c * math.exp(-g / (2.0 * variance)) for c, g in zip(counts, own, strict=True)]
        marginal = math.fsum(kernels) / math.fsum(counts) + 1e-4
        log_joint.append(math.log(around) - least + math.log(marginal))
    most = max(log_joint)
    likelihoods = [math.exp(value - most) for value in log_joint]
    return [value / math.fsum(likelihoods) for value in likelihoods]


def shared(energy, parts, floors):
    """An energy shared as parts and floors are."""
    padded = [part + floor for part, floor in zip(parts, floors, strict=True)]
    whole = math.fsum(padded)
    return np.array([energy * part / whole for part in padded])


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


def nearest_in_box(rows, x, margin):
    """The nearest point to x within a margin of the rows' range; x itself without a margin."""
    if margin is None:
        return x
    found = []
    for feature, value in enumerate(x):
        known = [float(row[feature]) for row in rows]
        found.append(min(max(value, min(known) - margin), max(known) + margin))
    return np.array(found)


def score(model, x, surprise, own=-1):
    """Contributions by column, then the discriminator's bucket; their sum is the score.

    `model` is a dict of float64 arrays and scalars with the names of `FrozenScore`; networks
    are lists over members, each as in `oracle_networks`. `own` is the place of x in memory.
    """
    x = np.array(x, dtype=np.float64)
    n_members = len(model["pull"])
    walk = {key: model[key] for key in ("n_steps", "rate", "momentum")}
    rows, counts = model["memory_rows"], model["memory_counts"]
    width, columns = model["kernel_width"], model["feature_column"]
    n_columns = len(surprise)
    distance, gaps = soft_distance(rows, counts, width, model["kernel_peak"], x, own)
    near = nearest_in_box(rows, x, model["margin"])
    beyond = (x - near) ** 2
    energy, log_odds, residual = beyond.sum(), 0.0, beyond
    for m in range(n_members):
        code = forward(model["encoder"][m], near)[-1]
        left, square = invert(
            model["generator"][m], model["preconditioner"][m], model["pull"][m], near, code, **walk
        )
        energy += left / n_members
        residual = residual + square**2 / n_members
        log_odds += forward(model["discriminator"][m], near)[-1][0] / n_members
    total = (1.0 - model["inversion_share"]) * distance + model["inversion_share"] * energy
    total /= 2.0 * model["bandwidth"] ** 2
    floors = [SHARE_FLOOR * width**2 * (column in columns) for column in range(n_columns)]
    places = references(len(rows))
    by_rows = blame([rows[i] for i in places], gaps[places], x, columns, n_columns)
    by_generator = np.zeros(n_columns)
    for feature, column in enumerate(columns):
        by_generator[column] += residual[feature]
    contributions = np.array([*surprise, 0.0], dtype=np.float64)
    finite = np.minimum(gaps[places], 1e30)
    by_likelihood = posterior(
        *([rows[i] for i in places], finite, [counts[i] for i in places]),
        *(width, x, columns, n_columns),
    )
    bound = model["discriminator_bound"]
    bounded = min(max(log_odds - model["discriminator_median"], -bound), bound)
    contributions[-1] = model["discriminator_trust"] * (bounded + bound) + FLOOR
    if total + contributions.sum() < model["explained_from"]:
        contributions[:-1] += shared(total, by_generator, floors)
        return contributions
    for parts in (by_rows, by_generator):
        contributions[:-1] += shared(total / 3.0, parts, floors)
    contributions[:-1] += shared(total / 3.0, by_likelihood, [0.0] * n_columns)
    return contributions
