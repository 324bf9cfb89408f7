"""A Kronecker-factored approximation of the Fisher matrix: the preconditioner of conjugate gradient.

For each layer F ≈ A ⊗ S with A = E[h hᵀ], h the layer's input with a 1 appended, and S = E[δ δᵀ], δ the derivative of
the log-probability in the layer's output under the policy's own actions. Only the approximation's inverse is used, and
only as a preconditioner: the products of conjugate gradient stay exact, but fewer of them are needed.

Source: Martens & Grosse 2015 (arXiv:1503.05671), sections 3 and 6.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Params
from metarl.functional.gaussian_mlp import Forward
from metarl.functional.layered import Architecture, log_std
from metarl.functional.params import flatten, unflatten
from metarl.functional.tasks import Join, alone

STRIDE = 11
"""The factors are averages over states: every eleventh is enough for an approximation. The states of an episode follow
one another, so a stride that divides the horizon would take the same time steps of every episode."""


class Factors(NamedTuple):
    """A ``[in + 1, in + 1]`` and S ``[out, out]`` of each layer, float64, summed over the tasks seen."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tasks: int


def factors(arch: Architecture, passed: Forward, step_weights: Tensor) -> Factors:
    """The factors of C tasks, summed over those tasks.

    The expectation over actions is exact: every component of the action is propagated back.

    Args:
        arch: the policy's architecture.
        passed: the forward pass of B states.
        step_weights: weight of each state, ``[C, B]``.

    Returns:
        A and S of every layer.
    """
    thinned = [each[:, ::STRIDE] for each in passed.network.inputs]
    shares = step_weights[:, ::STRIDE].unsqueeze(2)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-30)
    with_ones = (torch.cat([each, torch.ones_like(each[:, :, :1])], dim=2) for each in thinned)
    inputs = [((shares * each).mT @ each).double().sum(0) for each in with_ones]
    derivatives = _output_derivatives(arch, passed, thinned)
    shares = shares.repeat(1, passed.mean.shape[2], 1)
    outputs = [((shares * each).mT @ each).double().sum(0) for each in derivatives]
    return Factors(tuple(inputs), tuple(outputs), len(shares))


def _output_derivatives(arch: Architecture, passed: Forward, inputs: list[Tensor]) -> list[Tensor]:
    """σ_a⁻¹ ∂μ_a/∂z_i of each layer i, ``[C, A·B, out]``, the B states of one action after another."""
    inverse_std = torch.diag_embed((-log_std(arch, passed.params)).exp())
    result = [inverse_std.repeat_interleave(inputs[0].shape[1], dim=1)]
    for i in reversed(range(1, arch.depth)):
        slope = inputs[i].sign() if arch.activation == "relu" else 1.0 - inputs[i].square()
        below = result[0] @ passed.params.matrices[i][:, :, :-1]
        result.insert(0, below.mul_(slope.repeat(1, inverse_std.shape[1], 1)))
    return result


def preconditioner(
    arch: Architecture,
    parts: Iterable[Factors],
    like: Params,
    damping: float,
    join: Join = alone,
) -> Callable[[Tensor], Tensor]:
    """v ``[P]`` -> (S + √λ/π I)⁻¹ V (A + π√λ I)⁻¹ for each layer, V ``[out, in + 1]`` its part of v; log σ is exact.

    Source: Martens & Grosse 2015, section 6.3.

    Args:
        arch: the policy's architecture.
        parts: factors of all tasks, in task order.
        like: names and shapes of θ.
        damping: λ; π² is the ratio of the factors' mean eigenvalues.
        join: where processes share the tasks, gathers every chunk's factors from them.
    """
    parts = list(parts)
    count = int(join(torch.tensor([part.tasks for part in parts])).sum())
    inverses = []
    for layer in range(arch.depth):
        a, s = (
            join(torch.stack(each)).sum(0) / count
            for each in (
                [part.inputs[layer] for part in parts],
                [part.outputs[layer] for part in parts],
            )
        )
        balance = ((a.trace() / len(a)) / (s.trace() / len(s)).clamp(min=1e-30)).sqrt()
        eye_a, eye_s = (
            torch.eye(len(each), dtype=each.dtype, device=each.device) for each in (a, s)
        )
        inverses.append(
            (
                # Not inv, which reads back whether there is an inverse: damping sees to that.
                torch.linalg.inv_ex(a + balance * math.sqrt(damping) * eye_a).inverse,
                torch.linalg.inv_ex(s + math.sqrt(damping) / balance * eye_s).inverse,
            )
        )

    def apply(vector: Tensor) -> Tensor:
        given = unflatten(vector, like)
        result = {name: value / (2.0 + damping) for name, value in given.items()}
        for layer, (a, s) in enumerate(inverses):
            weight, bias = f"layers.{layer}.weight", f"layers.{layer}.bias"
            solved = s @ torch.cat([given[weight], given[bias].unsqueeze(1)], dim=1) @ a
            result[weight], result[bias] = solved[:, :-1], solved[:, -1]
        return flatten(result)

    return apply
