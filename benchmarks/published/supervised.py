"""The meta-gradient of few-shot learning as published PyTorch implementations compute it.

A loop over tasks; the inner step by autograd with ``create_graph`` on a dictionary of parameters, normalisation by
torch's own ``batch_norm``; the mean of the query losses and one more backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from metarl.data import Examples, MetaBatch, Params
from metarl.functional.tasks import count_tasks, take
from metarl.nets.layers import EPSILON

Network = Callable[[Params, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def mlp(params: Params, x: Tensor) -> Tensor:
    """Linear layers with ReLU between them."""
    depth = len(params) // 2
    for index in range(depth):
        x = functional.linear(x, params[f"layers.{index}.weight"], params[f"layers.{index}.bias"])
        x = torch.relu(x) if index < depth - 1 else x
    return x


def conv(params: Params, x: Tensor) -> Tensor:
    """Four blocks of convolution, normalisation and ReLU; the mean over positions; a linear layer."""
    for index in range(4):
        weight, bias = params[f"convs.{index}.weight"], params[f"convs.{index}.bias"]
        scale, shift = params[f"norms.{index}.scale"], params[f"norms.{index}.shift"]
        x = functional.conv2d(x, weight, bias, stride=2, padding=1)
        x = functional.batch_norm(x, None, None, scale, shift, training=True, eps=EPSILON)
        x = torch.relu(x)
    return functional.linear(x.mean((-2, -1)), params["head.weight"], params["head.bias"])


def meta_gradient(
    network: Network,
    loss: Loss,
    theta: Params,
    batch: MetaBatch[Examples],
    lr: float,
    adapted: frozenset[str],
) -> Tensor:
    """The gradient of the mean query loss after one inner step, ``[P]``.

    Args:
        network: ``(parameters, x [N, ...]) -> [N, outputs]``.
        loss: ``(predictions, targets) -> []``.
        theta: the initial parameters.
        batch: support and query of M tasks.
        lr: the inner rate.
        adapted: names of the parameters that the inner step moves.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
    losses = []
    for task in range(count_tasks(batch)):
        (support,), query = take(batch, task)
        moving = {name: value for name, value in leaves.items() if name in adapted}
        inner = loss(network(leaves, support.x), support.y)
        slopes = torch.autograd.grad(inner, list(moving.values()), create_graph=True)
        moved = {
            name: value - lr * slope
            for (name, value), slope in zip(moving.items(), slopes, strict=True)
        }
        losses.append(loss(network(leaves | moved, query.x), query.y))
    found = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
    return torch.cat([each.flatten() for each in found])
