"""The score of a boxed discriminator, one row at a time, in loops."""

import math

import oracle_networks


def verdict(judge, low, high, x):
    """-log D(x): judged at the nearest point of the box, a nat off for each unit outside."""
    near, outside = [], 0.0
    for value, least, most in zip(x, low, high, strict=True):
        inside = min(max(value, least), most)
        near.append(inside)
        outside += abs(value - inside)
    logit = oracle_networks.forward(judge, near)[-1][0] - outside
    if logit < 0.0:
        return -logit + math.log1p(math.exp(logit))
    return math.log1p(math.exp(-logit))
