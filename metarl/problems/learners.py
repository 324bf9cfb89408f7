"""How a task's support changes what is predicted at its query: by gradient steps, or by a learned rule.

A learner is a row of settings, and what follows from them for initial parameters, data, objective and predictions.
Those that learn an embedding are in :mod:`metarl.problems.embedding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional import few_shot, meta_lstm
from metarl.functional.adapt import InnerUpdate
from metarl.functional.few_shot import Network, Rule
from metarl.functional.losses import Loss
from metarl.functional.objectives import StackedObjective
from metarl.functional.params import for_tasks
from metarl.problems.protocol import LearnRates, Variant, initial_rates

Draw = Callable[[int], tuple[Examples, Examples]]
"""Support and query of the tasks, ``[M, N, ...]``; draw 0 is the one whose query counts."""


class Learner(Protocol):
    """How a task's support changes what is predicted at its query."""

    def initial_meta(self, theta: Params, generator: torch.Generator) -> Meta:
        """All that is learned, at first; ``theta`` is the untrained network's."""
        ...

    def collect(self, tasks: np.ndarray, draw: Draw) -> MetaBatch[Examples]:
        """What an iteration learns from."""
        ...

    def objective(
        self, network: Network, loss: Loss, variant: Variant, iteration: int
    ) -> StackedObjective:
        """The outer objective of C tasks at a meta-iteration."""
        ...

    def predictions(
        self,
        network: Network,
        loss: Loss,
        meta: Meta,
        support: Examples,
        x: Tensor,
        rates: Sequence[float | Params],
    ) -> list[Tensor]:
        """Predictions at ``x`` ``[C, N, ...]`` after 0, 1, ... gradient steps on ``support``; no derivatives."""
        ...


class Adaptation(NamedTuple):
    """The inner loop.

    Attributes:
        steps: K.
        update: rates, derivative order and adapted parameters.
        learn_rates: which inner rates are learned, from ``update.lr``.
        fresh_support: every inner step of training has examples of its own (Reptile's batches).
        multi_step_until: iteration until which the query loss of every step counts (MAML++); 0: never.
        per_step: parameters of which every step has its own, which are not adapted (MAML++'s normalisation).
    """

    steps: int = 1
    update: InnerUpdate = InnerUpdate(0.01)
    learn_rates: LearnRates = False
    fresh_support: bool = False
    multi_step_until: int = 0
    per_step: frozenset[str] = frozenset()

    def initial_meta(self, theta: Params, generator: torch.Generator) -> Meta:
        """The parameters, repeated for the steps that have their own; initial rates."""
        repeated = {
            name: value.expand(self.steps + 1, *value.shape).clone()
            for name, value in theta.items()
            if name in self.per_step
        }
        theta = theta | repeated
        adapted = [name for name in self.update.names(theta) if name not in self.per_step]
        rates = initial_rates(
            {name: theta[name] for name in adapted}, self.learn_rates, self.update.lr, self.steps
        )
        return Meta(theta, rates)

    def collect(self, tasks: np.ndarray, draw: Draw) -> MetaBatch[Examples]:
        """Support is the same in every inner step unless it is to be fresh."""
        support, query = draw(0)
        steps = [support] * self.steps
        if self.fresh_support:
            steps[1:] = [draw(index)[0] for index in range(1, self.steps)]
        return MetaBatch(tuple(steps), query)

    def objective(
        self, network: Network, loss: Loss, variant: Variant, iteration: int
    ) -> StackedObjective:
        """MAML's, MAML++'s or Reptile's."""
        rule = Rule(network, loss, self.update.at(iteration), self.per_step)
        if variant.reptile:
            return few_shot.reptile(rule)
        progress = iteration / self.multi_step_until if self.multi_step_until else 1.0
        return few_shot.post_update(rule, few_shot.step_weights(self.steps, progress))

    def predictions(
        self,
        network: Network,
        loss: Loss,
        meta: Meta,
        support: Examples,
        x: Tensor,
        rates: Sequence[float | Params],
    ) -> list[Tensor]:
        """One for every step and one before the first."""
        rule = Rule(network, loss, self.update, self.per_step)
        return stepwise(rule, meta.theta, support, x, rates)


def stepwise(
    rule: Rule, theta: Params, support: Examples, x: Tensor, rates: Sequence[float | Params]
) -> list[Tensor]:
    """Predictions after 0, 1, ... gradient steps from the same parameters; no derivatives.

    Args:
        rule: how to adapt.
        theta: θ, ``[*shape]``.
        support: of C tasks, ``[C, N, ...]``.
        x: where to predict, ``[C, Q, ...]``.
        rates: of each step.

    Returns:
        One more than there are rates, ``[C, Q, ...]`` each.
    """
    found = []
    with torch.no_grad():
        params = for_tasks(theta, len(x))
        for step in range(len(rates) + 1):
            found.append(rule.predict(params, x, step))
            if step < len(rates):
                params = rule.step(params, step, support, rates[step])
    return found


class MetaLSTM(NamedTuple):
    """An inner update that is learned as a whole, from the network's untrained parameters on.

    Source: Ravi & Larochelle 2017 (OpenReview rJY0-Kcll); the cell's first values: its authors' code.

    Attributes:
        steps: K.
        hidden_size: H of the cell.
    """

    steps: int = 5
    hidden_size: int = 20

    def initial_meta(self, theta: Params, generator: torch.Generator) -> Meta:
        """Small weights, and gates that begin as gradient descent of a small rate that forgets next to nothing."""
        ranges = {"forget.bias": (4.0, 6.0), "rate.bias": (-5.0, -4.0)}
        like, own = next(iter(theta.values())), {}
        for name, shape in meta_lstm.shapes(self.hidden_size).items():
            value = torch.empty(shape, dtype=like.dtype)
            value.uniform_(*ranges.get(name, (-0.01, 0.01)), generator=generator)
            own[meta_lstm.PREFIX + name] = value.to(like.device)
        return Meta(theta | own, {})

    def collect(self, tasks: np.ndarray, draw: Draw) -> MetaBatch[Examples]:
        """Support is the same in every step."""
        support, query = draw(0)
        return MetaBatch((support,) * self.steps, query)

    def objective(
        self, network: Network, loss: Loss, variant: Variant, iteration: int
    ) -> StackedObjective:
        """The loss of the query after the last step."""
        weights = few_shot.step_weights(self.steps, 1.0)
        return few_shot.post_update(meta_lstm.Cell(network, loss), weights)

    def predictions(
        self,
        network: Network,
        loss: Loss,
        meta: Meta,
        support: Examples,
        x: Tensor,
        rates: Sequence[float | Params],
    ) -> list[Tensor]:
        """One for every step and one before the first; how far each goes, the cell says."""
        cell, part = meta_lstm.Cell(network, loss), MetaBatch((support,) * len(rates), support)
        with torch.no_grad():
            path = enumerate(cell.trajectory(meta, part))
            return [cell.predict(params, x, step) for step, params in path]
