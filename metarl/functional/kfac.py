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
from metarl.functional.gaussian_mlp import Architecture, backward, log_std
from metarl.functional.params import flatten, unflatten

STRIDE = 10
"""The factors are averages over states: every tenth state is enough for an approximation."""


class Factors(NamedTuple):
    """A ``[in + 1, in + 1]`` and S ``[out, out]`` of each layer, float64, summed over the tasks seen."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tasks: int


def factors(
    arch: Architecture, params: Params, hidden: tuple[Tensor, ...], step_weights: Tensor
) -> Factors:
    """The factors of C tasks, summed over those tasks.

    The expectation over actions is exact: one back-propagation for each component of the action.

    Args:
        arch: the policy's architecture.
        params: ``[C, *shape]``.
        hidden: its activations, each ``[C, B, size]``.
        step_weights: weight of each state, ``[C, B, 1]``.
    """
    thinned = tuple(layer[:, ::STRIDE] for layer in hidden)
    weights = step_weights[:, ::STRIDE]
    weights = (weights / weights.sum(1, keepdim=True).clamp(min=1e-30)).double()
    inverse_std = (-log_std(arch, params)).exp()
    inputs = []
    for layer in thinned[:-1]:
        extended = torch.cat([layer, torch.ones_like(layer[..., :1])], dim=-1).double()
        inputs.append((extended.mT @ (weights * extended)).sum(0))
    outputs: list[Tensor] = []
    for action in range(inverse_std.shape[-1]):
        delta = torch.zeros_like(thinned[-1])
        delta[..., action] = inverse_std[:, action : action + 1]
        deltas, _ = backward(arch, params, thinned, delta)
        terms = [(each.double().mT @ (weights * each.double())).sum(0) for each in deltas]
        outputs = [a + b for a, b in zip(outputs, terms, strict=True)] if outputs else terms
    return Factors(tuple(inputs), tuple(outputs), len(weights))


def preconditioner(
    arch: Architecture, parts: Iterable[Factors], like: Params, damping: float
) -> Callable[[Tensor], Tensor]:
    """v ``[P]`` -> (A + π√λ I)⁻¹ V (S + √λ/π I)⁻¹ for each layer, V its part of v; log σ is exact.

    Args:
        arch: the policy's architecture.
        parts: factors of all tasks, in task order.
        like: names and shapes of θ.
        damping: λ; π² is the ratio of the factors' mean eigenvalues.
    """
    parts = list(parts)
    count = sum(part.tasks for part in parts)
    inverses = []
    for layer in range(arch.depth):
        a = torch.stack([part.inputs[layer] for part in parts]).sum(0) / count
        s = torch.stack([part.outputs[layer] for part in parts]).sum(0) / count
        balance = math.sqrt(float(a.trace() / len(a)) / max(float(s.trace() / len(s)), 1e-30))
        eye_a, eye_s = (
            torch.eye(len(each), dtype=each.dtype, device=each.device) for each in (a, s)
        )
        inverses.append(
            (
                torch.linalg.inv(a + balance * math.sqrt(damping) * eye_a),
                torch.linalg.inv(s + math.sqrt(damping) / balance * eye_s),
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
