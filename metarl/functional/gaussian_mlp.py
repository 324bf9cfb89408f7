"""Derivatives of a Gaussian MLP policy's losses, written out: gradient, Hessian product, Fisher product.

Autograd would build and walk a graph for each of these; here every quantity that does not depend on the tangent is
computed once (a :class:`Tape`), and each product is the matrix products that remain: Pearlmutter's R-operator.

Everything is batched over C tasks with parameters ``[C, *shape]`` and B = N·T states each. Layer i maps
``h_i [C, B, in]`` to ``z_i = h_i W_iᵀ + b_i`` and ``h_{i+1} = a(z_i)``; δ_i is the loss's derivative in z_i; a dot over
a symbol is its derivative along the tangent.

Activations have a row for each state, derivatives in z a column: δ_i is ``[C, out, B]``. A weight's gradient δ_i h_i
then multiplies two matrices as they lie in memory, a fifth faster than if both had rows.

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
        slopes: :func:`slopes` of the same pass.
        deltas: δ_1 .. δ_{depth−1}, each ``[C, out, B]``.
        bends: for tanh, −2 h_i ⊙ ∂loss/∂h_i at i = 1 .. depth−1, ``[C, size, B]``: the part of a''(z) ż that no
            product changes, as a''(z) ż = −2 h ḣ. Empty for relu, whose a'' is zero.
        standardised: (a − μ)/σ, ``[C, A, B]``.
        weights: ∂loss/∂log π, ``[C, 1, B]``.
        inverse_std: 1/σ, ``[C, A, 1]``.
        free: 1 where log σ is not below its bound, ``[C, A]``.
    """

    params: Params
    hidden: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
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


def slopes(arch: Architecture, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """a'(z_0) .. a'(z_{depth−2}), each ``[C, size, B]``, read off the activations h = a(z)."""
    columns = [layer.mT.contiguous() for layer in hidden[1:-1]]
    if arch.activation == "relu":
        return tuple(each.sign_() for each in columns)
    return tuple(each.square_().neg_().add_(1.0) for each in columns)


def backward(
    arch: Architecture,
    params: Params,
    hidden: tuple[Tensor, ...],
    delta: Tensor,
    slopes: tuple[Tensor, ...] = (),
) -> tuple[tuple[Tensor, ...], Params]:
    """Back-propagation of δ_{depth−1} = ``delta`` ``[C, A, B]``.

    ``slopes``, those of the same pass, are worth their making where several passes share them. Without them every δ_i
    is a view of a tensor with a row for each state.

    Returns:
        All δ_i ``[C, out, B]``, and the gradient of every weight and bias ``[C, *shape]``.
    """
    deltas = [delta]
    gradient: Params = {}
    for i in reversed(range(arch.depth)):
        gradient[f"layers.{i}.weight"] = torch.bmm(deltas[0], hidden[i])
        gradient[f"layers.{i}.bias"] = deltas[0].sum(2)
        if i > 0:
            weight = params[f"layers.{i}.weight"]
            if slopes:
                below = torch.bmm(weight.mT, deltas[0]).mul_(slopes[i - 1])
            else:
                rows = torch.bmm(deltas[0].mT, weight)
                below = _through_activation(arch, rows, hidden[i]).mT
            deltas.insert(0, below)
    return tuple(deltas), gradient


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
    hidden = forward(arch, params, episodes.obs.flatten(1, 2))
    per_step = weights(episodes).flatten(1).unsqueeze(1)
    kept = slopes(arch, hidden) if taped else ()
    return likelihood_gradient(arch, params, episodes, hidden, per_step, kept)


def likelihood_gradient(
    arch: Architecture,
    params: Params,
    episodes: Episodes,
    hidden: tuple[Tensor, ...],
    per_step: Tensor,
    slopes: tuple[Tensor, ...],
) -> tuple[Params, Tape]:
    """Gradient of Σ_t w_t log π_t for weights ``per_step`` ``[C, 1, B]`` held constant.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        episodes: of the same C tasks.
        hidden: :func:`forward` at these parameters and episodes.
        per_step: w_t.
        slopes: :func:`slopes` of the same pass, or none where the tape is not for :func:`hessian_product`.

    Returns:
        The gradient ``[C, *shape]`` and the tape of this pass.
    """
    inverse_std = (-log_std(arch, params)).exp().unsqueeze(2)
    residual = episodes.actions.flatten(1, 2) - hidden[-1]
    standardised = residual.mT.contiguous() * inverse_std
    free = (params["log_std"] >= arch.min_log_std).to(standardised.dtype)
    top = per_step * standardised * inverse_std
    deltas, gradient = backward(arch, params, hidden, top, slopes)
    gradient["log_std"] = (per_step * (standardised.square() - 1.0)).sum(2) * free
    bends = tuple(
        torch.bmm(params[f"layers.{i}.weight"].mT, deltas[i]).mul_(hidden[i].mT).mul_(-2.0)
        for i in range(1, arch.depth)
        if slopes and arch.activation == "tanh"
    )
    tape = Tape(
        params, hidden, slopes, deltas[1:], bends, standardised, per_step, inverse_std, free
    )
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


def _through_activation(arch: Architecture, moved: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ ``moved``, in its place, with a'(z) read off the output h = a(z)."""
    if arch.activation == "relu":
        relu_backward = torch.ops.aten.threshold_backward.grad_input
        return relu_backward(moved, output, 0.0, grad_input=moved)
    return torch.ops.aten.tanh_backward.grad_input(moved, output, grad_input=moved)


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
    assert moved[-1] is not None
    mean_moved = moved[-1].mT.contiguous()
    e, inverse_std = tape.standardised, tape.inverse_std
    log_std_moved = (tangent["log_std"] * tape.free).unsqueeze(2)
    e_moved = -(inverse_std * mean_moved + e * log_std_moved)

    log_prob_moved = -(e * e_moved + log_std_moved).sum(1)
    shape = episodes.rewards.shape
    weights_moved = estimator.hessian_product(log_prob_moved.reshape(shape), episodes)
    weights_moved = weights_moved.flatten(1).unsqueeze(1)

    delta_moved = inverse_std * (weights_moved * e + tape.weights * (e_moved - e * log_std_moved))
    product = _tangent_backward(arch, tape, tangent, moved, delta_moved)
    product["log_std"] = tape.free * (
        weights_moved * (e.square() - 1.0) + 2.0 * tape.weights * e * e_moved
    ).sum(2)
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
        product[name] = torch.bmm(delta_moved, tape.hidden[i])
        product[f"layers.{i}.bias"] = delta_moved.sum(2)
        if below_moved is None:
            break
        delta = tape.deltas[i - 1]
        product[name].baddbmm_(delta, below_moved)
        below = torch.bmm(tape.params[name].mT, delta_moved)
        below.baddbmm_(tangent[name].mT, delta)
        delta_moved = below.mul_(tape.slopes[i - 1])
        if arch.activation == "tanh":
            delta_moved.addcmul_(tape.bends[i - 1], below_moved.mT.contiguous())
    return product


def fisher_product(
    arch: Architecture,
    params: Params,
    hidden: tuple[Tensor, ...],
    slopes: tuple[Tensor, ...],
    step_weights: Tensor,
    tangent: Params,
) -> Params:
    """F · tangent, F the Fisher matrix: the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old.

    F = Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t for log σ; no block joins the two.

    Args:
        arch: the policy's architecture.
        params: φ, ``[C, *shape]``.
        hidden: :func:`forward` at φ.
        slopes: :func:`slopes` of the same pass.
        step_weights: w_t, ``[C, 1, B]``.
        tangent: ``[C, *shape]``.

    Returns:
        ``[C, *shape]``.
    """
    mean_moved = tangent_forward(arch, params, hidden, tangent)[-1]
    assert mean_moved is not None
    precision = (-2.0 * log_std(arch, params)).exp().unsqueeze(2)
    top = step_weights * precision * mean_moved.mT.contiguous()
    _, product = backward(arch, params, hidden, top, slopes)
    free = (params["log_std"] >= arch.min_log_std).to(precision.dtype)
    product["log_std"] = 2.0 * step_weights.sum(2) * free * tangent["log_std"]
    return {name: product[name] for name in tangent}
