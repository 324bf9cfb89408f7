"""Derivatives of a Gaussian MLP policy's losses, written out: gradient, Hessian product, Fisher product.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the tangent is
computed once (a :class:`Tape`), and each product is the matrix products that remain: Pearlmutter's R-operator.

Everything is batched over C tasks with parameters ``[C, *shape]`` and B = N·T states each. Layer i maps
``h_i [C, B, in]`` to ``z_i = h_i W_iᵀ + b_i`` and ``h_{i+1} = a(z_i)``; δ_i is the loss's derivative in z_i; a dot over
a symbol is its derivative along the tangent.

Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian", Neural Computation 6(1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes, Params
from metarl.functional.estimators import Estimator, weights


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


class Tape(NamedTuple):
    """One forward and backward pass at fixed parameters, kept for the products.

    Attributes:
        params: ``[C, *shape]``.
        hidden: h_0 .. h_depth; the last is the action mean.
        deltas: δ_0 .. δ_{depth−1}, each ``[C, B, out]``.
        bends: for tanh, −2 h_i ⊙ ∂loss/∂h_i at i = 1 .. depth−1: the part of a''(z) ż that no product changes, as
            a''(z) ż = −2 h ḣ. Empty for relu, whose a'' is zero.
        standardised: (a − μ)/σ, ``[C, B, A]``.
        weights: ∂loss/∂log π, ``[C, B, 1]``.
        inverse_std: 1/σ, ``[C, 1, A]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
    """

    params: Params
    hidden: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    bends: tuple[Tensor, ...]
    standardised: Tensor
    weights: Tensor
    inverse_std: Tensor
    free: Tensor


def forward(arch: Architecture, params: Params, obs: Tensor) -> tuple[Tensor, ...]:
    """h_0 .. h_depth at ``obs`` ``[C, B, O]``; the last entry is the action mean ``[C, B, A]``."""
    hidden = [obs]
    for i in range(arch.depth):
        z = torch.baddbmm(
            params[f"layers.{i}.bias"].unsqueeze(1), hidden[-1], params[f"layers.{i}.weight"].mT
        )
        if i < arch.depth - 1:
            z = z.relu_() if arch.activation == "relu" else z.tanh_()
        hidden.append(z)
    return tuple(hidden)


def log_std(arch: Architecture, params: Params) -> Tensor:
    """log σ, bounded below, ``[C, A]``."""
    return params["log_std"].clamp(min=arch.min_log_std)


def _through_activation(arch: Architecture, gradient: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ gradient, with a'(z) read off the output h = a(z)."""
    if arch.activation == "relu":
        return torch.ops.aten.threshold_backward(gradient, output, 0.0)
    return torch.ops.aten.tanh_backward(gradient, output)


def backward(
    arch: Architecture, params: Params, hidden: tuple[Tensor, ...], delta: Tensor
) -> tuple[tuple[Tensor, ...], Params]:
    """Back-propagation of δ_{depth−1} = ``delta`` ``[C, B, A]``.

    Returns:
        All δ_i, and the gradient of every weight and bias ``[C, *shape]``.
    """
    deltas = [delta]
    gradient: Params = {}
    for i in reversed(range(arch.depth)):
        gradient[f"layers.{i}.weight"] = torch.bmm(deltas[0].mT, hidden[i])
        gradient[f"layers.{i}.bias"] = deltas[0].sum(1)
        if i > 0:
            below = torch.bmm(deltas[0], params[f"layers.{i}.weight"])
            deltas.insert(0, _through_activation(arch, below, hidden[i]))
    return tuple(deltas), gradient


def policy_gradient(arch: Architecture, params: Params, episodes: Episodes) -> tuple[Params, Tape]:
    """∇L(φ) of the inner loss at φ = ``params``; every estimator has this same first derivative.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        episodes: of the same C tasks.

    Returns:
        The gradient ``[C, *shape]`` in the order of ``params``, and the tape for :func:`hessian_product`.
    """
    hidden = forward(arch, params, episodes.obs.flatten(1, 2))
    per_step = weights(episodes).flatten(1).unsqueeze(-1)
    return likelihood_gradient(arch, params, episodes, hidden, per_step)


def likelihood_gradient(
    arch: Architecture,
    params: Params,
    episodes: Episodes,
    hidden: tuple[Tensor, ...],
    per_step: Tensor,
) -> tuple[Params, Tape]:
    """Gradient of Σ_t w_t log π_t for weights ``per_step`` ``[C, B, 1]`` held constant.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        episodes: of the same C tasks.
        hidden: :func:`forward` at these parameters and episodes.
        per_step: w_t.

    Returns:
        The gradient ``[C, *shape]`` and the tape of this pass.
    """
    inverse_std = (-log_std(arch, params)).exp().unsqueeze(1)
    standardised = (episodes.actions.flatten(1, 2) - hidden[-1]) * inverse_std
    free = (params["log_std"] >= arch.min_log_std).to(standardised.dtype)
    deltas, gradient = backward(arch, params, hidden, per_step * standardised * inverse_std)
    gradient["log_std"] = (per_step * (standardised.square() - 1.0)).sum(1) * free
    bends = tuple(
        -2.0 * hidden[i] * torch.bmm(deltas[i], params[f"layers.{i}.weight"])
        for i in range(1, arch.depth)
        if arch.activation == "tanh"
    )
    tape = Tape(params, hidden, deltas, bends, standardised, per_step, inverse_std, free)
    return {name: gradient[name] for name in params}, tape


def tangent_forward(
    arch: Architecture, params: Params, hidden: tuple[Tensor, ...], tangent: Params
) -> tuple[Tensor | None, ...]:
    """ḣ_0 .. ḣ_depth, the derivative of every layer along ``tangent`` ``[C, *shape]``; ḣ_0 is None, for zero."""
    moved: list[Tensor | None] = [None]
    for i in range(arch.depth):
        z = torch.baddbmm(
            tangent[f"layers.{i}.bias"].unsqueeze(1), hidden[i], tangent[f"layers.{i}.weight"].mT
        )
        below = moved[-1]
        if below is not None:
            z.baddbmm_(below, params[f"layers.{i}.weight"].mT)
        moved.append(_through_activation(arch, z, hidden[i + 1]) if i < arch.depth - 1 else z)
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
    moved = tangent_forward(arch, tape.params, tape.hidden, tangent)
    mean_moved = moved[-1]
    assert mean_moved is not None
    e, inverse_std = tape.standardised, tape.inverse_std
    log_std_moved = (tangent["log_std"] * tape.free).unsqueeze(1)
    e_moved = -(inverse_std * mean_moved + e * log_std_moved)

    log_prob_moved = -(e * e_moved + log_std_moved).sum(-1)
    shape = episodes.rewards.shape
    weights_moved = estimator.hessian_product(log_prob_moved.reshape(shape), episodes)
    weights_moved = weights_moved.reshape(*log_prob_moved.shape, 1)

    delta_moved = inverse_std * (weights_moved * e + tape.weights * (e_moved - e * log_std_moved))
    product = _tangent_backward(arch, tape, tangent, moved, delta_moved)
    product["log_std"] = tape.free * (
        weights_moved * (e.square() - 1.0) + 2.0 * tape.weights * e * e_moved
    ).sum(1)
    return {name: product[name] for name in tangent}


def _tangent_backward(
    arch: Architecture,
    tape: Tape,
    tangent: Params,
    moved: tuple[Tensor | None, ...],
    delta_moved: Tensor,
) -> Params:
    """The derivative along ``tangent`` of :func:`backward`'s weight and bias gradients."""
    product: Params = {}
    for i in reversed(range(arch.depth)):
        name, below_moved = f"layers.{i}.weight", moved[i]
        product[name] = torch.bmm(delta_moved.mT, tape.hidden[i])
        product[f"layers.{i}.bias"] = delta_moved.sum(1)
        if below_moved is None:
            break
        product[name].baddbmm_(tape.deltas[i].mT, below_moved)
        below = torch.bmm(delta_moved, tape.params[name])
        below.baddbmm_(tape.deltas[i], tangent[name])
        delta_moved = _through_activation(arch, below, tape.hidden[i])
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], below_moved)
    return product


def fisher_product(
    arch: Architecture,
    params: Params,
    hidden: tuple[Tensor, ...],
    step_weights: Tensor,
    tangent: Params,
) -> Params:
    """F · tangent, F the Fisher matrix: the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old.

    F = Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t for log σ; no block joins the two.

    Args:
        arch: the policy's architecture.
        params: φ, ``[C, *shape]``.
        hidden: :func:`forward` at φ.
        step_weights: w_t, ``[C, B, 1]``.
        tangent: ``[C, *shape]``.

    Returns:
        ``[C, *shape]``.
    """
    mean_moved = tangent_forward(arch, params, hidden, tangent)[-1]
    assert mean_moved is not None
    precision = (-2.0 * log_std(arch, params)).exp().unsqueeze(1)
    _, product = backward(arch, params, hidden, step_weights * precision * mean_moved)
    free = (params["log_std"] >= arch.min_log_std).to(precision.dtype)
    product["log_std"] = 2.0 * step_weights.sum(1) * free * tangent["log_std"]
    return {name: product[name] for name in tangent}
