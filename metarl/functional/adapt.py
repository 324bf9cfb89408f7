"""The inner update of one task, for any loss: differentiable, by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.data import Params
from metarl.functional.params import descend

Loss = Callable[[Params, Any], Tensor]
"""The loss of one task: ``(parameters, data of one task) -> scalar``."""


def inner_step(
    params: Params, data: Any, loss: Loss, rates: float | Params, first_order: bool = False
) -> Params:
    """φ = θ − α ∇L(θ; data).

    Source: Finn et al. 2017 (arXiv:1703.03400), equation 1.

    Args:
        params: θ of one task.
        data: support data of one task.
        loss: L.
        rates: α, or one rate tensor per parameter (Meta-SGD).
        first_order: treat ∇L as a constant (FOMAML): the derivative of φ in θ is then the identity.

    Returns:
        φ, differentiable in θ (and in ``rates``).
    """
    gradient = torch.func.grad(loss)(params, data)
    if first_order:
        gradient = {name: value.detach() for name, value in gradient.items()}
    return descend(params, gradient, rates)


def adapt(
    params: Params,
    support: Sequence[Any],
    loss: Loss,
    rates: float | Params,
    first_order: bool = False,
) -> Params:
    """K inner steps, one for each entry of ``support``. No entry: the untouched parameters."""
    for data in support:
        params = inner_step(params, data, loss, rates, first_order)
    return params
