"""A Gaussian MLP policy's forward pass and policy gradient, written out.

Autograd would build and walk a graph for each of them. Everything is batched over C tasks with parameters of their own
(:class:`Layered`) and B = N·T states each; the symbols are those of :mod:`metarl.kernels.passes`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metarl.data import Episodes
from metarl.functional.estimators import weights
from metarl.functional.layered import Architecture, Layered, free, log_std
from metarl.kernels import gaussians, passes


class Forward(NamedTuple):
    """One forward pass.

    Attributes:
        params: M_i and log σ.
        network: the matrices, and the inputs x_i of the layers.
        mean: the action mean, ``[C, B, A]``.
    """

    params: Layered
    network: passes.Network
    mean: Tensor


def forward(arch: Architecture, params: Layered, obs: Tensor) -> Forward:
    """The forward pass of C policies.

    Args:
        arch: the policies' architecture.
        params: of C policies.
        obs: ``[C, B, O]``.

    Returns:
        What the backward pass and the products need.
    """
    inputs = [obs]
    for matrix in params.matrices[:-1]:
        inputs.append(passes.layer(matrix, inputs[-1], arch.activation))
    network = passes.Network(arch.activation, params.matrices, tuple(inputs))
    return Forward(params, network, passes.layer(params.matrices[-1], inputs[-1]))


def policy_gradient(arch: Architecture, params: Layered, episodes: Episodes) -> Layered:
    """∇L(φ) = −(1/n) Σ_t A_t ∇log π_φ(a_t|s_t) at φ = ``params``: the first derivative of every estimator.

    Args:
        arch: the policy's architecture.
        params: of C policies.
        episodes: of the same C tasks, ``[C, N, T, ...]``.

    Returns:
        The gradient in every M_i, ``[C, out, in + 1]``, and in log σ, ``[C, A]``: 0 below its bound.
    """
    passed = forward(arch, params, episodes.obs.flatten(1, 2))
    return likelihood_gradient(arch, passed, episodes, weights(episodes))


def likelihood_gradient(
    arch: Architecture, passed: Forward, episodes: Episodes, per_step: Tensor
) -> Layered:
    """Σ_t w_t ∇log π_t, with weights that are constants.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` of the episodes' observations.
        episodes: of C tasks.
        per_step: w_t, ``[C, N, T]``.

    Returns:
        The gradient, shaped as the parameters.
    """
    seen = seen_actions(arch, episodes, passed)
    top, log_std_gradient = gaussians.likelihood(*seen, per_step.flatten(1))
    found = passes.backward(passed.network, top)
    return Layered(found, log_std_gradient * free(arch, passed.params))


def seen_actions(
    arch: Architecture, episodes: Episodes, passed: Forward
) -> tuple[Tensor, Tensor, Tensor]:
    """The actions and their means ``[C, B, A]``, and 1/σ ``[C, A]``."""
    return episodes.actions.flatten(1, 2), passed.mean, (-log_std(arch, passed.params)).exp()
