"""A Gaussian MLP policy's passes, written out: forward, backward, and forward along a direction.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the direction is
computed once, and each product is the matrix products that remain: Pearlmutter's R-operator.

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
from metarl.functional.estimators import weights
from metarl.functional.layered import Architecture, Layered, free, log_std
from metarl.kernels import Factor, activate, factor, matmul, rows, through_activation


class Prepared(NamedTuple):
    """What products take of C policies' parameters.

    Attributes:
        weights: W_i without their biases at i = 1 .. depth−1, ``[C, out, in]``.
        transposed: W_iᵀ of the same, ``[C, in, out]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
    """

    weights: tuple[Tensor, ...]
    transposed: tuple[Tensor, ...]
    free: Tensor


def prepare(arch: Architecture, params: Layered) -> Prepared:
    """The parameters of C policies for products."""
    plain = tuple(each[:, :, :-1] for each in params.matrices[1:])
    return Prepared(plain, tuple(each.mT.contiguous() for each in plain), free(arch, params))


class Direction(NamedTuple):
    """A direction of C policies' parameters, and the left factors that it makes with them.

    Attributes:
        tangent: Ṁ_i, and the direction of log σ.
        forward_factors: Ṁ_0, then [Ṁ_i W_i].
        backward_factors: [Ẇ_iᵀ W_iᵀ] at i = 1 .. depth−1.
        log_std: how the bounded log σ moves, ``[C, A, 1]``.
    """

    tangent: Layered
    forward_factors: tuple[Tensor, ...]
    backward_factors: tuple[Tensor, ...]
    log_std: Tensor

    def expand(self, count: int) -> Direction:
        """One policy's direction for each of ``count`` tasks: views."""
        if count == 1:
            return self
        forward_factors, backward_factors, (log_std,) = (
            tuple(each.expand(count, -1, -1) for each in matrices)
            for matrices in (self.forward_factors, self.backward_factors, (self.log_std,))
        )
        tangent = self.tangent.expand(count)
        return Direction(tangent, forward_factors, backward_factors, log_std)


def direction_of(prepared: Prepared, tangent: Layered) -> Direction:
    """``tangent``, in the parameters' shapes, as a direction for products at these parameters."""
    transposed = [each[:, :, :-1].mT for each in tangent.matrices[1:]]
    pairs = zip(transposed, prepared.transposed, strict=True)
    backward_factors = tuple(torch.cat(pair, dim=2) for pair in pairs)
    log_std_moved = (tangent.log_std * prepared.free).unsqueeze(2)
    return Direction(tangent, tangent_factors(prepared, tangent), backward_factors, log_std_moved)


def tangent_factors(prepared: Prepared, tangent: Layered) -> tuple[Tensor, ...]:
    """Ṁ_0, then [Ṁ_i W_i], for :func:`tangent_forward`."""
    lowest, *above = tangent.matrices
    pairs = zip(above, prepared.weights, strict=True)
    return lowest, *(torch.cat(pair, dim=2) for pair in pairs)


class Forward(NamedTuple):
    """One forward pass.

    Attributes:
        params: M_i and log σ.
        prepared: the same, for products.
        inputs: x_0 .. x_{depth−1}, each ``[C, in + 1, B]``.
        rows: x_iᵀ, ``[C, B, in + 1]``, views, or copies where products are to follow and are faster with them.
        hidden: h_1 .. h_{depth−1} in them, each ``[C, in, B]``.
        joined: x_0, and [x_i; room for ḣ_i] ``[C, in + 1 + in, B]``, where products are to follow; else the inputs.
        room: for ḣ_1 .. ḣ_{depth−1} in them.
        mean: the action mean, ``[C, A, B]``.
    """

    params: Layered
    prepared: Prepared
    inputs: tuple[Tensor, ...]
    rows: tuple[Factor, ...]
    hidden: tuple[Tensor, ...]
    joined: tuple[Factor, ...]
    room: tuple[Tensor, ...]
    mean: Tensor


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
    lowest = obs.new_empty(len(obs), obs.shape[2] + 1, obs.shape[1])
    lowest[:, :-1] = obs.mT
    lowest[:, -1].fill_(1.0)
    inputs, hidden, joined, room = [lowest], [], [factor(lowest)], []
    right = joined[0]
    for matrix in params.matrices[:-1]:
        z, size = matmul(matrix, right), matrix.shape[1]
        above = z.new_empty(len(z), size + 1 + (size if kept else 0), z.shape[2])
        hidden.append(activate(arch.activation, z, above[:, :size]))
        above[:, size].fill_(1.0)
        inputs.append(above[:, : size + 1])
        right = factor(inputs[-1])
        joined.append(factor(above) if kept else right)
        room.append(above[:, size + 1 :])
    mean = matmul(params.matrices[-1], right)
    turned = tuple(rows(each, often=kept) for each in inputs)
    seen = tuple(inputs), turned, tuple(hidden), tuple(joined), tuple(room)
    return Forward(params, prepare(arch, params), *seen, mean)


def backward(
    arch: Architecture, passed: Forward, top: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Back-propagation of δ_{depth−1} = ``top`` ``[C, A, B]``: δ_i = a'(z_i) ⊙ W_{i+1}ᵀ δ_{i+1}.

    Returns:
        All δ_i ``[C, out, B]``, and the gradient of every M_i, δ_i x_iᵀ ``[C, out, in + 1]``.
    """
    deltas, gradients = [top], [matmul(top, passed.rows[-1])]
    for i in reversed(range(1, arch.depth)):
        below = matmul(passed.prepared.transposed[i - 1], factor(deltas[0]))
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
    seen = standardise(arch, episodes, passed)
    return likelihood_gradient(arch, passed, seen, weights(episodes))[0]


class Standardised(NamedTuple):
    """Actions as the Gaussians of their policies see them.

    Attributes:
        actions: e = (a − μ)/σ, ``[C, A, B]``.
        inverse_std: 1/σ, ``[C, A, 1]``.
    """

    actions: Tensor
    inverse_std: Tensor


def standardise(arch: Architecture, episodes: Episodes, passed: Forward) -> Standardised:
    """The actions of ``episodes`` by the policies of a forward pass of their observations."""
    inverse_std = (-log_std(arch, passed.params)).exp().unsqueeze(2)
    # The mean comes first for its order in memory: with that of the actions all that follows would take strides.
    actions = (passed.mean - episodes.actions.flatten(1, 2).mT).mul_(-inverse_std)
    return Standardised(actions, inverse_std)


def likelihood_gradient(
    arch: Architecture, passed: Forward, seen: Standardised, per_step: Tensor
) -> tuple[Layered, tuple[Tensor, ...]]:
    """Σ_t w_t ∇log π_t, with weights that are constants.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` of C tasks' observations.
        seen: their actions, by :func:`standardise`.
        per_step: w_t, ``[C, N, T]``.

    Returns:
        The gradient, shaped as the parameters, and all δ_i ``[C, out, B]``.
    """
    per_step = per_step.flatten(1).unsqueeze(1)
    deltas, gradients = backward(arch, passed, per_step * seen.actions * seen.inverse_std)
    log_std_gradient = (per_step * (seen.actions.square() - 1.0)).sum(2)
    return Layered(gradients, log_std_gradient * passed.prepared.free), deltas


def tangent_forward(
    arch: Architecture, passed: Forward, factors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """ḣ_1 .. ḣ_{depth−1} and μ̇, the derivative of every layer by :func:`tangent_factors`, each ``[C, out, B]``."""
    moved: list[Tensor] = []
    for i, joined in enumerate(passed.joined):
        z = matmul(factors[i], joined)
        if i < arch.depth - 1:
            z = through_activation(arch.activation, z, passed.hidden[i], passed.room[i])
        moved.append(z)
    return tuple(moved)
