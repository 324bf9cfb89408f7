"""Derivatives of a Gaussian MLP policy's losses, written out: gradient, Hessian product, Fisher product.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the tangent is
computed once (a :class:`Tape`), and each product is the matrix products that remain: Pearlmutter's R-operator.

Everything is batched over C tasks with parameters ``[C, *shape]`` and B = N·T states each. Layer i has the matrix
M_i = [W_i b_i] ``[C, out, in + 1]`` and maps x_i = [h_i; 1] ``[C, in + 1, B]`` to z_i = M_i x_i and h_{i+1} = a(z_i);
δ_i is the loss's derivative in z_i; a dot over a symbol is its derivative along the tangent. A bias is a column of M_i,
so that no pass over the states adds it or sums its gradient.

States are columns: a product with W_i then multiplies two matrices as they lie in memory, the fastest form on a CPU.
A weight's gradient δ_i x_iᵀ is so only with the rows of x_i, which are kept beside its columns where they are used
again.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes, Params
from metarl.functional.estimators import Estimator, weights

Matrices = tuple[Tensor, ...]
"""M_i of every layer, or what has their shapes, ``[C, out, in + 1]``."""


class Architecture(NamedTuple):
    """What the closed forms must know of a policy besides its parameters.

    Attributes:
        depth: number of linear layers.
        activation: ``relu`` or ``tanh``.
        min_log_std: lower bound of log σ; below it the derivative in log σ is zero.
    """

    depth: int
    activation: str
    min_log_std: float


class Forward(NamedTuple):
    """One forward pass.

    Attributes:
        matrices: M_i.
        transposed: W_iᵀ, ``[C, in, out]``.
        inputs: x_0 .. x_{depth−1}, each ``[C, in + 1, B]``.
        rows: x_iᵀ, ``[C, B, in + 1]``, where products are to follow; else none.
        mean: the action mean, ``[C, A, B]``.
    """

    matrices: Matrices
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
        deltas: δ_1 .. δ_{depth−1}, each ``[C, out, B]``.
        bends: for tanh, −2 h_i ⊙ ∂loss/∂h_i at i = 1 .. depth−1, ``[C, size, B]``: the part of a''(z) ż that no
            product changes, as a''(z) ż = −2 h ḣ. Empty for relu, whose a'' is zero.
        standardised: (a − μ)/σ, ``[C, A, B]``.
        weights: ∂loss/∂log π, ``[C, 1, B]``.
        inverse_std: 1/σ, ``[C, A, 1]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
    """

    forward: Forward
    deltas: tuple[Tensor, ...]
    bends: tuple[Tensor, ...]
    standardised: Tensor
    weights: Tensor
    inverse_std: Tensor
    free: Tensor


def forward(arch: Architecture, params: Params, obs: Tensor, kept: bool = False) -> Forward:
    """The forward pass of C policies.

    Args:
        arch: the policies' architecture.
        params: ``[C, *shape]``.
        obs: ``[C, B, O]``.
        kept: whether it is for products, which want its rows.
    """
    matrices = _matrices(arch, params)
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
    return Forward(matrices, transposed, tuple(inputs), rows, mean)


def _with_ones(columns: Tensor) -> Tensor:
    columns[:, -1] = 1.0
    return columns


def _matrices(arch: Architecture, params: Params) -> Matrices:
    """M_i = [W_i b_i] of every layer."""
    names = [f"layers.{i}" for i in range(arch.depth)]
    return tuple(
        torch.cat([params[f"{name}.weight"], params[f"{name}.bias"].unsqueeze(2)], dim=2)
        for name in names
    )


def _named(matrices: Matrices, log_std: Tensor, like: Params) -> Params:
    """The parts of the matrices and log σ as parameters, in the order of ``like``."""
    named = {"log_std": log_std}
    for i, matrix in enumerate(matrices):
        named[f"layers.{i}.weight"], named[f"layers.{i}.bias"] = matrix[:, :, :-1], matrix[:, :, -1]
    return {name: named[name] for name in like}


def log_std(arch: Architecture, params: Params) -> Tensor:
    """log σ, bounded below, ``[C, A]``."""
    return params["log_std"].clamp(min=arch.min_log_std)


def _through_activation(arch: Architecture, moved: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ ``moved``, in its place, with a'(z) read off the output h = a(z)."""
    if arch.activation == "relu":
        relu_backward = torch.ops.aten.threshold_backward.grad_input
        return relu_backward(moved, output, 0.0, grad_input=moved)
    return torch.ops.aten.tanh_backward.grad_input(moved, output, grad_input=moved)


def backward(
    arch: Architecture, passed: Forward, top: Tensor
) -> tuple[tuple[Tensor, ...], Matrices]:
    """Back-propagation of δ_{depth−1} = ``top`` ``[C, A, B]``.

    Returns:
        All δ_i ``[C, out, B]``, and the gradient of every M_i.
    """
    rows = passed.rows or tuple(each.mT for each in passed.inputs)
    deltas, gradients = [top], [torch.bmm(top, rows[-1])]
    for i in reversed(range(1, arch.depth)):
        below = torch.bmm(passed.transposed[i], deltas[0])
        deltas.insert(0, _through_activation(arch, below, passed.hidden(i)))
        gradients.insert(0, torch.bmm(deltas[0], rows[i - 1]))
    return tuple(deltas), tuple(gradients)


def policy_gradient(
    arch: Architecture, params: Params, episodes: Episodes, taped: bool = False
) -> tuple[Params, Tape]:
    """∇L(φ) of the inner loss at φ = ``params``; every estimator has this same first derivative.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        episodes: of the same C tasks.
        taped: whether the tape is for :func:`hessian_product`; without, it costs nothing.

    Returns:
        The gradient ``[C, *shape]`` in the order of ``params``, and the tape.
    """
    passed = forward(arch, params, episodes.obs.flatten(1, 2), taped)
    per_step = weights(episodes).flatten(1).unsqueeze(1)
    return likelihood_gradient(arch, params, episodes, passed, per_step)


def likelihood_gradient(
    arch: Architecture, params: Params, episodes: Episodes, passed: Forward, per_step: Tensor
) -> tuple[Params, Tape]:
    """Gradient of Σ_t w_t log π_t for weights ``per_step`` ``[C, 1, B]`` held constant.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        episodes: of the same C tasks.
        passed: :func:`forward` at these parameters and episodes; with rows if the tape is to be used.
        per_step: w_t.

    Returns:
        The gradient ``[C, *shape]`` and the tape of this pass.
    """
    inverse_std = (-log_std(arch, params)).exp().unsqueeze(2)
    standardised = (episodes.actions.flatten(1, 2).mT - passed.mean).mul_(inverse_std)
    free = (params["log_std"] >= arch.min_log_std).to(standardised.dtype)
    deltas, gradients = backward(arch, passed, per_step * standardised * inverse_std)
    log_std_gradient = (per_step * (standardised.square() - 1.0)).sum(2) * free
    bends = tuple(
        torch.bmm(passed.transposed[i], deltas[i]).mul_(passed.hidden(i)).mul_(-2.0)
        for i in range(1, arch.depth)
        if passed.rows and arch.activation == "tanh"
    )
    tape = Tape(passed, deltas[1:], bends, standardised, per_step, inverse_std, free)
    return _named(gradients, log_std_gradient, params), tape


def tangent_forward(arch: Architecture, passed: Forward, tangent: Matrices) -> tuple[Tensor, ...]:
    """ḣ_1 .. ḣ_{depth−1} and μ̇, the derivative of every layer along ``tangent``, each ``[C, out, B]``."""
    moved: list[Tensor] = []
    for i, inputs in enumerate(passed.inputs):
        z = torch.bmm(tangent[i], inputs)
        if moved:
            z.baddbmm_(passed.matrices[i][:, :, :-1], moved[-1])
        last = i == arch.depth - 1
        moved.append(z if last else _through_activation(arch, z, passed.hidden(i + 1)))
    return tuple(moved)


def hessian_product(
    arch: Architecture, tape: Tape, episodes: Episodes, estimator: Estimator, tangent: Params
) -> Params:
    """∇²L(φ) · tangent for the inner loss of ``estimator``, at the tape's parameters.

    Args:
        arch: the policy's architecture.
        tape: from :func:`policy_gradient`.
        episodes: the same episodes.
        estimator: which second derivative.
        tangent: ``[C, *shape]``.

    Returns:
        ``[C, *shape]``, in the order of ``tangent``.
    """
    matrices = _matrices(arch, tangent)
    *moved, mean_moved = tangent_forward(arch, tape.forward, matrices)
    e, inverse_std = tape.standardised, tape.inverse_std
    log_std_moved = (tangent["log_std"] * tape.free).unsqueeze(2)
    e_moved = -(inverse_std * mean_moved + e * log_std_moved)

    log_prob_moved = -(e * e_moved + log_std_moved).sum(1)
    shape = episodes.rewards.shape
    weights_moved = estimator.hessian_product(log_prob_moved.reshape(shape), episodes)
    weights_moved = weights_moved.flatten(1).unsqueeze(1)

    top_moved = inverse_std * (weights_moved * e + tape.weights * (e_moved - e * log_std_moved))
    products = _tangent_backward(arch, tape, matrices, moved, top_moved)
    log_std_product = tape.free * (
        weights_moved * (e.square() - 1.0) + 2.0 * tape.weights * e * e_moved
    ).sum(2)
    return _named(products, log_std_product, tangent)


def _tangent_backward(
    arch: Architecture, tape: Tape, tangent: Matrices, moved: list[Tensor], delta_moved: Tensor
) -> Matrices:
    """The derivative along ``tangent`` of :func:`backward`'s gradients."""
    passed, products = tape.forward, [torch.bmm(delta_moved, tape.forward.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        products[0][:, :, :-1] += torch.bmm(tape.deltas[i - 1], moved[i - 1].mT)
        below = torch.bmm(passed.transposed[i], delta_moved)
        below.baddbmm_(tangent[i][:, :, :-1].mT.contiguous(), tape.deltas[i - 1])
        delta_moved = _through_activation(arch, below, passed.hidden(i))
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], moved[i - 1])
        products.insert(0, torch.bmm(delta_moved, passed.rows[i - 1]))
    return tuple(products)


def fisher_product(
    arch: Architecture, params: Params, passed: Forward, step_weights: Tensor, tangent: Params
) -> Params:
    """F · tangent, F the Fisher matrix: the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old.

    F = Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t for log σ; no block joins the two.

    Args:
        arch: the policy's architecture.
        params: φ, ``[C, *shape]``.
        passed: :func:`forward` at φ, with rows.
        step_weights: w_t, ``[C, 1, B]``.
        tangent: ``[C, *shape]``.

    Returns:
        ``[C, *shape]``.
    """
    mean_moved = tangent_forward(arch, passed, _matrices(arch, tangent))[-1]
    precision = (-2.0 * log_std(arch, params)).exp().unsqueeze(2)
    _, products = backward(arch, passed, mean_moved.mul_(precision).mul_(step_weights))
    free = (params["log_std"] >= arch.min_log_std).to(precision.dtype)
    log_std_product = 2.0 * step_weights.sum(2) * free * tangent["log_std"]
    return _named(products, log_std_product, tangent)
