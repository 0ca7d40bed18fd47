"""Leaky-rectified networks of one member, one row at a time, in loops."""

import numpy as np

LEAK = 0.2


def forward(matrices, biases, x):
    """Return all activations of one row: lists of hidden values, then the output."""
    activations = []
    for layer, (weight, bias) in enumerate(zip(matrices, biases, strict=True)):
        out = []
        for j in range(len(bias)):
            total = float(bias[j])
            for i in range(len(x)):
                total += float(x[i]) * float(weight[i][j])
            if layer < len(matrices) - 1 and total < 0.0:
                total *= LEAK
            out.append(total)
        activations.append(out)
        x = out
    return activations


def jacobian(matrices, biases, x):
    """Return d output / d input of one row, [k, d], product of the layers' own Jacobians."""
    activations = forward(matrices, biases, x)
    total = np.eye(len(x))
    for layer, weight in enumerate(matrices):
        local = np.array(weight, dtype=np.float64)
        if layer < len(matrices) - 1:
            for j, value in enumerate(activations[layer]):
                local[:, j] *= 1.0 if value > 0.0 else LEAK
        total = total @ local
    return total
