"""Gradient penalties on a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["zero_centred_penalty"]


def zero_centred_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """Squared norm of the logit's gradient with respect to its input row.

    On real rows this is R1, on generated rows R2 (Mescheder et al., 2018, eq. 9 and 10).

    Parameters
    ----------
    logits : Tensor [m, n]
        Computed from `inputs`; row i of the logits depends on row i of the inputs only.
    inputs : Tensor [m, n, d]
        Must require a gradient.

    Returns
    -------
    Tensor
        Scalar: mean over rows, summed over members.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)  # [m, n, d]
    return gradient.square().sum(dim=2).mean(dim=1).sum()
