"""Learners of an embedding, the references that MAML is compared with: metric learners, and classifiers of all classes.

Training knows no inner loop: it learns to compare, or to tell all training classes apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional import comparison
from metarl.functional.adapt import InnerUpdate
from metarl.functional.comparison import METRICS
from metarl.functional.few_shot import Network, Rule
from metarl.functional.losses import Loss
from metarl.functional.objectives import StackedObjective
from metarl.problems.learners import Draw, stepwise
from metarl.problems.protocol import Variant


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
        return stepwise(rule, meta.theta | new, support, x, rates)
