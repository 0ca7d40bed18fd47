"""Scores of ALAD, AnoGAN, f-AnoGAN, EGBAD and GANomaly, one row at a time, in loops and float64.

Networks are triples as in `oracle_networks`; hidden layers may be "relu" too.
"""

import math

import numpy as np
from oracle_networks import LEAK, affine, jacobian, slope

SMOOTH = 0.1
RESOLUTION = 0.01
BETAS = (0.9, 0.999)


def forward(network, x):
    """Return hidden activations and the output of one row."""
    matrices, biases, activation = network
    out = []
    for layer, (weight, bias) in enumerate(zip(matrices, biases, strict=True)):
        x = affine(weight, bias, x)
        if layer < len(matrices) - 1:
            x = [_bend(activation, value) for value in x]
        out.append(x)
    return out


def _bend(activation, value):
    if value > 0.0:
        return value
    return {"relu": 0.0, "elu": math.expm1(value), "leaky_relu": LEAK * value}[activation]


def _l1(a, b):
    return sum(abs(float(p) - float(q)) for p, q in zip(a, b, strict=True))


def egbad(networks, x, alpha, score_by):
    """Return (1 - alpha weighted) parts: by feature, whole."""
    code = forward(networks["encoder"], x)[-1]
    back = forward(networks["generator"], code)[-1]

    def judge(row):
        left = [_bend("leaky_relu", v) for v in forward(networks["d_x"], row)[-1]]
        right = [_bend("leaky_relu", v) for v in forward(networks["d_z"], code)[-1]]
        return forward(networks["d_joint"], left + right)

    hidden, logit = judge(x)
    if score_by == "fm":
        doubt = _l1(hidden, judge(back)[0])
    else:
        doubt = -math.log(1.0 / (1.0 + math.exp(-logit[0])))
    return [alpha * abs(p - q) for p, q in zip(x, back, strict=True)], (1.0 - alpha) * doubt


def alad(networks, x, score_by):
    """Return parts: by feature, whole; one of them None."""
    x = [float(value) for value in x]
    back = forward(networks["generator"], forward(networks["encoder"], x)[-1])[-1]
    if score_by == "l1":
        return [abs(p - q) for p, q in zip(x, back, strict=True)], None
    if score_by == "l2":
        return [(p - q) ** 2 for p, q in zip(x, back, strict=True)], None
    hidden, logit = forward(networks["d_xx"], x + list(back))
    if score_by == "logits":
        return None, -math.log(1.0 / (1.0 + math.exp(-logit[0])))
    return None, _l1(forward(networks["d_xx"], x + x)[0], hidden)


def ganomaly(networks, x):
    """Return |G_E(x) - E(G(x))|_1."""
    code = forward(networks["encoder"], x)[-1]
    back = forward(networks["decoder"], code)[-1]
    return _l1(code, forward(networks["recoder"], back)[-1])


def f_anogan(networks, x, kappa):
    """Return parts: by feature, whole."""
    back = forward(networks["generator"], forward(networks["encoder"], x)[-1])[-1]
    ours, theirs = (forward(networks["critic"], row)[-2] for row in (x, back))
    gap = sum((p - q) ** 2 for p, q in zip(ours, theirs, strict=True)) / len(ours)
    return [(p - q) ** 2 / len(x) for p, q in zip(x, back, strict=True)], kappa * gap


def anogan(networks, x, weight, n_steps, rate):
    """Search one row's code with Adam; return parts at the best code: by feature, whole + 0.01."""
    code = np.zeros(len(networks["generator"][0][0]))
    first, second = np.zeros_like(code), np.zeros_like(code)
    best = None
    for step in range(n_steps + 1):
        parts = anogan_parts(networks, x, weight, code)
        if best is None or sum(parts[0]) + parts[1] < sum(best[0]) + best[1]:
            best = parts
        gradient = anogan_gradient(networks, x, weight, code)
        first = BETAS[0] * first + (1.0 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1.0 - BETAS[1]) * gradient**2
        mean = first / (1.0 - BETAS[0] ** (step + 1))
        size = np.sqrt(second / (1.0 - BETAS[1] ** (step + 1)))
        code = code - rate * (1.0 - step / n_steps) * mean / (size + 1e-8)
    return best[0], best[1] + RESOLUTION


def anogan_parts(networks, x, weight, code):
    """Return the loss at a code: by feature, whole."""
    made = forward(networks["generator"], code)[-1]
    ours, theirs = (forward(networks["discriminator"], row)[-2] for row in (x, made))
    lost = [(1.0 - weight) * _distance(p - q) for p, q in zip(x, made, strict=True)]
    return lost, weight * sum(_distance(p - q) for p, q in zip(ours, theirs, strict=True))


def anogan_gradient(networks, x, weight, code):
    """Return the loss's gradient at a code, from Jacobians."""
    generator, (matrices, biases, activation) = networks["generator"], networks["discriminator"]
    made = forward(generator, code)[-1]
    below = (matrices[:-1], biases[:-1], activation)  # f before its own activation
    before = forward(below, made)[-1]
    ours, theirs = (forward(networks["discriminator"], row)[-2] for row in (x, made))
    of_row = np.array([_slope(q - p) for p, q in zip(x, made, strict=True)])
    of_features = np.array(
        [_slope(q - p) * slope(activation, v) for p, q, v in zip(ours, theirs, before, strict=True)]
    )
    total = (1.0 - weight) * of_row + weight * jacobian(below, made) @ of_features
    return jacobian(generator, code) @ total


def _distance(r):
    return math.sqrt(r * r + SMOOTH**2) - SMOOTH


def _slope(r):
    return r / math.sqrt(r * r + SMOOTH**2)
