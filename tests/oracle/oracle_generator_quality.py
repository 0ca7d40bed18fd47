"""Measures of generated rows in loops over rows, columns and projections."""

import math

import numpy as np
from scipy.linalg import sqrtm


def moments(rows):
    """Means [d] and unbiased covariances [d, d]."""
    n, d = len(rows), len(rows[0])
    mean = [math.fsum(row[j] for row in rows) / n for j in range(d)]
    covariance = [
        [
            math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (n - 1)
            for j in range(d)
        ]
        for i in range(d)
    ]
    return mean, covariance


def frechet_distance(real, generated):
    """The formula as printed, with the root of the product that is not symmetric."""
    (mean_a, cov_a), (mean_b, cov_b) = moments(real), moments(generated)
    root = np.real(sqrtm(np.array(cov_a) @ np.array(cov_b)))
    gap = math.fsum((p - q) ** 2 for p, q in zip(mean_a, mean_b, strict=True))
    trace = math.fsum(
        cov_a[j][j] + cov_b[j][j] - 2.0 * float(root[j, j]) for j in range(len(mean_a))
    )
    return gap + trace


def inception_score(probabilities):
    n, c = len(probabilities), len(probabilities[0])
    marginal = [math.fsum(p[y] for p in probabilities) / n for y in range(c)]
    divergences = [
        math.fsum(p[y] * math.log(p[y] / marginal[y]) for y in range(c) if p[y] > 0.0)
        for p in probabilities
    ]
    return math.exp(math.fsum(divergences) / n)


def wasserstein_on_a_line(a, b, order):
    """To the power of p: mass by mass, from the left."""
    a, b = sorted(a), sorted(b)
    i = j = 0
    left_a, left_b = 1.0 / len(a), 1.0 / len(b)
    total = 0.0
    while i < len(a) and j < len(b):
        moved = min(left_a, left_b)
        total += moved * abs(a[i] - b[j]) ** order
        left_a, left_b = left_a - moved, left_b - moved
        if left_a < 1e-12:
            i, left_a = i + 1, 1.0 / len(a)
        if left_b < 1e-12:
            j, left_b = j + 1, 1.0 / len(b)
    return total


def sliced_wasserstein(real, generated, directions, order):
    total = 0.0
    for u in directions:
        norm = math.sqrt(math.fsum(c * c for c in u))
        a, b = (
            [math.fsum(c * x for c, x in zip(u, row, strict=True)) / norm for row in rows]
            for rows in (real, generated)
        )
        total += wasserstein_on_a_line(a, b, order)
    return (total / len(directions)) ** (1.0 / order)


def lerp(a, b, t):
    return [(1.0 - t) * p + t * q for p, q in zip(a, b, strict=True)]


def slerp(a, b, t):
    dot = math.fsum(p * q for p, q in zip(a, b, strict=True))
    lengths = math.sqrt(math.fsum(p * p for p in a)) * math.sqrt(math.fsum(q * q for q in b))
    angle = math.acos(max(-1.0, min(1.0, dot / lengths)))
    first, last = math.sin((1.0 - t) * angle), math.sin(t * angle)
    return [(first * p + last * q) / math.sin(angle) for p, q in zip(a, b, strict=True)]


def path_length(generate, starts, ends, places, epsilon, along):
    """`generate` maps one code to one row."""
    total = 0.0
    for a, b, t in zip(starts, ends, places, strict=True):
        here, there = (generate(along(a, b, at)) for at in (t, t + epsilon))
        total += math.fsum((p - q) ** 2 for p, q in zip(here, there, strict=True)) / epsilon**2
    return total / len(starts)
