"""How a task's support changes what is predicted at its query: by gradient steps, by comparison, or by a learned rule.

A learner is a row of settings, and what follows from them for initial parameters, data, objective and predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional import comparison, few_shot, meta_lstm
from metarl.functional.adapt import InnerUpdate
from metarl.functional.comparison import METRICS
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
        return _stepwise(rule, meta.theta, support, x, rates)


def _stepwise(
    rule: Rule, theta: Params, support: Examples, x: Tensor, rates: Sequence[float | Params]
) -> list[Tensor]:
    """Predictions at ``x`` after 0, 1, ... steps from ``theta``, one for each of the rates; no derivatives."""
    found = []
    with torch.no_grad():
        params = for_tasks(theta, len(x))
        for step in range(len(rates) + 1):
            found.append(rule.predict(params, x, step))
            if step < len(rates):
                params = rule.step(params, step, support, rates[step])
    return found


class JointClasses(NamedTuple):
    """The classes of training, all at once.

    Attributes:
        total: how many.
        numbers: of the tasks' classes among them, ``[M, D] -> [M, N]``.
    """

    total: int
    numbers: Callable[[np.ndarray], np.ndarray]


class Comparison(NamedTuple):
    """A metric learner: the network is an embedding, and no gradient steps are taken.

    Attributes:
        metric: a key of ``METRICS``.
        features: D of the embedding; needed where a layer of the learner's own reads it: by ``siamese``, or with joint
            classes.
        joint: train a classifier of all these classes, and compare its features: with ``nearest_neighbour`` the
            baseline of Ravi & Larochelle 2017 (section 5), which Finn et al. 2017 quote. None: train by episodes.
    """

    metric: str
    features: int = 0
    joint: JointClasses | None = None

    def initial_meta(self, theta: Params, generator: torch.Generator) -> Meta:
        """The embedding; pairs whose differences count against them, all alike; no preference among joint classes."""
        like = next(iter(theta.values()))
        if self.joint:
            weight = like.new_zeros(self.joint.total, self.features)
        elif METRICS[self.metric].losses:
            weight = like.new_full((1, self.features), -(self.features**-0.5))
        else:
            return Meta(theta, {})
        bias = like.new_zeros(len(weight))
        return Meta(theta | {comparison.WEIGHT: weight, comparison.BIAS: bias}, {})

    def collect(self, tasks: np.ndarray, draw: Draw) -> MetaBatch[Examples]:
        """One support set; of joint classes, support and query are examples alike, by their numbers among all."""
        support, query = draw(0)
        if self.joint is None:
            return MetaBatch((support,), query)
        x, y = (torch.cat(parts, dim=1) for parts in zip(support, query, strict=True))
        numbers = torch.as_tensor(self.joint.numbers(tasks), device=y.device)
        return MetaBatch((), Examples(x, numbers.gather(1, y)))

    def objective(
        self, network: Network, loss: Loss, variant: Variant, iteration: int
    ) -> StackedObjective:
        """The loss of the query given the support, or that of the classifier."""
        if self.joint:
            return comparison.joint_classes(network, loss)
        return comparison.episodes(network, METRICS[self.metric], loss)

    def predictions(
        self,
        network: Network,
        loss: Loss,
        meta: Meta,
        support: Examples,
        x: Tensor,
        rates: Sequence[float | Params],
    ) -> list[Tensor]:
        """One: there are no steps to take."""
        with torch.no_grad():
            return [comparison.class_logits(network, METRICS[self.metric], meta, support, x)]


class FineTuning(NamedTuple):
    """A classifier of all training classes; a task takes its embedding, puts a new last layer on it, and trains both.

    The new layer begins at 0: no class is preferred.

    Source: Ravi & Larochelle 2017 (OpenReview rJY0-Kcll), section 5 (Baseline-finetune), which Finn et al. 2017 quote.

    Attributes:
        classifier: `Comparison` with joint classes, as it is trained.
        ways: N, classes of a task.
        update: rate of the steps, and which parameters they change.
    """

    classifier: Comparison
    ways: int
    update: InnerUpdate

    def initial_meta(self, theta: Params, generator: torch.Generator) -> Meta:
        """The classifier's."""
        return self.classifier.initial_meta(theta, generator)

    def collect(self, tasks: np.ndarray, draw: Draw) -> MetaBatch[Examples]:
        """Examples of training classes, by their numbers among all."""
        return self.classifier.collect(tasks, draw)

    def objective(
        self, network: Network, loss: Loss, variant: Variant, iteration: int
    ) -> StackedObjective:
        """The classifier's loss."""
        return self.classifier.objective(network, loss, variant, iteration)

    def predictions(
        self,
        network: Network,
        loss: Loss,
        meta: Meta,
        support: Examples,
        x: Tensor,
        rates: Sequence[float | Params],
    ) -> list[Tensor]:
        """One for every step and one before the first, which knows nothing."""
        weight = meta.theta[comparison.WEIGHT]
        new = {
            comparison.WEIGHT: weight.new_zeros(self.ways, weight.shape[1]),
            comparison.BIAS: weight.new_zeros(self.ways),
        }
        rule = Rule(comparison.classifier(network), loss, self.update)
        return _stepwise(rule, meta.theta | new, support, x, rates)


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
