"""Losses, averages and schedules in scalars."""

import math


def softplus(x):
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def discriminator_loss(real, fake):
    """Relativistic pairing: mean over pairs, sum over members of softplus(fake - real)."""
    return sum(
        sum(softplus(f - r) for r, f in zip(rs, fs, strict=True)) / len(rs)
        for rs, fs in zip(real, fake, strict=True)
    )


def objective(name, real, fake, smoothing=0.0, margin=1.0):
    """Losses of discriminator and generator for one row of each kind, by the papers' formulas."""
    d = [1.0 / (1.0 + math.exp(-real)), 1.0 / (1.0 + math.exp(-fake))]
    target = 1.0 - smoothing
    entropy = -target * math.log(d[0]) - smoothing * math.log(1.0 - d[0]) - math.log(1.0 - d[1])
    return {
        "relativistic": (softplus(fake - real), softplus(real - fake)),
        "minimax": (entropy, math.log(1.0 - d[1])),
        "non-saturating": (entropy, -math.log(d[1])),
        "wasserstein": (fake - real, -fake),
        "hinge": (max(0.0, 1.0 - real) + max(0.0, 1.0 + fake), -fake),
        "least-squares": (0.5 * (real - target) ** 2 + 0.5 * fake**2, 0.5 * (fake - 1.0) ** 2),
        "energy-based": (-real + max(0.0, margin + fake), -fake),
    }[name]


def averaged(values, batch_rows, half_life_rows):
    """Average of values[0] (the start) and one value a step, with a ramped half-life."""
    average = values[0]
    for step, value in enumerate(values[1:], start=1):
        half_life = min(half_life_rows, step * batch_rows / 10)
        keep = 2.0 ** (-batch_rows / half_life)
        average = keep * average + (1.0 - keep) * value
    return average


def learning_rate(step, n_steps, start):
    """Cosine from `start` at step 0 to a twentieth at n_steps."""
    return start * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / n_steps)))
