"""Derivatives of a Gaussian MLP policy's losses, written out: gradient, Hessian product, Fisher product.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the tangent is
computed once (a :class:`Tape`), and each product is the matrix products that remain: Pearlmutter's R-operator.

Everything is batched over C tasks with parameters of their own (:class:`Layered`) and B = N·T states each. Layer i maps
x_i = [h_i; 1] ``[C, in + 1, B]`` to z_i = M_i x_i and h_{i+1} = a(z_i); δ_i is the loss's derivative in z_i; a dot over
a symbol is its derivative along the tangent.

States are columns: a product with W_i then multiplies two matrices as they lie in memory, the fastest form on a CPU.
A sum over states, such as a weight's gradient δ_i x_iᵀ, is so only with one of its two factors in rows. What is used
again is kept both ways: x_i, and δ_i for δ_i ẋ_iᵀ.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes
from metarl.functional.estimators import Estimator, weights
from metarl.functional.layered import Architecture, Layered, free, log_std


class Forward(NamedTuple):
    """One forward pass.

    Attributes:
        params: M_i and log σ.
        transposed: W_iᵀ, ``[C, in, out]``.
        inputs: x_0 .. x_{depth−1}, each ``[C, in + 1, B]``.
        rows: x_iᵀ, ``[C, B, in + 1]``, where products are to follow; else none.
        mean: the action mean, ``[C, A, B]``.
    """

    params: Layered
    transposed: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    mean: Tensor

    def hidden(self, layer: int) -> Tensor:
        """h_i, ``[C, in, B]``."""
        return self.inputs[layer][:, :-1]


class Tape(NamedTuple):
    """One forward and backward pass at fixed parameters, kept for the products.

    Attributes:
        forward: the forward pass, with its rows.
        top: δ_{depth−1}, ``[C, A, B]``.
        deltas: δ_1 .. δ_{depth−1}, each ``[C, out, B]``.
        rows: δ_iᵀ of the same, ``[C, B, out]``.
        bends: for tanh, −2 h_i ⊙ ∂loss/∂h_i at i = 1 .. depth−1, ``[C, size, B]``: the part of a''(z) ż that no
            product changes, as a''(z) ż = −2 h ḣ. Empty for relu, whose a'' is zero.
        score: g = ∂log π/∂μ = (a − μ)/σ², ``[C, A, B]``.
        excess: ∂log π/∂log σ = ((a − μ)/σ)² − 1, ``[C, A, B]``.
        precision: w/σ² with w = ∂loss/∂log π, ``[C, A, B]``.
        second_moment: Σ_b w ((a − μ)/σ)², ``[C, A, 1]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
    """

    forward: Forward
    top: Tensor
    deltas: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
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
    matrices = params.matrices
    transposed = tuple(each[:, :, :-1].mT.contiguous() for each in matrices)
    inputs = [_with_ones(obs.new_empty(len(obs), obs.shape[2] + 1, obs.shape[1]))]
    inputs[0][:, :-1] = obs.mT
    for matrix in matrices[:-1]:
        above = inputs[-1].new_empty(len(obs), matrix.shape[1] + 1, obs.shape[1])
        hidden = torch.bmm(matrix, inputs[-1], out=_with_ones(above)[:, :-1])
        hidden.relu_() if arch.activation == "relu" else hidden.tanh_()
        inputs.append(above)
    mean = torch.bmm(matrices[-1], inputs[-1])
    rows = tuple(each.mT.contiguous() for each in inputs) if kept else ()
    return Forward(params, transposed, tuple(inputs), rows, mean)


def _with_ones(columns: Tensor) -> Tensor:
    columns[:, -1] = 1.0
    return columns


def _through_activation(arch: Architecture, moved: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ ``moved``, in its place, with a'(z) read off the output h = a(z)."""
    if arch.activation == "relu":
        relu_backward = torch.ops.aten.threshold_backward.grad_input
        return relu_backward(moved, output, 0.0, grad_input=moved)
    return torch.ops.aten.tanh_backward.grad_input(moved, output, grad_input=moved)


def backward(
    arch: Architecture, passed: Forward, top: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Back-propagation of δ_{depth−1} = ``top`` ``[C, A, B]``: δ_i = a'(z_i) ⊙ W_{i+1}ᵀ δ_{i+1}.

    Returns:
        All δ_i ``[C, out, B]``, and the gradient of every M_i, δ_i x_iᵀ ``[C, out, in + 1]``.
    """
    rows = passed.rows or tuple(each.mT for each in passed.inputs)
    deltas, gradients = [top], [torch.bmm(top, rows[-1])]
    for i in reversed(range(1, arch.depth)):
        below = torch.bmm(passed.transposed[i], deltas[0])
        deltas.insert(0, _through_activation(arch, below, passed.hidden(i)))
        gradients.insert(0, torch.bmm(deltas[0], rows[i - 1]))
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
        torch.bmm(passed.transposed[i], deltas[i]).mul_(passed.hidden(i)).mul_(-2.0)
        for i in range(1, arch.depth)
        if arch.activation == "tanh"
    )
    tape = Tape(
        passed,
        deltas[-1],
        deltas[1:],
        tuple(each.mT.contiguous() for each in deltas[1:]),
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
    for i, inputs in enumerate(passed.inputs):
        z = torch.bmm(tangent.matrices[i], inputs)
        if moved:
            z.baddbmm_(passed.params.matrices[i][:, :, :-1], moved[-1])
        last = i == arch.depth - 1
        moved.append(z if last else _through_activation(arch, z, passed.hidden(i + 1)))
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

    delta, twice = tape.top, 2.0 * log_std_moved
    log_std_product = torch.bmm(tape.excess, weights_moved.mT)
    log_std_product -= 2.0 * (delta * mean_moved).sum(2, keepdim=True) + twice * tape.second_moment
    top_moved = (tape.score * weights_moved).addcmul_(delta, twice, value=-1.0)
    top_moved.addcmul_(tape.precision, mean_moved, value=-1.0)

    products = _tangent_backward(arch, tape, tangent, moved, top_moved)
    return Layered(products, log_std_product.squeeze(2) * tape.free)


def _tangent_backward(
    arch: Architecture, tape: Tape, tangent: Layered, moved: list[Tensor], delta_moved: Tensor
) -> tuple[Tensor, ...]:
    """The derivative along ``tangent`` of :func:`backward`'s gradients."""
    passed, products = tape.forward, [torch.bmm(delta_moved, tape.forward.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        products[0][:, :, :-1] += torch.bmm(moved[i - 1], tape.rows[i - 1]).mT
        below = torch.bmm(passed.transposed[i], delta_moved)
        below.baddbmm_(tangent.matrices[i][:, :, :-1].mT.contiguous(), tape.deltas[i - 1])
        delta_moved = _through_activation(arch, below, passed.hidden(i))
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], moved[i - 1])
        products.insert(0, torch.bmm(delta_moved, passed.rows[i - 1]))
    return tuple(products)


def fisher_product(
    arch: Architecture, passed: Forward, step_weights: Tensor, tangent: Layered
) -> Layered:
    """F · tangent, F the Fisher matrix: the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old.

    F = Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t for log σ; no block joins the two.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` at φ, with rows.
        step_weights: w_t, ``[C, 1, B]``.
        tangent: of C policies.

    Returns:
        The product, shaped as the tangent.
    """
    mean_moved = tangent_forward(arch, passed, tangent)[-1]
    precision = (-2.0 * log_std(arch, passed.params)).exp().unsqueeze(2)
    _, products = backward(arch, passed, mean_moved.mul_(precision).mul_(step_weights))
    log_std_product = 2.0 * step_weights.sum(2) * free(arch, passed.params) * tangent.log_std
    return Layered(products, log_std_product)
