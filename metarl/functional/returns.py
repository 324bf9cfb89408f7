"""Returns and advantages of whole episodes."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sums(values: Tensor, factor: float) -> Tensor:
    """y_t = Σ_{t' ≥ t} factor^(t'−t) x_t' along the last axis, ``[..., T] -> [..., T]``."""
    return _one_by_one(values, factor) if values.device.type == "cpu" else _doubling(values, factor)


def _one_by_one(values: Tensor, factor: float) -> Tensor:
    """T steps over memory that the cache holds."""
    result = torch.empty_like(values)
    running = torch.zeros_like(values[..., 0])
    for t in range(values.shape[-1] - 1, -1, -1):
        running = values[..., t] + factor * running
        result[..., t] = running
    return result


def _doubling(values: Tensor, factor: float) -> Tensor:
    """log₂ T passes, each over sums twice as long: few launches, where every one has its price."""
    span, total = 1, values
    while span < values.shape[-1]:
        later = torch.nn.functional.pad(total[..., span:], (0, span))
        total, span = torch.add(total, later, alpha=factor**span), 2 * span
    return total


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t.

    The value after the last valid step is 0: the horizon is finite, and time is a feature of V.

    Source: Schulman et al. 2016 (arXiv:1506.02438), equation 16.

    Args:
        rewards: ``[..., T]``, zero after the end.
        values: the baseline V_t, ``[..., T]``.
        mask: 1 for valid steps, ``[..., T]``.
        discount: γ.
        gae_lambda: λ; 1 gives the discounted return to go minus the baseline.

    Returns:
        ``[..., T]``, zero after the end.
    """
    values = values * mask
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    residuals = (rewards + discount * following - values) * mask
    return discounted_sums(residuals, discount * gae_lambda)


def standardise(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean x) / std x over the valid entries: mean 0, standard deviation 1.

    Args:
        values: ``[M, N, T]``; each of the M tasks is standardised by itself.
        mask: ``[M, N, T]``.

    Returns:
        The standardised values (zero where the mask is), and each task's mean and standard
        deviation ``[M, 1, 1]``. A constant is left at zero, with a standard deviation of 1.
    """
    count = mask.sum((-2, -1), keepdim=True)
    mean = (values * mask).sum((-2, -1), keepdim=True) / count
    centred = (values - mean) * mask
    std = (centred.square().sum((-2, -1), keepdim=True) / count).sqrt()
    # A spread below rounding error of the mean is no signal: dividing by it would make one.
    negligible = std <= 10 * torch.finfo(values.dtype).eps * mean.abs().clamp(min=1e-30)
    std = torch.where(negligible, torch.ones_like(std), std)
    centred = torch.where(negligible, torch.zeros_like(centred), centred)
    return centred / std, mean, std
