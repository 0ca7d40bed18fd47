"""Networks of one member, one row at a time, in loops.

A network is a triple: matrices [in][out], biases [out], and "leaky_relu" or "elu" (Clevert et
al., 2016) for the hidden layers.
"""

import math

import numpy as np

LEAK = 0.2


def forward(network, x):
    """Return all activations of one row: lists of hidden values, then the output."""
    matrices, biases, activation = network
    activations = []
    for layer, (weight, bias) in enumerate(zip(matrices, biases, strict=True)):
        x = affine(weight, bias, x)
        if layer < len(matrices) - 1:
            x = [bend(activation, value) for value in x]
        activations.append(x)
    return activations


def affine(weight, bias, x):
    out = []
    for j in range(len(bias)):
        total = float(bias[j])
        for i in range(len(x)):
            total += float(x[i]) * float(weight[i][j])
        out.append(total)
    return out


def bend(activation, value):
    if value > 0.0:
        return value
    return math.expm1(value) if activation == "elu" else LEAK * value


def slope(activation, value):
    """Derivative of `bend`, from the value before it."""
    if value > 0.0:
        return 1.0
    return math.exp(value) if activation == "elu" else LEAK


def jacobian(network, x):
    """Return d output / d input of one row, [k, d], product of the layers' own Jacobians."""
    matrices, biases, activation = network
    total = np.eye(len(x))
    for layer, (weight, bias) in enumerate(zip(matrices, biases, strict=True)):
        x = affine(weight, bias, x)
        local = np.array(weight, dtype=np.float64)
        if layer < len(matrices) - 1:
            for j, value in enumerate(x):
                local[:, j] *= slope(activation, value)
            x = [bend(activation, value) for value in x]
        total = total @ local
    return total


def dot(a, b):
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def column_attention(x, scale, shift, query, key, value, back, gamma):
    """One row of d columns: attention [d][d] over (to, from), and what comes out, [d]."""
    tokens = [
        [float(x[j]) * float(a) + float(b) for a, b in zip(scale[j], shift[j], strict=True)]
        for j in range(len(x))
    ]
    no_bias = [0.0] * len(query[0])
    queries, keys, values = (
        [affine(matrix, no_bias, token) for token in tokens] for matrix in (query, key, value)
    )
    attention, out = [], []
    for j in range(len(x)):
        weights = [math.exp(dot(queries[j], keys[i])) for i in range(len(x))]
        weights = [weight / sum(weights) for weight in weights]
        mixed = [dot(weights, [v[c] for v in values]) for c in range(len(no_bias))]
        attention.append(weights)
        out.append(float(x[j]) + gamma * dot(mixed, back[j]))
    return attention, out


def minibatch_similarities(rows, weight, n_kernels, kernel_dim):
    """Similarities [n][n_kernels] of the rows of one batch, one member's weight [in][B * C]."""
    places = [affine(weight, [0.0] * (n_kernels * kernel_dim), row) for row in rows]
    out = []
    for mine in places:
        totals = []
        for b in range(n_kernels):
            cut = slice(b * kernel_dim, (b + 1) * kernel_dim)
            totals.append(
                sum(
                    math.exp(-sum(abs(p - q) for p, q in zip(mine[cut], other[cut], strict=True)))
                    for other in places
                )
            )
        out.append(totals)
    return out
