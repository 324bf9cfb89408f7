"""MAML's outer objective for Gaussian MLP policies, without autograd.

With φ = θ − α ∇L(θ) the inner update and J = I − α ∇²L its derivative, the surrogate S has the gradient Jᵀ ∇S(φ).
At the parameters that collected the data the KL is zero and so is its gradient, so that its Hessian in θ is exactly
Jᵀ F J, F the Fisher matrix at φ: the third derivatives of L, which double backward computes, are multiplied by zero.
For K inner steps J is the product J_K ⋯ J_1. The result is that of :func:`metarl.functional.objectives.by_autograd`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes, MetaBatch, Outcome, Params
from metarl.functional import gaussian, kfac
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import Estimator
from metarl.functional.gaussian_mlp import (
    Architecture,
    Tape,
    fisher_product,
    forward,
    hessian_product,
    likelihood_gradient,
    log_std,
    policy_gradient,
    slopes,
)
from metarl.functional.objectives import (
    Linearisation,
    Objective,
    joined_count,
    mean_outcome,
)
from metarl.functional.params import descend, flatten, for_tasks, unflatten
from metarl.functional.tasks import Join, Mapper, alone, chunks, count_tasks, take


class Query(NamedTuple):
    """The query episodes at the post-update policy.

    Attributes:
        params: φ, ``[C, *shape]``.
        hidden: activations there.
        ratio: π_φ / behaviour, ``[C, N, T]``.
        step_weights: 1/n for valid steps, 0 elsewhere, ``[C, N, T]``.
        outcome: surrogate loss and KL of each task, ``[C]``.
    """

    params: Params
    hidden: tuple[Tensor, ...]
    ratio: Tensor
    step_weights: Tensor
    outcome: Outcome


class Part(NamedTuple):
    """What one chunk of tasks keeps between the products of one outer step."""

    support: tuple[Episodes, ...]
    tapes: tuple[Tape, ...]
    query: Query
    slopes: tuple[Tensor, ...]
    gradient: Tensor


def _adapt(
    arch: Architecture, theta: Params, support: tuple[Episodes, ...], lr: float, taped: bool
) -> tuple[Params, tuple[Tape, ...]]:
    params, tapes = for_tasks(theta, count_tasks(support)) if support else theta, []
    for episodes in support:
        gradient, tape = policy_gradient(arch, params, episodes, taped)
        params = descend(params, gradient, lr)
        tapes.append(tape)
    return params, tuple(tapes)


def _query(arch: Architecture, params: Params, episodes: Episodes) -> Query:
    hidden = forward(arch, params, episodes.obs.flatten(1, 2))
    mean = hidden[-1].reshape(episodes.mean.shape)
    old_std, new_std = episodes.log_std[:, None, None], log_std(arch, params)[:, None, None]
    new = gaussian.log_prob(episodes.actions, mean, new_std)
    old = gaussian.log_prob(episodes.actions, episodes.mean, old_std)
    ratio = (new - old).exp()
    divergence = gaussian.kl(episodes.mean, old_std, mean, new_std)
    weights = episodes.mask / episodes.mask.sum((-2, -1), keepdim=True)
    outcome = Outcome(
        -(ratio * episodes.advantages * weights).sum((-2, -1)),
        (divergence * weights).sum((-2, -1)),
    )
    return Query(params, hidden, ratio, weights, outcome)


def objective(
    arch: Architecture,
    estimator: Estimator,
    inner: InnerUpdate,
    batch: MetaBatch[Episodes],
    like: Params,
    mapper: Mapper = map,
    chunk: int = 1,
    join: Join = alone,
) -> Objective:
    """The mean over the meta-batch of the post-update surrogate and KL, with exact derivatives.

    Args:
        arch: the policy's architecture.
        estimator: of the inner loss.
        inner: the inner update; its rate is one constant.
        batch: episodes of M tasks; the curvature is exact at the parameters that collected them.
        like: names and shapes of θ.
        mapper: maps over chunks of tasks; a thread pool's map runs them side by side. Sums are taken
            in task order, so the mapper changes no bit.
        chunk: tasks that share each batched matrix product. On a CPU 1: a task's activations then
            stay in the cache. On a GPU as many as its memory holds.
        join: where processes share the tasks, gathers every task's results from them.
    """
    parts = [take(batch, part) for part in chunks(count_tasks(batch), chunk)]
    count = joined_count(batch, join)

    def post_update(
        vector: Tensor, part: MetaBatch[Episodes], taped: bool
    ) -> tuple[tuple[Tape, ...], Query]:
        params, tapes = _adapt(arch, unflatten(vector, like), part.support, inner.lr, taped)
        if not part.support:
            params = for_tasks(params, count_tasks(part.query))
        return tapes, _query(arch, params, part.query)

    def evaluate(vector: Tensor) -> Outcome:
        found = mapper(lambda part: post_update(vector, part, False)[1].outcome, parts)
        return mean_outcome(found, join)

    def push(part: Part, tangent: Params) -> Params:
        """J · tangent."""
        for tape, episodes in zip(part.tapes, part.support, strict=True):
            if not inner.first_order:
                bent = hessian_product(arch, tape, episodes, estimator, tangent)
                tangent = descend(tangent, bent, inner.lr)
        return tangent

    def pull(part: Part, cotangent: Params) -> Params:
        """Jᵀ · cotangent: every factor of J is symmetric, so the factors in reverse order."""
        reversed_part = part._replace(tapes=part.tapes[::-1], support=part.support[::-1])
        return push(reversed_part, cotangent)

    def derive(vector: Tensor, part: MetaBatch[Episodes]) -> Part:
        tapes, query = post_update(vector, part, True)
        per_step = -(query.ratio * part.query.advantages * query.step_weights)
        per_step, kept = per_step.flatten(1).unsqueeze(1), slopes(arch, query.hidden)
        gradient, _ = likelihood_gradient(
            arch, query.params, part.query, query.hidden, per_step, kept
        )
        derived = Part(part.support, tapes, query, kept, per_step)
        return derived._replace(gradient=flatten(pull(derived, gradient), 1))

    def linearise(vector: Tensor) -> Linearisation:
        derived = list(mapper(lambda part: derive(vector, part), parts))

        def curvature(tangent: Tensor) -> Tensor:
            shaped = unflatten(tangent, like)

            def product(part: Part) -> Tensor:
                moved = push(part, for_tasks(shaped, part.gradient.shape[0]))
                query = part.query
                weights = query.step_weights.flatten(1).unsqueeze(1)
                bent = fisher_product(arch, query.params, query.hidden, part.slopes, weights, moved)
                return flatten(pull(part, bent), 1)

            return join(torch.cat(list(mapper(product, derived)))).sum(0) / count

        def precondition(damping: float) -> Callable[[Tensor], Tensor]:
            def factored(part: Part) -> kfac.Factors:
                weights = part.query.step_weights.flatten(1).unsqueeze(-1)
                return kfac.factors(arch, part.query.params, part.query.hidden, weights)

            return kfac.preconditioner(arch, mapper(factored, derived), like, damping, join)

        gradient = join(torch.cat([part.gradient for part in derived])).sum(0) / count
        outcome = mean_outcome((part.query.outcome for part in derived), join)
        return Linearisation(outcome, gradient, curvature, precondition)

    return Objective(evaluate, linearise)
