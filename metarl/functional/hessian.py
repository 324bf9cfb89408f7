"""Products with the Hessian of a Gaussian MLP policy's inner loss, written out.

What does not depend on the direction is kept on a :class:`Tape`; shapes and symbols are those of
:mod:`metarl.functional.gaussian_mlp`.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes
from metarl.functional.estimators import Coefficients, Estimator, weights
from metarl.functional.gaussian_mlp import (
    Direction,
    Forward,
    forward,
    likelihood_gradient,
    standardise,
    tangent_forward,
)
from metarl.functional.layered import Architecture, Layered
from metarl.kernels import Factor, factor, matmul, rows, through_activation


class Tape(NamedTuple):
    """One forward and backward pass at fixed parameters, kept for the products.

    Attributes:
        forward: the forward pass, with its rows.
        joined: [δ_i; room for δ̇_i] at i = 1 .. depth−1, each ``[C, out + out, B]``; at 0 where that is all.
        top: δ_{depth−1} in the last of them, ``[C, A, B]``.
        room: for δ̇_i in them.
        rows: δ_iᵀ, ``[C, B, out]``.
        bends: for tanh, −2 h_i ⊙ ∂loss/∂h_i at i = 1 .. depth−1, ``[C, size, B]``: the part of a''(z) ż that no
            product changes, as a''(z) ż = −2 h ḣ. Empty for relu, whose a'' is zero.
        score: g = ∂log π/∂μ = (a − μ)/σ², ``[C, A, B]``.
        excess: ∂log π/∂log σ = ((a − μ)/σ)² − 1, ``[C, A, B]``.
        precision: w/σ² with w = ∂loss/∂log π, ``[C, A, B]``.
        spread: 2 Σ_b w ((a − μ)/σ)², ``[C, A, 1]``.
        coefficients: of the estimator's Hessian.
    """

    forward: Forward
    joined: tuple[Factor, ...]
    top: Tensor
    room: tuple[Tensor, ...]
    rows: tuple[Factor, ...]
    bends: tuple[Tensor, ...]
    score: Tensor
    excess: Tensor
    precision: Tensor
    spread: Tensor
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
    passed, per_step = forward(arch, params, episodes.obs.flatten(1, 2), True), weights(episodes)
    seen = standardise(arch, episodes, passed)
    gradient, deltas = likelihood_gradient(arch, passed, seen, per_step)
    per_step, squares = per_step.flatten(1).unsqueeze(1), seen.actions.square()
    bends = tuple(
        matmul(passed.prepared.transposed[i - 1], factor(deltas[i]))
        .mul_(passed.hidden[i - 1])
        .mul_(-2.0)
        for i in range(1, arch.depth)
        if arch.activation == "tanh"
    )
    joined = [torch.cat([each, each], dim=1) for each in deltas[1:] or deltas]
    deltas, room = zip(*(each.chunk(2, dim=1) for each in joined), strict=True)
    tape = Tape(
        passed,
        tuple(factor(each) for each in joined),
        deltas[-1],
        room,
        tuple(rows(each) for each in deltas),
        bends,
        seen.actions * seen.inverse_std,
        squares - 1.0,
        per_step * seen.inverse_std.square(),
        2.0 * torch.bmm(squares, per_step.mT),
        estimator.coefficients(episodes),
    )
    return gradient, tape


def hessian_product(
    arch: Architecture, tape: Tape, episodes: Episodes, estimator: Estimator, direction: Direction
) -> Layered:
    """∇²L(φ) · tangent for the inner loss of ``estimator``, at the tape's parameters.

    With s the tangent of log σ: log π̇ = Σ_a g μ̇ + (e² − 1) s, and ġ = −μ̇/σ² − 2 g s.

    Args:
        arch: the policy's architecture.
        tape: from :func:`taped_policy_gradient`.
        episodes: the same episodes.
        estimator: the same estimator: which second derivative.
        direction: the tangent, for products at the tape's parameters.

    Returns:
        The product, shaped as the tangent.
    """
    *moved, mean_moved = tangent_forward(arch, tape.forward, direction.forward_factors)
    log_prob_moved = (tape.score * mean_moved).sum(1, keepdim=True)
    log_prob_moved.baddbmm_(direction.log_std.mT, tape.excess)

    at_steps = log_prob_moved.view(episodes.rewards.shape)
    weights_moved = estimator.hessian_product(at_steps, tape.coefficients)
    weights_moved = weights_moved.reshape(log_prob_moved.shape)

    delta, top_moved = tape.top, tape.room[-1]
    by_state = (tape.excess * weights_moved).addcmul_(delta, mean_moved, value=-2.0)
    log_std_product = by_state.sum(2, keepdim=True)
    log_std_product.addcmul_(direction.log_std, tape.spread, value=-1.0)
    log_std_product = log_std_product.squeeze(2).mul_(tape.forward.prepared.free)

    torch.mul(tape.score, weights_moved, out=top_moved)
    top_moved.addcmul_(delta, direction.log_std, value=-2.0)
    top_moved.addcmul_(tape.precision, mean_moved, value=-1.0)

    return Layered(_tangent_backward(arch, tape, direction, moved, top_moved), log_std_product)


def _tangent_backward(
    arch: Architecture, tape: Tape, direction: Direction, moved: list[Tensor], delta_moved: Tensor
) -> tuple[Tensor, ...]:
    """The derivative along ``direction`` of :func:`backward`'s gradients."""
    passed, products = tape.forward, [matmul(delta_moved, tape.forward.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        products[0][:, :, :-1].add_(matmul(moved[i - 1], tape.rows[i - 1]).mT)
        below = matmul(direction.backward_factors[i - 1], tape.joined[i - 1])
        room = tape.room[i - 2] if i > 1 else below
        delta_moved = through_activation(arch.activation, below, passed.hidden[i - 1], room)
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], moved[i - 1])
        products.insert(0, matmul(delta_moved, passed.rows[i - 1]))
    return tuple(products)
