"""An inner update that is learned as a whole: a recurrent network with the learner's parameters as its memory.

One cell serves every coordinate of every parameter. Of C tasks at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional.few_shot import Network
from metarl.functional.losses import Loss
from metarl.functional.params import flatten, for_tasks, unflatten
from metarl.functional.tasks import count_tasks

PREFIX = "meta_lstm."
"""Begins the names of the cell's own parameters."""
SCALE = 10.0
"""p of the two ranges of a gradient's size."""


class State(NamedTuple):
    """Of the cell, for every coordinate of C tasks.

    Attributes:
        hidden: of the first layer, ``[C, P, H]``.
        memory: of the first layer, ``[C, P, H]``.
        forget: f of the last step, ``[C, P]``.
        rate: i of the last step, ``[C, P]``.
    """

    hidden: Tensor
    memory: Tensor
    forget: Tensor
    rate: Tensor


def shapes(hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the cell's own parameters, without their prefix; gates in the order i, f, g, o, as torch has them."""
    gates = 4 * hidden_size
    return {
        "inputs.weight": (gates, 4),
        "state.weight": (gates, hidden_size),
        "state.bias": (gates,),
        "forget.weight": (hidden_size + 2,),
        "forget.bias": (1,),
        "rate.weight": (hidden_size + 2,),
        "rate.bias": (1,),
    }


def preprocessed(x: Tensor) -> Tensor:
    """(log|x| / p, sgn x) where |x| ≥ e^−p, (−1, e^p x) elsewhere: ``[...] -> [..., 2]``.

    Source: Andrychowicz et al. 2016 (arXiv:1606.04474), appendix A, with p = 10.
    """
    least = math.exp(-SCALE)
    large = x.abs() >= least
    # log least is −p, which is the −1 of what is smaller.
    size = x.abs().clamp(min=least).log() / SCALE
    return torch.stack([size, torch.where(large, x.sign(), x / least)], dim=-1)


def step(
    own: Params, values: Tensor, gradient: Tensor, loss: Tensor, state: State
) -> tuple[Tensor, State]:
    """θ_t = f_t ∘ θ_{t−1} − i_t ∘ ∇L, the gates being functions of ∇L, L, θ_{t−1} and of those of the step before.

    h_t = LSTM(∇L, L),  f_t = σ(W_F [h_t, θ_{t−1}, f_{t−1}] + b_F),  i_t = σ(W_I [h_t, θ_{t−1}, i_{t−1}] + b_I).

    Source: Ravi & Larochelle 2017 (OpenReview rJY0-Kcll), section 3.1, equation 2 and the gates after it; one cell for
    all coordinates: section 3.2.

    Args:
        own: the cell's parameters, by the names of `shapes`.
        values: θ, ``[C, P]``.
        gradient: ``[C, P]``.
        loss: ``[C]``.
        state: after the step before.

    Returns:
        θ_t, ``[C, P]``, and the state after this step.
    """
    of_loss = preprocessed(loss).unsqueeze(1).expand(*gradient.shape, 2)
    inputs = torch.cat([preprocessed(gradient), of_loss], dim=-1)
    gates = functional.linear(inputs, own["inputs.weight"]) + functional.linear(
        state.hidden, own["state.weight"], own["state.bias"]
    )
    take, keep, candidate, give = gates.chunk(4, dim=-1)
    memory = keep.sigmoid() * state.memory + take.sigmoid() * candidate.tanh()
    hidden = give.sigmoid() * memory.tanh()

    def gate(name: str, before: Tensor) -> Tensor:
        seen = torch.cat([hidden, torch.stack([values, before], dim=-1)], dim=-1)
        return (seen @ own[f"{name}.weight"] + own[f"{name}.bias"]).sigmoid()

    forget, rate = gate("forget", state.forget), gate("rate", state.rate)
    return forget * values - rate * gradient, State(hidden, memory, forget, rate)


def first_state(own: Params, like: Tensor) -> State:
    """Nothing is remembered: zeros, for values ``[C, P]``."""
    size = own["state.weight"].shape[1]
    wide = like.new_zeros(*like.shape, size)
    return State(wide, wide, torch.zeros_like(like), torch.zeros_like(like))


class Cell(NamedTuple):
    """What is adapted by the cell, and what for: a `metarl.functional.few_shot.Adapts`.

    Attributes:
        network: what is adapted.
        loss: of support and query.
    """

    network: Network
    loss: Loss

    def predict(self, params: Params, x: Tensor, step: int) -> Tensor:
        """The network, which is the same at every step."""
        return self.network(params, x)

    def trajectory(self, meta: Meta, part: MetaBatch[Examples]) -> Iterator[Params]:
        """θ for each task, then after every entry of the support, ``[C, *shape]``.

        Gradient and loss are constants to the outer derivative, as in the paper (section 3.3, gradient independence).
        """
        theta, own = split(meta.theta)
        values = flatten(for_tasks(theta, count_tasks(part)), 1)
        state = first_state(own, values)
        yield unflatten(values, theta)
        for data in part.support:
            loss, gradient = self._slope(theta, values, data)
            values, state = step(own, values, gradient, loss, state)
            yield unflatten(values, theta)

    def _slope(self, like: Params, values: Tensor, data: Examples) -> tuple[Tensor, Tensor]:
        """Loss ``[C]`` and gradient ``[C, P]``, as constants."""
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            losses = self.loss.loss(self.network(unflatten(leaf, like), data.x), data.y)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient


def split(theta: Params) -> tuple[Params, Params]:
    """The parameters that are adapted, and the cell's own, without their prefix."""
    own = {name: value for name, value in theta.items() if name.startswith(PREFIX)}
    adapted = {name: value for name, value in theta.items() if name not in own}
    return adapted, {name.removeprefix(PREFIX): value for name, value in own.items()}
