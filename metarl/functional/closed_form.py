"""MAML's outer objective for Gaussian MLP policies, without autograd.

With φ = θ − α ∇L(θ) the inner update and J = I − α ∇²L its derivative, the surrogate S has the gradient Jᵀ ∇S(φ).
At the parameters that collected the data the KL is zero and so is its gradient, so that its Hessian in θ is exactly
Jᵀ F J, F the Fisher matrix at φ: the third derivatives of L, which double backward computes, are multiplied by zero.
For K inner steps J is the product J_K ⋯ J_1. The result is that of :func:`metarl.functional.objectives.by_autograd`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

from metarl.data import Episodes, MetaBatch, Outcome, Params
from metarl.functional import kfac
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import Estimator
from metarl.functional.fisher import fisher_information, fisher_product
from metarl.functional.gaussian_mlp import likelihood_gradient, policy_gradient
from metarl.functional.hessian import Tape, hessian_product, taped_policy_gradient
from metarl.functional.layered import Architecture, Layered, Order, concatenated, order
from metarl.functional.objectives import Linearisation, Objective, joined_count, mean_outcome
from metarl.functional.query import Query, at_query
from metarl.functional.tasks import (
    Join,
    Mapper,
    alone,
    chunks,
    count_kept,
    count_tasks,
    keep_first,
    take,
)

Found = TypeVar("Found")


class Activations(NamedTuple):
    """What the products of an outer step need of C tasks; nearly all of the update's memory.

    It follows from θ and the episodes to the last bit, so that it can be made anew instead of being kept.

    Attributes:
        tapes: of each inner step.
        query: at φ.
        information: of its Gaussians, by :func:`metarl.functional.fisher.fisher_information`.
    """

    tapes: tuple[Tape, ...]
    query: Query
    information: Layered


def numbers_kept(sizes: Sequence[int], steps: int) -> int:
    """How many numbers :class:`Activations` have for each state of a wave, beside the episodes' own.

    Of the estimators ``lvc`` and ``loaded_dice``; ``dice`` has one more in each step, ``reinforce`` one less.

    Args:
        sizes: of the layers, observation to action.
        steps: inner steps.
    """
    hidden, action = sum(sizes[1:-1]), sizes[-1]
    passed = hidden + action
    tape = passed + hidden + 4 * action + 1
    return steps * tape + passed + action + 2


class Surrogate(NamedTuple):
    """Value and derivatives for C tasks at a time, each task by itself: results are ``[C, ...]``.

    θ and directions in θ are those of all tasks, C = 1.

    Attributes:
        arch: the policy's architecture.
        estimator: of the inner loss.
        inner: the inner update.
    """

    arch: Architecture
    estimator: Estimator
    inner: InnerUpdate

    def evaluate(self, theta: Layered, part: MetaBatch[Episodes]) -> Outcome:
        """Loss and KL at θ."""
        params = theta.expand(count_tasks(part))
        for episodes in part.support:
            gradient = policy_gradient(self.arch, params, episodes)
            params = params.less(gradient, self.inner.lr)
        return at_query(self.arch, params, part.query).outcome

    def activations(
        self, theta: Layered, part: MetaBatch[Episodes], few: MetaBatch[Episodes] | None = None
    ) -> Activations:
        """Of one forward and backward pass of every step at θ: on ``few`` of the data, where they are given."""
        params, tapes = theta.expand(count_tasks(part)), []
        for step, episodes in enumerate(part.support):
            if few is None:
                gradient, tape = taped_policy_gradient(self.arch, params, episodes, self.estimator)
            else:
                gradient = policy_gradient(self.arch, params, episodes)
                seen = few.support[step]
                tape = taped_policy_gradient(self.arch, params, seen, self.estimator)[1]
            params = params.less(gradient, self.inner.lr)
            tapes.append(tape)
        query = at_query(self.arch, params, part.query if few is None else few.query)
        step_weights = query.step_weights.flatten(1)
        information = fisher_information(self.arch, query.passed, step_weights)
        return Activations(tuple(tapes), query, information)

    def gradient(self, part: MetaBatch[Episodes], at: Activations) -> Layered:
        """Jᵀ ∇S(φ)."""
        query = at.query
        per_step = -(query.ratio * part.query.advantages * query.step_weights)
        gradient = likelihood_gradient(self.arch, query.passed, part.query, per_step)
        return self._pull(part, at, gradient)

    def product(self, part: MetaBatch[Episodes], at: Activations, tangent: Layered) -> Layered:
        """Jᵀ F J · ``tangent``, a direction in θ."""
        moved = self._push(part, at, tangent.expand(len(at.query.ratio)))
        bent = fisher_product(at.query.passed, at.information, moved)
        return self._pull(part, at, bent)

    def factors(self, at: Activations) -> kfac.Factors:
        """The Kronecker factors of F."""
        weights = at.query.step_weights.flatten(1)
        return kfac.factors(self.arch, at.query.passed, weights)

    def _push(self, part: MetaBatch[Episodes], at: Activations, tangent: Layered) -> Layered:
        """J · tangent."""
        return self._through(zip(at.tapes, part.support, strict=True), tangent)

    def _pull(self, part: MetaBatch[Episodes], at: Activations, cotangent: Layered) -> Layered:
        """Jᵀ · cotangent: every factor of J is symmetric, so the factors in reverse order."""
        return self._through(zip(at.tapes[::-1], part.support[::-1], strict=True), cotangent)

    def _through(self, steps: Iterable[tuple[Tape, Episodes]], tangent: Layered) -> Layered:
        if not self.inner.first_order:
            for tape, episodes in steps:
                bent = hessian_product(tape, episodes, self.estimator, tangent)
                tangent = tangent.less(bent, self.inner.lr)
        return tangent


def _first_episodes(part: MetaBatch[Episodes], share: float) -> MetaBatch[Episodes]:
    def first(episodes: Episodes) -> Episodes:
        *by_episode, log_std = episodes
        count = math.ceil(share * len(episodes.mask[0]))
        return Episodes._make([*(each[:, :count] for each in by_episode), log_std])

    return MetaBatch(tuple(first(each) for each in part.support), first(part.query))


def objective(
    arch: Architecture,
    estimator: Estimator,
    inner: InnerUpdate,
    batch: MetaBatch[Episodes],
    like: Params,
    mapper: Mapper = map,
    together: int = 1,
    kept: int | None = None,
    join: Join = alone,
    share: float = 1.0,
) -> Objective:
    """The mean over the meta-batch of the post-update surrogate and KL, with exact derivatives.

    Source: Finn et al. 2017 (arXiv:1703.03400), section 5.3 and equation 4.

    Args:
        arch: the policy's architecture.
        estimator: of the inner loss.
        inner: the inner update; its rate is one constant.
        batch: episodes of M tasks; the curvature is exact at the parameters that collected them.
        like: names and shapes of θ.
        mapper: maps over parts of the tasks; a thread pool's map runs them side by side. Sums are taken
            in task order, so the mapper changes no bit.
        together: tasks that share each batched matrix product. On a CPU 1: the
            compiled kernels take one at a time. On a GPU as many as its memory holds.
        kept: tasks whose activations are kept from product to product, the first ones; those of the
            others are made anew in each, which changes no bit. None: all.
        join: where processes share the tasks, gathers every task's results from them.
        share: of the episodes that Hessian-vector products and preconditioner see, the first of each task. Below 1 they
            are an estimate; loss, KL and gradient stay exact.

    Returns:
        A function of θ as a vector ``[P]``, in the order of ``like``; with a preconditioner.
    """
    cut = chunks(count_tasks(batch), together)
    parts = [take(batch, each) for each in cut]
    seen = parts if share == 1.0 else [_first_episodes(part, share) for part in parts]
    surrogate, most = Surrogate(arch, estimator, inner), count_kept(cut, kept)
    total, ordered = joined_count(batch, join), order(arch, like)
    tasks = _Tasks(surrogate, parts, seen, most, total, like, ordered, mapper, join)
    return Objective(tasks.evaluate, tasks.linearise)


class _Tasks(NamedTuple):
    """A meta-batch in parts, and how what is found for the parts becomes one.

    Attributes:
        seen: what the products see of the parts: the parts themselves, or some of their episodes.
        most: parts whose activations are kept.
        total: M, of all processes.
    """

    surrogate: Surrogate
    parts: list[MetaBatch[Episodes]]
    seen: list[MetaBatch[Episodes]]
    most: int
    total: int
    like: Params
    ordered: Order
    mapper: Mapper
    join: Join

    def evaluate(self, vector: Tensor) -> Outcome:
        """Loss and KL at θ ``[P]``."""
        theta = self.ordered.layers(vector)
        found = self._of_each(lambda index: self.surrogate.evaluate(theta, self.parts[index]))
        return mean_outcome(found, self.join)

    def linearise(self, vector: Tensor) -> Linearisation:
        """Gradient, curvature and preconditioner at θ ``[P]``."""
        theta = self.ordered.layers(vector)
        exact = lambda index: self.surrogate.activations(theta, self.parts[index])  # noqa: E731
        derived = activations = keep_first(exact, self.most)
        if self.seen is not self.parts:
            some = lambda index: self.surrogate.activations(  # noqa: E731
                theta, self.parts[index], self.seen[index]
            )
            derived, activations = exact, keep_first(some, self.most)

        def derive(index: int) -> tuple[Outcome, Layered]:
            at = derived(index)
            return at.query.outcome, self.surrogate.gradient(self.parts[index], at)

        def curvature(tangent: Tensor) -> Tensor:
            direction, product = self.ordered.layers(tangent), self.surrogate.product
            return self._mean(
                self._of_each(
                    lambda index: product(self.seen[index], activations(index), direction)
                )
            )

        def precondition(damping: float) -> Callable[[Tensor], Tensor]:
            factors = self._of_each(lambda index: self.surrogate.factors(activations(index)))
            return kfac.preconditioner(self.surrogate.arch, factors, self.like, damping, self.join)

        outcomes, gradients = zip(*self._of_each(derive), strict=True)
        outcome = mean_outcome(outcomes, self.join)
        return Linearisation(outcome, self._mean(gradients), curvature, precondition)

    def _of_each(self, function: Callable[[int], Found]) -> list[Found]:
        return list(self.mapper(function, range(len(self.parts))))

    def _mean(self, found: Sequence[Layered]) -> Tensor:
        """What was found for every part to its mean over all tasks, ``[P]``."""
        rows = self.join(concatenated(found).rows())
        return self.ordered.vector(rows.sum(0)) / self.total
