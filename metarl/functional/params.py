"""Parameters as values: the vector form of a parameter dictionary, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.data import Meta, Params


def flatten(params: Params, batch_dims: int = 0) -> Tensor:
    """Join all parameters into one vector, in the dictionary's order.

    Args:
        params: tensors of shape ``[*batch, *shape]``.
        batch_dims: how many leading dimensions are batch dimensions.

    Returns:
        ``[*batch, P]``, P the number of parameters.
    """
    pieces = [value.reshape(*value.shape[:batch_dims], -1) for value in params.values()]
    return torch.cat(pieces, dim=batch_dims)


def unflatten(vector: Tensor, like: Params) -> Params:
    """Cut ``vector`` ``[*batch, P]`` into parameters named and shaped (after ``batch``) as ``like``."""
    batch = vector.shape[:-1]
    pieces = vector.split([value.numel() for value in like.values()], dim=-1)
    return {
        name: piece.reshape((*batch, *value.shape))
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def flatten_meta(meta: Meta) -> Tensor:
    """All that is meta-learned as one vector ``[P]``: θ, then the learned rates."""
    return torch.cat([flatten(part) for part in meta if part])


def unflatten_meta(vector: Tensor, like: Meta) -> Meta:
    """The inverse of :func:`flatten_meta`: ``[P]`` named and shaped as ``like``."""
    sizes = [sum(value.numel() for value in part.values()) for part in like]
    theta, rates = vector.split(sizes)
    return Meta(unflatten(theta, like.theta), unflatten(rates, like.rates) if like.rates else {})


def for_tasks(params: Params, count: int) -> Params:
    """The same parameters for each of ``count`` tasks: a view of shape ``[count, *shape]``."""
    return {name: value.expand(count, *value.shape) for name, value in params.items()}


def owned(params: Params) -> Params:
    """Memory of their own for parameters that are views: batched products then need no copies."""
    return {name: value.contiguous() for name, value in params.items()}


def descend(params: Params, gradient: Params, rates: float | Params) -> Params:
    """One gradient step, φ = θ − α ∇L, with one rate α or one per parameter, to which it broadcasts."""
    if isinstance(rates, float):
        return {name: value - rates * gradient[name] for name, value in params.items()}
    return {name: value - rates[name] * gradient[name] for name, value in params.items()}


def step_gradient(before: Params, after: Params, rates: float | Params) -> Tensor:
    """The gradient that :func:`descend` went along, of M tasks: ``[M, P]`` over the parameters that have a rate."""
    if isinstance(rates, float):
        return (flatten(before, 1) - flatten(after, 1)) / rates
    return flatten({name: (before[name] - after[name]) / rates[name] for name in rates}, 1)


def rates_at(meta: Meta, step: int) -> Params:
    """The learned rates of one inner step; empty where none are learned.

    Rates have as many dimensions as their parameter (to which they broadcast), or one more in front for the steps,
    of which steps beyond the last take the last.
    """
    return {
        name: value[min(step, len(value) - 1)] if value.ndim > meta.theta[name].ndim else value
        for name, value in meta.rates.items()
    }
