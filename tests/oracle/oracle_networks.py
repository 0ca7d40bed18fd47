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
