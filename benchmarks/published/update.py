"""The outer step of MAML-TRPO as published PyTorch implementations compute it.

A loop over tasks; the inner update by autograd with ``create_graph``; the gradient of the mean KL with
``create_graph`` once per outer step, then one more backward pass for each product of conjugate gradient, in the
precision of the parameters; an eleventh product for the length of the step.

Left out in its favour: distributions check none of their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from metarl.data import Episodes, MetaBatch, Outcome, Params
from metarl.functional.objectives import Linearisation, Objective
from metarl.functional.params import flatten, unflatten
from metarl.functional.tasks import count_tasks, take
from metarl.functional.trpo import TrustRegion

Distribution = Callable[[Params, Tensor], Any]
"""``(parameters, obs [..., O]) ->`` that of the actions."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


def act(params: Params, obs: Tensor, activation: str, min_log_std: float) -> Any:
    """The distribution of actions at ``obs`` ``[..., O]``."""
    hidden, depth = obs, len(params) // 2
    for index in range(depth):
        weight, bias = params[f"layers.{index}.weight"], params[f"layers.{index}.bias"]
        hidden = torch.nn.functional.linear(hidden, weight, bias)
        if index < depth - 1:
            hidden = ACTIVATIONS[activation](hidden)
    scale = params["log_std"].clamp(min=min_log_std).exp()
    return Independent(Normal(hidden, scale, validate_args=False), 1, validate_args=False)


def mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def adapted(
    distribution: Distribution, params: Params, support: Episodes, lr: float, create_graph: bool
) -> Params:
    """One inner step on the likelihood ratio's loss (``lvc``)."""
    log_prob = distribution(params, support.obs).log_prob(support.actions)
    ratio = torch.exp(log_prob - log_prob.detach())
    loss = -mean(ratio * support.advantages, support.mask)
    gradient = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)
    return {
        name: value - lr * slope
        for (name, value), slope in zip(params.items(), gradient, strict=True)
    }


def task_outcome(distribution: Distribution, params: Params, query: Episodes) -> Outcome:
    """Surrogate of one adapted policy, and its KL from the one that collected the query."""
    new = distribution(params, query.obs)
    spread = query.log_std.exp().expand_as(query.mean)
    old = Independent(Normal(query.mean, spread, validate_args=False), 1, validate_args=False)
    ratio = torch.exp(new.log_prob(query.actions) - old.log_prob(query.actions))
    return Outcome(
        -mean(ratio * query.advantages, query.mask), mean(kl_divergence(old, new), query.mask)
    )


def objective(
    batch: MetaBatch[Episodes], like: Params, lr: float, activation: str, min_log_std: float
) -> Objective:
    """Surrogate and KL of the post-update policies, averaged over the tasks, one after the other.

    Args:
        batch: episodes of M tasks.
        like: names and shapes of θ.
        lr: inner rate.
        activation: ``relu`` or ``tanh``.
        min_log_std: lower bound of log σ.
    """
    tasks = [take(batch, task) for task in range(count_tasks(batch))]
    distribution = partial(act, activation=activation, min_log_std=min_log_std)

    def outcome(theta: Params, create_graph: bool) -> Outcome:
        found = []
        for support, query in tasks:
            params = theta
            with torch.enable_grad():
                for episodes in support:
                    params = adapted(distribution, params, episodes, lr, create_graph)
            with torch.set_grad_enabled(create_graph):
                found.append(task_outcome(distribution, params, query))
        losses, divergences, _ = zip(*found, strict=True)
        return Outcome(torch.stack(losses).mean(), torch.stack(divergences).mean())

    def leaves(vector: Tensor) -> Params:
        return {
            name: value.detach().clone().requires_grad_()
            for name, value in unflatten(vector, like).items()
        }

    def evaluate(vector: Tensor) -> Outcome:
        found = outcome(leaves(vector), create_graph=False)
        return Outcome(found.loss.detach(), found.kl.detach())

    def linearise(vector: Tensor) -> Linearisation:
        theta = leaves(vector)
        parameters = list(theta.values())
        found = outcome(theta, create_graph=True)
        gradient = torch.autograd.grad(found.loss, parameters, retain_graph=True)
        slopes: list[Tensor] = []

        def curvature(tangent: Tensor) -> Tensor:
            if not slopes:
                slope = torch.autograd.grad(found.kl, parameters, create_graph=True)
                slopes.append(torch.cat([part.flatten() for part in slope]))
            product = torch.autograd.grad(slopes[0] @ tangent, parameters, retain_graph=True)
            return torch.cat([part.flatten() for part in product])

        kept = Outcome(found.loss.detach(), found.kl.detach())
        return Linearisation(kept, flatten(dict(zip(theta, gradient, strict=True))), curvature)

    return Objective(evaluate, linearise)


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solve H x = b, in the precision of b."""
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = residual @ residual
    for _ in range(iterations):
        curved = product(direction)
        step = squared / (direction @ curved)
        x = x + step * direction
        residual = residual - step * curved
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
        if squared < 1e-10:
            break
    return x


def step(theta: Tensor, chosen: Objective, region: TrustRegion) -> Tensor:
    """One outer step: the new parameters, or ``theta`` where the line search accepts none."""
    start = chosen.linearise(theta)

    def damped(vector: Tensor) -> Tensor:
        return start.curvature(vector) + region.cg_damping * vector

    solution = conjugate_gradient(damped, start.gradient, region.cg_iterations)
    length = float(solution @ damped(solution))
    full = math.sqrt(2.0 * region.max_kl / length) * solution
    for trial in range(region.max_backtracks):
        candidate = theta - region.backtrack_ratio**trial * full
        found = chosen.evaluate(candidate)
        if found.loss < start.outcome.loss and found.kl <= region.max_kl:
            return candidate
    return theta
