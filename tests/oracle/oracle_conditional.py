"""The score of the conditional GAN, one row at a time, in loops."""

import math

import oracle_boxed
import oracle_networks

REACH = 2.5


def score(nets, low, high, spread, scored, given, weight, x):
    """Errors by feature, and the discriminator's part."""
    near = [min(max(v, a), b) for v, a, b in zip(x, low, high, strict=True)]
    context = [near[j] for j in given]
    code = oracle_networks.forward(nets["encoder"], [near[j] for j in scored] + context)[-1]
    code = [REACH * math.tanh(v) for v in code]
    back = oracle_networks.forward(nets["generator"], code + context)[-1]
    out = [0.0] * len(x)
    for i, j in enumerate(scored):
        out[j] = ((back[i] - x[j]) / spread[i]) ** 2 / len(scored)
    return out, weight * oracle_boxed.verdict(nets["judge"], low, high, x)
