"""Meta-reinforcement learning on a family of environments that differ in their task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metarl import memory
from metarl.data import Episodes, Meta, MetaBatch, Params
from metarl.functional import closed_form, objectives
from metarl.functional.adapt import InnerUpdate, inner_step
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.gaussian_mlp import policy_gradient
from metarl.functional.layered import Architecture, layered, named, order
from metarl.functional.objectives import Objective, TaskObjective
from metarl.functional.params import (
    descend,
    flatten_meta,
    for_tasks,
    owned,
    step_gradient,
    unflatten_meta,
)
from metarl.functional.pool import make_pool
from metarl.functional.tasks import Join, Mapper, alone, over_tasks, take
from metarl.kernels import passes
from metarl.nets.gaussian_mlp import GaussianMLP
from metarl.problems import measures
from metarl.problems.credit import Collected, Sampling, credit
from metarl.problems.cutting import Cutter
from metarl.problems.environments import EnvironmentFamily
from metarl.problems.modules import PerThread
from metarl.problems.protocol import LearnRates, Share, Split, Variant, initial_rates
from metarl.problems.samplers import Samplers
from metarl.seeding import Key

MakePolicy = Callable[[int, int, torch.Generator], nn.Module]
"""``(obs_size, action_size, generator) -> policy``, a module ``obs -> (mean, log_std)``."""


class Adaptation(NamedTuple):
    """The inner loop.

    Attributes:
        steps: K.
        update: rate and order of the derivative.
        estimator: name of the inner loss, a key of ``ESTIMATORS``.
        learn_rates: which inner rates are learned, from ``update.lr``.
    """

    steps: int = 1
    update: InnerUpdate = InnerUpdate(0.1)
    estimator: str = "lvc"
    learn_rates: LearnRates = False


class RLProblem:
    """Policy-gradient inner steps, a linear baseline, fresh episodes at every step.

    Args:
        environments: the family of tasks; closed with the problem.
        make_policy: makes the policy. A :class:`GaussianMLP` gets closed-form derivatives and
            batched acting, any other module autograd and vmap.
        sampling: how episodes are sampled and credited.
        adaptation: the inner loop.
        autograd: take derivatives by autograd even where a closed form exists.
        device: of policies and updates.
        threads: Python threads that share the tasks.
        chunk: tasks whose activations (or graphs) an update holds at a time; what the products need of the others is
            made anew in each. On a GPU they also share each matrix product of the closed form; on a CPU a task has
            its own, and the one that a thread is at comes on top. None: as many as fit.
        curvature_share: share of the episodes that the closed form's products see; 1: all.
        dtype: of parameters, data and derivatives.

    Attributes:
        fitting: the same, found by the first update where it was None.
    """

    measure = "return"

    def __init__(
        self,
        environments: EnvironmentFamily,
        make_policy: MakePolicy,
        sampling: Sampling,
        adaptation: Adaptation,
        autograd: bool = False,
        device: str = "cpu",
        threads: int = 1,
        chunk: int | None = None,
        curvature_share: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.environments, self.sampling, self.adaptation = environments, sampling, adaptation
        self.name, self.estimator = environments.env, ESTIMATORS[adaptation.estimator]
        self.device, self.dtype, self.threads = torch.device(device), dtype, threads
        self.chunk = self.fitting = chunk
        self.curvature_share, self.make_policy = curvature_share, make_policy
        self.policy = policy = self._new_policy(0)
        self.arch: Architecture | None = None
        general = autograd or adaptation.learn_rates or adaptation.update.adapted is not None
        if isinstance(policy, GaussianMLP) and not general:
            self.arch = Architecture(len(policy.layers), policy.activation, policy.min_log_std)
        self.pool = pool = make_pool(threads)
        self.mapper: Mapper = pool.map if pool else map
        self.cut = Cutter(self.device, self.mapper, chunk, environments.obs_size, self.policy)
        self._own_policy = PerThread(self.policy)
        apart = pool.apart if pool else map  # the main thread is there for signals
        self.samplers = Samplers(environments, self.act, threads, apart, self.device)

    def initial_meta(self, rng: np.random.Generator) -> Meta:
        """The policy's initial parameters; the constant rate everywhere if rates are learned."""
        policy, row = self._new_policy(int(rng.integers(2**62))), self.adaptation
        theta = {name: value.detach() for name, value in policy.named_parameters()}
        adapted = {name: theta[name] for name in row.update.names(theta)}
        return Meta(theta, initial_rates(adapted, row.learn_rates, row.update.lr, row.steps))

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` tasks, ``[count, D]``; held-out ones differ by their stream alone."""
        return self.environments.sample_tasks(count, rng)

    def collect(
        self, meta: Meta, tasks: np.ndarray, key: Key, share: Share | None = None
    ) -> tuple[MetaBatch[Episodes], dict[str, float]]:
        """K waves of support episodes with adaptation after each, then the query episodes."""
        share = share or Share(0, len(tasks))
        waves, norms = share.agree(lambda: self._waves(meta, tasks[share.rows], key, share.first))
        support = tuple(wave.episodes for wave in waves[:-1])
        measured = share.join(measures.of_each_task(waves, norms))
        return MetaBatch(support, waves[-1].episodes), measures.metrics(measured)

    def _waves(
        self, meta: Meta, tasks: np.ndarray, key: Key, first: int
    ) -> tuple[list[Collected], list[Tensor]]:
        """The waves of a meta-batch's tasks from row ``first`` on, and the inner gradients' norms ``[M]``."""
        params = owned(for_tasks(meta.theta, len(tasks)))
        waves: list[Collected] = []
        norms = []
        for step in range(self.adaptation.steps + 1):
            waves.append(self.wave(params, tasks, key, step, self.sampling.episodes, first))
            if step < self.adaptation.steps:
                before, rates = params, self.adaptation.update.rates(meta, step)
                params = self.adapt(params, waves[-1].episodes, rates)
                norms.append(step_gradient(before, params, rates).norm(dim=1))
        return waves, norms

    def wave(
        self, params: Params, tasks: np.ndarray, key: Key, step: int, episodes: int, first: int = 0
    ) -> Collected:
        """Sample a wave, fit each task's baseline, compute advantages.

        Args:
            params: one policy per task, ``[M, *shape]``.
            tasks: ``[M, D]``.
            key: names the random numbers, with ``step``.
            step: inner step.
            episodes: N.
            first: row of the meta-batch that ``tasks`` begin with.

        Raises:
            EnvironmentFailureError, NonFiniteError: as of :meth:`metarl.sampler.Sampler.wave` and :func:`credit`.
        """
        mapper, parts = self.cut(len(tasks), episodes * self.environments.horizon)
        sampled = self.samplers(len(tasks), episodes).wave(params, tasks, key, step, first)
        place = f"{self.name}, gradient step {step}"
        return credit(sampled, tasks, self.sampling, place, mapper, parts, first)

    def adapt(self, params: Params, episodes: Episodes, rates: float | Params) -> Params:
        """One inner step of every task, without derivatives: ``[M, *shape] -> [M, *shape]``."""

        def step(part: slice) -> Params:
            chosen, data = take(params, part), take(episodes, part)
            if self.arch is not None:
                gradient = policy_gradient(self.arch, layered(self.arch, chosen), data)
                return descend(chosen, named(gradient, chosen), rates)
            loss = objectives.inner_loss(self._act, self.estimator)
            names = self.adaptation.update.names
            update = lambda one, its: inner_step(one, its, loss, rates, names=names)  # noqa: E731
            return over_tasks(update, chosen, data, strategy="loop")

        mapper, parts = self.cut(len(episodes.mask), episodes.mask[0].numel())
        with torch.no_grad():
            results = list(mapper(step, parts))
        return {name: torch.cat([result[name] for result in results]) for name in params}

    def objective(
        self,
        meta: Meta,
        batch: MetaBatch[Episodes],
        variant: Variant,
        iteration: int = 0,
        join: Join = alone,
    ) -> Objective:
        """The outer objective of ``variant`` at a meta-iteration, in closed form where that exists."""
        update = self.adaptation.update.at(iteration)
        if variant != Variant():
            loss = self.task_objective(variant, update)
            return objectives.by_autograd(loss, batch, meta, self.mapper, join=join)
        if self.fitting is None:
            self.fitting = self._tasks_that_fit(meta, batch)
        return self._surrogate(meta, batch, update, self.mapper, self.fitting, join)

    def task_objective(self, variant: Variant, update: InnerUpdate) -> TaskObjective:
        """The objective of one task, for autograd."""
        arguments = self._act, self.estimator, update
        if variant.clip is not None:
            return objectives.clipped_surrogate(*arguments, variant.clip, variant.kl_coefficient)
        if variant.exploration:
            return objectives.exploring_surrogate(*arguments, variant.exploration)
        return objectives.surrogate(*arguments)

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        episodes: int | None,
        key: Key,
        share: Share | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """Mean undiscounted return of each task after each step, on ``episodes`` fresh episodes; see `Problem`."""
        share, count = share or Share(0, len(tasks)), episodes or self.sampling.episodes

        def curve() -> Tensor:
            own, found = tasks[share.rows], []
            params = owned(for_tasks(meta.theta, len(own)))
            for step in range(len(rates) + 1):
                collected = self.wave(params, own, key, step, count, share.first)
                found.append(collected.returns.double().cpu())
                advance(len(own))
                if step < len(rates):
                    params = self.adapt(params, collected.episodes, rates[step])
            return torch.stack(found, dim=1)

        # Row by row in memory, so that means over tasks are summed in one order whoever has the tasks.
        return np.ascontiguousarray(share.join(share.agree(curve)).numpy().T)

    def examples_figure(self, *_: object) -> None:
        """None: an episode is filmed, by :mod:`metarl.render`."""

    def act(self, params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        """M policies at once, without derivatives: ``[M, *shape]``, ``[M, B, O] -> [M, B, A]``, ``[M, A]``."""
        if isinstance(self.policy, GaussianMLP):
            return self.policy.stacked(params, obs, passes.IN_PLACE)
        return over_tasks(self._act, params, obs)

    def close(self) -> None:
        """Close the environments and end the threads."""
        if self.pool:  # first: after a failure or an interruption, threads may still be stepping
            self.samplers.stop()
            self.pool.shutdown()
        self.samplers.close()
        self.environments.example.close()

    def _new_policy(self, seed: int) -> nn.Module:
        env, rng = self.environments, torch.Generator().manual_seed(seed)
        return self.make_policy(env.obs_size, env.action_size, rng).to(self.device, self.dtype)

    def _act(self, params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(self._own_policy(), params, (obs,))

    def _surrogate(
        self,
        meta: Meta,
        batch: MetaBatch[Episodes],
        update: InnerUpdate,
        mapper: Mapper,
        chunk: int,
        join: Join,
    ) -> Objective:
        """TRPO's objective, with the activations of ``chunk`` tasks held at a time."""
        if self.arch is None:
            loss = self.task_objective(Variant(), update)
            return objectives.by_autograd(loss, batch, meta, mapper, kept=chunk, join=join)
        # On a GPU one chunk follows another, and is kept only where there is but one.
        cpu = self.device.type == "cpu"
        kept = chunk if cpu or chunk >= len(batch.query.mask) else 0
        given = self.arch, self.estimator, update, batch, meta.theta
        shared = (mapper, 1) if cpu else (map, chunk)
        return closed_form.objective(*given, *shared, kept, join, self.curvature_share)

    def _tasks_that_fit(self, meta: Meta, batch: MetaBatch[Episodes]) -> int:
        """How many tasks' activations, or graphs, fit in memory, by those of the first."""
        vector, update = flatten_meta(meta), self.adaptation.update
        if self.arch is None:
            task_objective, data = self.task_objective(Variant(), update), take(batch, 0)
            outcome = lambda leaf: task_objective(unflatten_meta(leaf, meta), *data)  # noqa: E731
            held: object = objectives.kl_slope(outcome, vector)
        else:
            surrogate = closed_form.Surrogate(self.arch, self.estimator, update)
            theta = order(self.arch, meta.theta).layers(vector)
            held = surrogate.activations(theta, take(batch, slice(0, 1)))
        return max(1, memory.budget(self.device) // memory.size(held, besides=batch))
