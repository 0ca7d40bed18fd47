"""Health facts by comparing every row with every other."""

import math


def distance(a, b):
    return math.sqrt(math.fsum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))


def radius(rows, i, k):
    """Distance of row i to the k-th nearest row that differs from it; twins count once."""
    own = tuple(rows[i])
    others = sorted(distance(own, other) for other in {tuple(row) for row in rows} - {own})
    return others[min(k, len(others)) - 1]


def coverage(real, generated, k):
    reached = sum(
        any(distance(row, g) <= radius(real, i, k) for g in generated) for i, row in enumerate(real)
    )
    return reached / len(real)


def precision(real, generated, k):
    inside = sum(
        any(distance(g, row) <= radius(real, i, k) for i, row in enumerate(real)) for g in generated
    )
    return inside / len(generated)


def two_sample_accuracy(real, generated):
    n = min(len(real), len(generated))
    rows = [*real[:n], *generated[:n]]
    right = 0
    for i, row in enumerate(rows):
        others = [(distance(row, rows[j]), j) for j in range(2 * n) if j != i]
        right += (min(others)[1] < n) == (i < n)
    return right / (2 * n)
