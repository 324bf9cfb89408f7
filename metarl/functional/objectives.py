"""Outer objectives: what a candidate initialisation is worth, given the data of one meta-iteration.

An objective is written for one task, ``(meta, support, query) -> Outcome``, and lifted to the meta-batch by
:func:`by_autograd`, which serves any network. For Gaussian MLP policies :mod:`metarl.functional.closed_form` gives the
same :class:`Objective` several times faster; this module is its oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.data import Episodes, Meta, MetaBatch, Outcome, Params
from metarl.functional import gaussian
from metarl.functional.adapt import InnerUpdate, Loss
from metarl.functional.estimators import Estimator
from metarl.functional.params import unflatten_meta
from metarl.functional.tasks import (
    Join,
    Mapper,
    alone,
    chunks,
    count_kept,
    count_tasks,
    keep_first,
    over_tasks,
    take,
)

Policy = Callable[[Params, Tensor], tuple[Tensor, Tensor]]
"""``(parameters, obs [..., O]) -> (mean [..., A], log_std [A])``."""

TaskObjective = Callable[[Meta, tuple[Any, ...], Any], Outcome]
"""The outer objective of one task: ``(meta, support, query) -> Outcome`` of scalars."""

StackedObjective = Callable[[Meta, MetaBatch[Any]], Outcome]
"""The outer objective of C tasks at once: ``(meta, their data) -> Outcome`` of ``[C]``."""


class Linearisation(NamedTuple):
    """An objective at one point, for a first- or second-order step from it.

    Attributes:
        outcome: loss and KL there.
        gradient: of the loss, ``[P]``.
        curvature: v ``[P]`` -> (Hessian of the KL) v ``[P]``, exact, through the inner updates; one after the other, as
            products share the memory that they work in.
        preconditioner: damping -> a cheap approximate inverse of the curvature, v ``[P]`` -> ``[P]``;
            None where there is none.
    """

    outcome: Outcome
    gradient: Tensor
    curvature: Callable[[Tensor], Tensor]
    preconditioner: Callable[[float], Callable[[Tensor], Tensor]] | None = None


class Objective(NamedTuple):
    """A function of the meta-parameters as one vector ``[P]`` (:func:`metarl.functional.params.flatten_meta`).

    Attributes:
        evaluate: loss and KL at a vector, without derivatives.
        linearise: loss, KL, gradient and curvature at a vector.
    """

    evaluate: Callable[[Tensor], Outcome]
    linearise: Callable[[Tensor], Linearisation]


def valid_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid steps of one task, ``[N, T] -> scalar``."""
    return (values * mask).sum() / mask.sum()


def inner_loss(policy: Policy, estimator: Estimator) -> Loss:
    """The policy-gradient loss of one task, a scalar, as :class:`metarl.functional.adapt.InnerUpdate` takes it."""

    def loss(params: Params, episodes: Episodes) -> Tensor:
        mean, log_std = policy(params, episodes.obs)
        return estimator.loss(gaussian.log_prob(episodes.actions, mean, log_std), episodes)

    return loss


def behaviour_kl(policy: Policy, params: Params, episodes: Episodes) -> Tensor:
    """Mean KL(behaviour ‖ π_params) over the valid steps of one task, a scalar."""
    mean, log_std = policy(params, episodes.obs)
    divergence = gaussian.kl(episodes.mean, episodes.log_std, mean, log_std)
    return valid_mean(divergence, episodes.mask)


def probability_ratio(policy: Policy, params: Params, episodes: Episodes) -> Tensor:
    """π_params(a|s) / behaviour(a|s) of one task, ``[N, T]``."""
    mean, log_std = policy(params, episodes.obs)
    new = gaussian.log_prob(episodes.actions, mean, log_std)
    old = gaussian.log_prob(episodes.actions, episodes.mean, episodes.log_std)
    return (new - old).exp()


def surrogate(policy: Policy, estimator: Estimator, inner: InnerUpdate) -> TaskObjective:
    """−E[ratio · A] of the post-update policy, and KL(old ‖ new) after the update: TRPO's outer objective.

    Source: Finn et al. 2017 (arXiv:1703.03400), section 5.3 and equation 4.
    """
    loss = inner_loss(policy, estimator)

    def task_objective(meta: Meta, support: tuple[Episodes, ...], query: Episodes) -> Outcome:
        params = inner.adapt(meta, support, loss)
        ratio = probability_ratio(policy, params, query)
        return Outcome(
            -valid_mean(ratio * query.advantages, query.mask), behaviour_kl(policy, params, query)
        )

    return task_objective


def exploring_surrogate(
    policy: Policy, estimator: Estimator, inner: InnerUpdate, coefficient: float
) -> TaskObjective:
    """The surrogate and E-MAML's term: pre-update actions are credited with the post-update return.

    loss = −E[ratio · A] − c · R · Σ_k E[log π_{φ_k}(support_k)], c the ``coefficient`` and R, a constant, the
    post-update return per step.

    Source: Stadie et al. 2018 (arXiv:1803.01118), equation 5.
    """
    base, loss = surrogate(policy, estimator, inner), inner_loss(policy, estimator)

    def task_objective(meta: Meta, support: tuple[Episodes, ...], query: Episodes) -> Outcome:
        outcome, params = base(meta, support, query), meta.theta
        credit = valid_mean(query.rewards, query.mask)
        explored = outcome.loss.new_zeros(())
        for step, episodes in enumerate(support):
            mean, log_std = policy(params, episodes.obs)
            log_prob = gaussian.log_prob(episodes.actions, mean, log_std)
            explored = explored + valid_mean(log_prob, episodes.mask)
            params = inner.step(meta, params, step, episodes, loss)
        return outcome._replace(loss=outcome.loss - coefficient * credit * explored)

    return task_objective


def clipped_surrogate(
    policy: Policy,
    estimator: Estimator,
    inner: InnerUpdate,
    clip: float,
    kl_coefficient: float,
) -> TaskObjective:
    """ProMP: the clipped post-update surrogate plus η times the KL of the policies that collected the support.

    loss = −E[min(ratio · A, clip(ratio, 1 − ε, 1 + ε) · A)] + η/K Σ_k KL(behaviour_k ‖ π_{φ_k}), ε = ``clip`` and
    η = ``kl_coefficient``. ``Outcome.kl`` is the mean of those inner divergences, which the adaptive η is steered by.

    Source: Rothfuss et al. 2019 (arXiv:1810.06784), equations 8 to 10.
    """
    loss = inner_loss(policy, estimator)

    def task_objective(meta: Meta, support: tuple[Episodes, ...], query: Episodes) -> Outcome:
        params, divergence = meta.theta, query.rewards.new_zeros(())
        for step, episodes in enumerate(support):
            divergence = divergence + behaviour_kl(policy, params, episodes) / len(support)
            params = inner.step(meta, params, step, episodes, loss)
        ratio = probability_ratio(policy, params, query)
        gain = torch.minimum(
            ratio * query.advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * query.advantages
        )
        return Outcome(-valid_mean(gain, query.mask) + kl_coefficient * divergence, divergence)

    return task_objective


def by_autograd(
    task_objective: TaskObjective,
    batch: MetaBatch[Any],
    like: Meta,
    mapper: Mapper = map,
    together: int = 1,
    kept: int | None = None,
    join: Join = alone,
) -> Objective:
    """Lift a task's objective to the mean over the meta-batch, with derivatives by double backward.

    Args:
        task_objective: of one task.
        batch: data of M tasks.
        like: names and shapes of the meta-parameters.
        mapper: maps over parts of the tasks; a thread pool's map runs them side by side. Sums are taken
            in task order, so the mapper changes no bit.
        together: tasks that are batched by vmap; 1 takes them one by one, which needs least memory.
        kept: tasks whose graphs are kept from product to product, the first ones; those of the others
            are built anew in each, which changes no bit. None: all.
        join: where processes share the tasks, gathers every part's results from them.
    """

    def stacked(meta: Meta, part: MetaBatch[Any]) -> Outcome:
        lifted = lambda support, query: task_objective(meta, support, query)  # noqa: E731
        return over_tasks(lifted, *part, strategy="vmap" if together > 1 else "loop")

    return by_parts(stacked, batch, like, mapper, together, kept, join)


def by_parts(
    stacked: StackedObjective,
    batch: MetaBatch[Any],
    like: Meta,
    mapper: Mapper = map,
    together: int = 1,
    kept: int | None = None,
    join: Join = alone,
) -> Objective:
    """The mean over the meta-batch of an objective that is written for a stack of tasks.

    A part's graph is gone once its gradient is there. One for the curvature is built where a product asks for it.

    Args:
        stacked: of C tasks.
        batch: data of M tasks.
        like: names and shapes of the meta-parameters.
        mapper: as for `by_autograd`.
        together: C, tasks that are handed over together.
        kept: as for `by_autograd`.
        join: as for `by_autograd`.
    """
    cut, count = chunks(count_tasks(batch), together), joined_count(batch, join)
    parts = [take(batch, each) for each in cut]

    def outcomes(vector: Tensor, part: MetaBatch[Any]) -> Outcome:
        return stacked(unflatten_meta(vector, like), part)

    def evaluate(vector: Tensor) -> Outcome:
        def total(part: MetaBatch[Any]) -> Outcome:
            with torch.no_grad():
                return outcomes(vector.detach(), part)

        return mean_outcome(mapper(total, parts), join)

    def linearise(vector: Tensor) -> Linearisation:
        def derive(part: MetaBatch[Any]) -> tuple[Outcome, Tensor]:
            leaf = vector.detach().clone().requires_grad_()
            found = outcomes(leaf, part)
            (gradient,) = torch.autograd.grad(found.loss.sum(), leaf)
            return detached(found), gradient

        def slope(index: int) -> tuple[Tensor, Tensor]:
            return kl_slope(lambda leaf: outcomes(leaf, parts[index]), vector)

        slopes = keep_first(slope, count_kept(cut, kept))

        def curvature(tangent: Tensor) -> Tensor:
            def product(index: int) -> Tensor:
                found, leaf = slopes(index)
                return torch.autograd.grad(found, leaf, tangent, retain_graph=True)[0]

            return join(torch.stack(list(mapper(product, range(len(parts)))))).sum(0) / count

        found, gradients = zip(*mapper(derive, parts), strict=True)
        gradient = join(torch.stack(gradients)).sum(0) / count
        return Linearisation(mean_outcome(found, join), gradient, curvature)

    return Objective(evaluate, linearise)


def kl_slope(outcomes: Callable[[Tensor], Outcome], vector: Tensor) -> tuple[Tensor, Tensor]:
    """∇KL at ``vector`` ``[P]`` with its graph, and the leaf that it begins with, for Hessian-vector products.

    Raises:
        ValueError: the KL is a constant, as where there is none.
    """
    leaf = vector.detach().clone().requires_grad_()
    divergence = outcomes(leaf).kl.sum()
    if not divergence.requires_grad:
        raise ValueError("this objective has no curvature; take an outer step without it")
    return torch.autograd.grad(divergence, leaf, create_graph=True)[0], leaf


def detached(outcome: Outcome) -> Outcome:
    """The same numbers without a graph."""
    return pytree.tree_map(lambda value: value.detach(), outcome)


def mean_outcome(outcomes: Any, join: Join = alone) -> Outcome:
    """The mean over all tasks of outcomes that come in chunks ``[C]``, summed in task order."""
    stacked = pytree.tree_map(lambda *values: torch.cat(values), *outcomes)
    return pytree.tree_map(lambda values: values.mean(), join(stacked))


def joined_count(batch: MetaBatch[Any], join: Join) -> int:
    """M, of all processes together."""
    return int(join(torch.tensor([count_tasks(batch)])).sum())
