"""Expected values and nearest rows in loops; what anomgan.evaluation.expectation should compute."""

import math

LEAST_ROWS = 10.0


def squared_distance(a, b, left_out=()):
    """Squared distance of two encoded rows, some features left out."""
    return math.fsum(
        (float(p) - float(q)) ** 2
        for i, (p, q) in enumerate(zip(a, b, strict=True))
        if i not in left_out
    )


def weights(squared, counts, width):
    """Shares of a Gaussian kernel widened until ten rows count, and how many count."""
    wanted = min(LEAST_ROWS, math.fsum(counts) / 2.0)
    while True:
        logs = [math.log(c) - s / (2.0 * width**2) for s, c in zip(squared, counts, strict=True)]
        kernels = [math.exp(value - max(logs)) for value in logs]
        shares = [kernel / math.fsum(kernels) for kernel in kernels]
        rows = 1.0 / math.fsum(s**2 / c for s, c in zip(shares, counts, strict=True))
        if rows >= wanted:
            return shares, rows
        width *= math.sqrt(2.0)


def quantile(values, shares, q):
    """Least value that has, with those below it, the share q of the weight."""
    pairs = sorted(zip(values, shares, strict=True))
    total, reached = math.fsum(shares), 0.0
    for value, share in pairs:
        reached += share
        if reached >= q * total - 1e-12:
            return value
    return pairs[-1][0]


def expected_number(rows, counts, width, x, left_out, cells):
    """Median, 10 and 90 % quantiles, weight and effective rows; the first is None for missing."""
    squared = [squared_distance(row, x, left_out) for row in rows]
    shares, n_rows = weights(squared, counts, width)
    present = [(c, s) for c, s in zip(cells, shares, strict=True) if c is not None]
    weight = math.fsum(s for _, s in present)
    if weight < 0.5:
        return None, None, None, 1.0 - weight, n_rows
    values, kept = [c for c, _ in present], [s for _, s in present]
    return *(quantile(values, kept, q) for q in (0.5, 0.1, 0.9)), weight, n_rows


def expected_state(rows, counts, width, x, left_out, cells):
    """Weight of every state, and effective rows."""
    squared = [squared_distance(row, x, left_out) for row in rows]
    shares, n_rows = weights(squared, counts, width)
    found = {}
    for cell, share in zip(cells, shares, strict=True):
        found[cell] = found.get(cell, 0.0) + share
    return found, n_rows


def nearest(rows, x, n):
    """Positions and distances of the n nearest rows, the earlier first where equally near."""
    distances = [math.sqrt(squared_distance(row, x)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (distances[i], i))[:n]
    return [(i, distances[i]) for i in order]
