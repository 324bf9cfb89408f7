"""The surrogate loss and the KL divergence of query episodes, at a Gaussian MLP policy after its inner steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metarl.data import Episodes, Outcome
from metarl.functional.gaussian_mlp import Forward, forward
from metarl.functional.layered import Architecture, Layered, log_std
from metarl.kernels import gaussians


class Query(NamedTuple):
    """The query episodes at the post-update policy.

    Attributes:
        passed: the forward pass at φ.
        ratio: π_φ / behaviour, ``[C, N, T]``.
        step_weights: 1/n for valid steps, 0 elsewhere, ``[C, N, T]``.
        outcome: surrogate loss and KL of each task, ``[C]``.
    """

    passed: Forward
    ratio: Tensor
    step_weights: Tensor
    outcome: Outcome


def at_query(arch: Architecture, params: Layered, episodes: Episodes) -> Query:
    """Surrogate −(1/n) Σ_t (π_φ / behaviour)_t A_t and KL (1/n) Σ_t KL(behaviour ‖ π_φ)_t over the n valid steps.

    Source: Schulman et al. 2015 (arXiv:1502.05477), equation 14.

    Args:
        arch: the policy's architecture.
        params: φ of C policies.
        episodes: of the same C tasks, ``[C, N, T, ...]``.

    Returns:
        Both, and what the derivatives need.
    """
    passed, shape = forward(arch, params, episodes.obs.flatten(1, 2)), episodes.mask.shape
    actions, old_mean = episodes.actions.flatten(1, 2), episodes.mean.flatten(1, 2)
    log_stds = episodes.log_std, log_std(arch, params)
    compared = gaussians.compared(actions, old_mean, log_stds[0], passed.mean, log_stds[1])
    ratio, divergence = compared[0].exp().view(shape), compared[1].view(shape)
    weights = episodes.mask / episodes.mask.sum((-2, -1), keepdim=True)
    outcome = Outcome(
        -(ratio * episodes.advantages * weights).sum((-2, -1)),
        (divergence * weights).sum((-2, -1)),
    )
    return Query(passed, ratio, weights, outcome)
