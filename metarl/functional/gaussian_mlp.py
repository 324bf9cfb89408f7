"""Derivatives of a Gaussian MLP policy's losses, written out: gradient and Hessian product.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the tangent is
computed once (a :class:`Tape`), and each product is the matrix products that remain: Pearlmutter's R-operator.

Everything is batched over C tasks with parameters of their own (:class:`Layered`) and B = N·T states each. Layer i maps
x_i = [h_i; 1] ``[C, in + 1, B]`` to z_i = M_i x_i and h_{i+1} = a(z_i); δ_i is the loss's derivative in z_i; a dot over
a symbol is its derivative along the tangent.

States are columns: a product with W_i then multiplies two matrices as they lie in memory, the fastest form on a CPU.
A sum over states, such as a weight's gradient δ_i x_iᵀ, is so only with one of its two factors in rows. What is used
again is kept both ways, where that is faster: x_i, and δ_i for δ_i ẋ_iᵀ. Below what is kept there is room for its dot,
so that both are one factor: ż_i = [Ṁ_i W_i] [x_i; ḣ_i], and the derivative of W_iᵀ δ_i is [Ẇ_iᵀ W_iᵀ] [δ_i; δ̇_i].

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes
from metarl.functional.estimators import Estimator, weights
from metarl.functional.layered import Architecture, Layered, free, log_std
from metarl.kernels import Factor, activate, factor, matmul, rows, through_activation


class Forward(NamedTuple):
    """One forward pass.

    Attributes:
        params: M_i and log σ.
        weights: W_i, ``[C, out, in]``.
        transposed: W_iᵀ, ``[C, in, out]``.
        inputs: x_0 .. x_{depth−1}, each ``[C, in + 1, B]``.
        rows: x_iᵀ, ``[C, B, in + 1]``, views, or copies where products are to follow and are faster with them.
        hidden: h_1 .. h_{depth−1} in them, each ``[C, in, B]``.
        joined: x_0, and [x_i; room for ḣ_i] ``[C, in + 1 + in, B]``, where products are to follow; else the inputs.
        room: for ḣ_1 .. ḣ_{depth−1} in them.
        mean: the action mean, ``[C, A, B]``.
    """

    params: Layered
    weights: tuple[Tensor, ...]
    transposed: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    rows: tuple[Factor, ...]
    hidden: tuple[Tensor, ...]
    joined: tuple[Factor, ...]
    room: tuple[Tensor, ...]
    mean: Tensor


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
        second_moment: Σ_b w ((a − μ)/σ)², ``[C, A, 1]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
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
    second_moment: Tensor
    free: Tensor


def forward(arch: Architecture, params: Layered, obs: Tensor, kept: bool = False) -> Forward:
    """The forward pass of C policies.

    Args:
        arch: the policies' architecture.
        params: of C policies.
        obs: ``[C, B, O]``.
        kept: whether it is for products, which want its rows.

    Returns:
        What the backward pass and the products need; B states as columns.
    """
    weights = tuple(each[:, :, :-1] for each in params.matrices)
    transposed = tuple(each.mT.contiguous() for each in weights)
    lowest = obs.new_empty(len(obs), obs.shape[2] + 1, obs.shape[1])
    lowest[:, :-1] = obs.mT
    lowest[:, -1].fill_(1.0)
    inputs, hidden, joined, room = [lowest], [], [factor(lowest)], []
    for matrix in params.matrices[:-1]:
        z, size = matmul(matrix, factor(inputs[-1])), matrix.shape[1]
        above = z.new_empty(len(z), size + 1 + (size if kept else 0), z.shape[2])
        hidden.append(activate(arch.activation, z, above[:, :size]))
        above[:, size].fill_(1.0)
        inputs.append(above[:, : size + 1])
        joined.append(factor(above))
        room.append(above[:, size + 1 :])
    mean = matmul(params.matrices[-1], factor(inputs[-1]))
    turned = tuple(rows(each) if kept else factor(each.mT) for each in inputs)
    seen = tuple(inputs), turned, tuple(hidden), tuple(joined), tuple(room)
    return Forward(params, weights, transposed, *seen, mean)


def backward(
    arch: Architecture, passed: Forward, top: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Back-propagation of δ_{depth−1} = ``top`` ``[C, A, B]``: δ_i = a'(z_i) ⊙ W_{i+1}ᵀ δ_{i+1}.

    Returns:
        All δ_i ``[C, out, B]``, and the gradient of every M_i, δ_i x_iᵀ ``[C, out, in + 1]``.
    """
    deltas, gradients = [top], [matmul(top, passed.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        below = matmul(passed.transposed[i], factor(deltas[0]))
        deltas.insert(0, through_activation(arch.activation, below, passed.hidden[i - 1], below))
        gradients.insert(0, matmul(deltas[0], passed.rows[i - 1]))
    return tuple(deltas), tuple(gradients)


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
    return likelihood_gradient(arch, episodes, passed, weights(episodes))[0]


def taped_policy_gradient(
    arch: Architecture, params: Layered, episodes: Episodes
) -> tuple[Layered, Tape]:
    """:func:`policy_gradient`, to the same bits, and the tape for :func:`hessian_product`."""
    passed, per_step = forward(arch, params, episodes.obs.flatten(1, 2), True), weights(episodes)
    gradient, deltas = likelihood_gradient(arch, episodes, passed, per_step)
    per_step = per_step.flatten(1).unsqueeze(1)
    inverse_std = (-log_std(arch, params)).exp().unsqueeze(2)
    standardised = _standardised(episodes, passed, inverse_std)
    squares = standardised.square()
    bends = tuple(
        matmul(passed.transposed[i], factor(deltas[i])).mul_(passed.hidden[i - 1]).mul_(-2.0)
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
        standardised.mul_(inverse_std),
        squares - 1.0,
        per_step * inverse_std.square(),
        torch.bmm(squares, per_step.mT),
        free(arch, params),
    )
    return gradient, tape


def _standardised(episodes: Episodes, passed: Forward, inverse_std: Tensor) -> Tensor:
    """(a − μ)/σ, ``[C, A, B]``."""
    return (episodes.actions.flatten(1, 2).mT - passed.mean).mul_(inverse_std)


def likelihood_gradient(
    arch: Architecture, episodes: Episodes, passed: Forward, per_step: Tensor
) -> tuple[Layered, tuple[Tensor, ...]]:
    """Σ_t w_t ∇log π_t, with weights that are constants.

    Args:
        arch: the policy's architecture.
        episodes: of C tasks.
        passed: :func:`forward` of their observations.
        per_step: w_t, ``[C, N, T]``.

    Returns:
        The gradient, shaped as the parameters, and all δ_i ``[C, out, B]``.
    """
    per_step = per_step.flatten(1).unsqueeze(1)
    inverse_std = (-log_std(arch, passed.params)).exp().unsqueeze(2)
    standardised = _standardised(episodes, passed, inverse_std)
    deltas, gradients = backward(arch, passed, per_step * standardised * inverse_std)
    log_std_gradient = (per_step * (standardised.square() - 1.0)).sum(2)
    return Layered(gradients, log_std_gradient * free(arch, passed.params)), deltas


def tangent_forward(arch: Architecture, passed: Forward, tangent: Layered) -> tuple[Tensor, ...]:
    """ḣ_1 .. ḣ_{depth−1} and μ̇, the derivative of every layer along ``tangent``, each ``[C, out, B]``."""
    moved: list[Tensor] = []
    for i, joined in enumerate(passed.joined):
        matrix = tangent.matrices[i]
        if moved:
            matrix = torch.cat([matrix, passed.weights[i]], dim=2)
        z = matmul(matrix, joined)
        if i < arch.depth - 1:
            z = through_activation(arch.activation, z, passed.hidden[i], passed.room[i])
        moved.append(z)
    return tuple(moved)


def hessian_product(
    arch: Architecture, tape: Tape, episodes: Episodes, estimator: Estimator, tangent: Layered
) -> Layered:
    """∇²L(φ) · tangent for the inner loss of ``estimator``, at the tape's parameters.

    With s the tangent of log σ: log π̇ = Σ_a g μ̇ + (e² − 1) s, and ġ = −μ̇/σ² − 2 g s.

    Args:
        arch: the policy's architecture.
        tape: from :func:`taped_policy_gradient`.
        episodes: the same episodes.
        estimator: which second derivative.
        tangent: of C policies.

    Returns:
        The product, shaped as the tangent.
    """
    *moved, mean_moved = tangent_forward(arch, tape.forward, tangent)
    log_std_moved = (tangent.log_std * tape.free).unsqueeze(2)
    log_prob_moved = (tape.score * mean_moved).sum(1, keepdim=True)
    log_prob_moved.baddbmm_(log_std_moved.mT, tape.excess)

    shape = episodes.rewards.shape
    weights_moved = estimator.hessian_product(log_prob_moved.reshape(shape), episodes)
    weights_moved = weights_moved.flatten(1).unsqueeze(1)

    delta, top_moved, twice = tape.top, tape.room[-1], 2.0 * log_std_moved
    log_std_product = torch.bmm(tape.excess, weights_moved.mT)
    log_std_product -= 2.0 * (delta * mean_moved).sum(2, keepdim=True) + twice * tape.second_moment
    torch.mul(tape.score, weights_moved, out=top_moved).addcmul_(delta, twice, value=-1.0)
    top_moved.addcmul_(tape.precision, mean_moved, value=-1.0)

    products = _tangent_backward(arch, tape, tangent, moved, top_moved)
    return Layered(products, log_std_product.squeeze(2) * tape.free)


def _tangent_backward(
    arch: Architecture, tape: Tape, tangent: Layered, moved: list[Tensor], delta_moved: Tensor
) -> tuple[Tensor, ...]:
    """The derivative along ``tangent`` of :func:`backward`'s gradients."""
    passed, products = tape.forward, [matmul(delta_moved, tape.forward.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        products[0][:, :, :-1].add_(matmul(moved[i - 1], tape.rows[i - 1]).mT)
        turned = torch.cat([tangent.matrices[i][:, :, :-1].mT, passed.transposed[i]], dim=2)
        below = matmul(turned, tape.joined[i - 1])
        room = tape.room[i - 2] if i > 1 else below
        delta_moved = through_activation(arch.activation, below, passed.hidden[i - 1], room)
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], moved[i - 1])
        products.insert(0, matmul(delta_moved, passed.rows[i - 1]))
    return tuple(products)
