"""The diagonal Gaussian N(mean, exp(log_std)²), the action distribution of continuous policies.

Every function reduces the last axis, the action's, by a sum: the joint density of independent components.
"""

from __future__ import annotations

import math

from torch import Tensor

from metarl.kernels.gaussians import kl_of_deviations

LOG_2_PI = math.log(2.0 * math.pi)


def log_prob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; μ, σ²) = −½ Σ_i [((a_i − μ_i)/σ_i)² + 2 log σ_i + log 2π].

    Args:
        actions: ``[..., A]``.
        mean: ``[..., A]``.
        log_std: broadcastable to ``[..., A]``.

    Returns:
        Joint log-density, ``[...]``.
    """
    standardised = (actions - mean) * (-log_std).exp()
    return -0.5 * (standardised.square() + 2.0 * log_std + LOG_2_PI).sum(-1)


def kl(mean: Tensor, log_std: Tensor, new_mean: Tensor, new_log_std: Tensor) -> Tensor:
    """KL(old ‖ new) = Σ_i [log(σ'_i/σ_i) + (σ_i² + (μ_i − μ'_i)²) / (2 σ'_i²) − ½].

    Args:
        mean: of the old distribution, ``[..., A]``.
        log_std: of the old distribution, broadcastable to ``[..., A]``.
        new_mean: of the new distribution, ``[..., A]``.
        new_log_std: of the new distribution, broadcastable to ``[..., A]``.

    Returns:
        The divergence, ``[...]``, never negative.
    """
    spread = kl_of_deviations(log_std - new_log_std)
    shift = 0.5 * ((mean - new_mean) * (-new_log_std).exp()).square()
    return (spread + shift).sum(-1)


def entropy(log_std: Tensor) -> Tensor:
    """Differential entropy Σ_i [log σ_i + ½ log 2πe], ``[..., A] -> [...]``."""
    return (log_std + 0.5 * (LOG_2_PI + 1.0)).sum(-1)
