"""Products with the Hessian of a Gaussian MLP policy's inner loss, written out.

What does not depend on the direction is computed once and kept on a :class:`Tape`; each product is the matrix products
that remain, Pearlmutter's R-operator. The symbols are those of :mod:`metarl.kernels.passes`.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metarl.data import Episodes
from metarl.functional.estimators import Coefficients, Estimator, weights
from metarl.functional.gaussian_mlp import Forward, forward, seen_actions
from metarl.functional.layered import Architecture, Layered, free
from metarl.kernels import gaussians, passes


class Tape(NamedTuple):
    """One forward and backward pass at fixed parameters, kept for the products.

    Attributes:
        forward: the forward pass.
        top: δ_{depth−1}, ``[C, B, A]``.
        carried: W_iᵀ δ_i, of :func:`metarl.kernels.passes.taped_backward`.
        score: of the Gaussians.
        free: 1 where log σ is not below its bound, ``[C, A]``.
        coefficients: of the estimator's Hessian.
    """

    forward: Forward
    top: Tensor
    carried: tuple[Tensor, ...]
    score: gaussians.Score
    free: Tensor
    coefficients: Coefficients


def taped_policy_gradient(
    arch: Architecture, params: Layered, episodes: Episodes, estimator: Estimator
) -> tuple[Layered, Tape]:
    """The policy gradient, to the same bits as without a tape, and the tape.

    Args:
        arch: the policy's architecture.
        params: of C policies.
        episodes: of the same C tasks, ``[C, N, T, ...]``.
        estimator: whose loss :func:`hessian_product` is to take the Hessian of.

    Returns:
        :func:`metarl.functional.gaussian_mlp.policy_gradient`, and what does not depend on the products' directions.
    """
    passed, per_step = (
        forward(arch, params, episodes.obs.flatten(1, 2)),
        weights(episodes).flatten(1),
    )
    seen, unbounded = seen_actions(arch, episodes, passed), free(arch, params)
    top, log_std_gradient, score = gaussians.taped_likelihood(*seen, per_step)
    found, carried = passes.taped_backward(passed.network, top)
    gradient = Layered(found, log_std_gradient * unbounded)
    coefficients = estimator.coefficients(episodes)
    return gradient, Tape(passed, top, carried, score, unbounded, coefficients)


def hessian_product(
    tape: Tape, episodes: Episodes, estimator: Estimator, tangent: Layered
) -> Layered:
    """∇²L(φ) · tangent for the inner loss of ``estimator``, at the tape's parameters.

    Args:
        tape: from :func:`taped_policy_gradient`.
        episodes: the same episodes.
        estimator: the same estimator: which second derivative.
        tangent: of C policies.

    Returns:
        The product, shaped as the tangent.
    """
    network = tape.forward.network
    *moved, mean_moved = passes.forward_moved(network, tangent.matrices)
    log_std_moved = tangent.log_std * tape.free
    log_prob_moved = gaussians.log_prob_moved(tape.score, mean_moved, log_std_moved)
    at_steps = log_prob_moved.view(episodes.rewards.shape)
    weights_moved = estimator.hessian_product(at_steps, tape.coefficients).flatten(1)
    given = tape.top, weights_moved, mean_moved, log_std_moved
    top_moved, log_std_product = gaussians.likelihood_moved(tape.score, *given)
    along = tangent.matrices, tape.top, tape.carried, moved, top_moved
    return Layered(passes.backward_moved(network, *along), log_std_product * tape.free)
