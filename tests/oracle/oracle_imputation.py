"""The score by masked imputation, one row and one group at a time, in loops."""

import oracle_networks


def contributions(generator, groups, low, high, spread, x):
    """Squared errors over squared spreads, by feature."""
    d = len(x)
    near = [min(max(v, a), b) for v, a, b in zip(x, low, high, strict=True)]
    out = [0.0] * d
    for group in groups:
        shown = [0.0 if j in group else near[j] for j in range(d)]
        mask = [0.0 if j in group else 1.0 for j in range(d)]
        imputed = oracle_networks.forward(generator, shown + mask)[-1]
        for j in group:
            value = min(max(imputed[j], low[j]), high[j])
            out[j] = ((x[j] - value) / spread[j]) ** 2
    return out
