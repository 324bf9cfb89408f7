"""Supervised outer objectives of C tasks at once: what a candidate initialisation is worth after adaptation.

The rows of :class:`Rule` are MAML, MAML++ and Reptile; those of :class:`metarl.functional.adapt.InnerUpdate` apply to
each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.data import Examples, Meta, MetaBatch, Outcome, Params
from metarl.functional.adapt import InnerUpdate, stacked_step
from metarl.functional.losses import Loss
from metarl.functional.params import for_tasks
from metarl.functional.tasks import count_tasks

Network = Callable[[Params, Tensor], Tensor]
"""``(parameters [C, *shape], x [C, N, ...]) -> predictions [C, N, ...]``, each task by its own parameters."""

LEAST_WEIGHT = 0.03
"""Of every step but the last while several count, as a share of an even weight (in the authors' code of MAML++)."""


class Adapts(Protocol):
    """A way to adapt to tasks, step by step."""

    @property
    def loss(self) -> Loss:
        """Of support and query."""
        ...

    def predict(self, params: Params, x: Tensor, step: int) -> Tensor:
        """The network after ``step`` inner steps."""
        ...

    def trajectory(self, meta: Meta, part: MetaBatch[Examples]) -> Iterator[Params]:
        """The parameters of each task after 0, 1, ... inner steps, one for each entry of the support."""
        ...


class Rule(NamedTuple):
    """How tasks are adapted to, and what for.

    Attributes:
        network: what is adapted.
        loss: of support and query.
        update: the inner update.
        per_step: names of the parameters of which every step has its own, ``[K + 1, *shape]``; never adapted.
    """

    network: Network
    loss: Loss
    update: InnerUpdate
    per_step: frozenset[str] = frozenset()

    def predict(self, params: Params, x: Tensor, step: int) -> Tensor:
        """The network after ``step`` inner steps; steps beyond K take the last of what each step has."""
        own = {
            name: params[name][:, min(step, params[name].shape[1] - 1)] for name in self.per_step
        }
        return self.network(params | own, x)

    def losses(self, params: Params, data: Examples, step: int) -> Tensor:
        """Of each task, ``[C]``."""
        return self.loss.loss(self.predict(params, data.x, step), data.y)

    def step(self, params: Params, index: int, data: Examples, rates: float | Params) -> Params:
        """Inner step ``index`` of C tasks, with ``rates``."""
        return stacked_step(
            *(params, data, lambda own, its: self.losses(own, its, index), rates),
            *(self.update.first_order, self._names),
        )

    def trajectory(self, meta: Meta, part: MetaBatch[Examples]) -> Iterator[Params]:
        """θ for each task, then φ after every inner step: K + 1 times ``[C, *shape]``."""
        params = for_tasks(meta.theta, count_tasks(part))
        yield params
        for index, data in enumerate(part.support):
            params = self.step(params, index, data, self.update.rates(meta, index))
            yield params

    def _names(self, params: Params) -> list[str]:
        return [name for name in self.update.names(params) if name not in self.per_step]


def step_weights(steps: int, progress: float) -> list[float]:
    """Weights of the query loss after 0, 1, ..., K inner steps; they sum to 1.

    Until ``progress`` is 1, w_k = max((1 − progress) / K, 0.03 / K) for 1 ≤ k < K and the last takes the rest: even
    weights at first, nearly all on the last step in the end. From then on the last step alone counts, as in MAML.

    Source: Antoniou et al. 2019 (arXiv:1810.09502), section 4 (multi-step loss); floor: the authors' code.

    Args:
        steps: K; for K = 0 the untouched parameters count.
        progress: 0 at the start, 1 or more when the annealing is over.
    """
    if progress >= 1.0 or steps <= 1:
        return [0.0] * steps + [1.0]
    early = max(1.0 - progress, LEAST_WEIGHT) / steps
    return [0.0] + [early] * (steps - 1) + [1.0 - (steps - 1) * early]


def post_update(
    rule: Adapts, weights: list[float]
) -> Callable[[Meta, MetaBatch[Examples]], Outcome]:
    """Σ_k w_k · L(φ_k; query): MAML's objective where the last step has all the weight, MAML++'s multi-step loss else.

    Source: Finn et al. 2017 (arXiv:1703.03400), equation 1 and algorithm 2; Antoniou et al. 2019, equation 4.

    Args:
        rule: how to adapt.
        weights: of the query loss after 0 to K steps.

    Returns:
        The objective of C tasks: their losses ``[C]``, a KL of 0, what is logged before and after.
    """

    def objective(meta: Meta, part: MetaBatch[Examples]) -> Outcome:
        found: list[Tensor] = []
        for step, params in enumerate(rule.trajectory(meta, part)):
            if weights[step] == 0.0 and step > 0:
                continue
            with torch.set_grad_enabled(weights[step] > 0.0 and torch.is_grad_enabled()):
                predictions = rule.predict(params, part.query.x, step)
                losses = rule.loss.loss(predictions, part.query.y)
            if step == 0:
                measures = measured(rule.loss, predictions, part.query, losses, "pre")
            if weights[step] > 0.0:
                found.append(weights[step] * losses)
        measures |= measured(rule.loss, predictions, part.query, losses, "post")
        return Outcome(torch.stack(found).sum(0), torch.zeros_like(losses), measures)

    return objective


def reptile(rule: Rule) -> Callable[[Meta, MetaBatch[Examples]], Outcome]:
    """½‖θ − sg(φ_K)‖², whose gradient is θ − φ_K: a step towards the adapted parameters. No query is learned from.

    Source: Nichol, Achiam & Schulman 2018 (arXiv:1803.02999), algorithm 2.

    Args:
        rule: how to adapt; its order makes no difference.

    Returns:
        The objective of C tasks, as of `post_update`.
    """
    rule = rule._replace(update=rule.update._replace(first_order=True))

    def objective(meta: Meta, part: MetaBatch[Examples]) -> Outcome:
        with torch.no_grad():
            path = list(rule.trajectory(meta, part))
            measures: dict[str, Tensor] = {}
            for step, name in ((0, "pre"), (len(path) - 1, "post")):
                predictions = rule.predict(path[step], part.query.x, step)
                losses = rule.loss.loss(predictions, part.query.y)
                measures |= measured(rule.loss, predictions, part.query, losses, name)
        gaps = [(meta.theta[name] - path[-1][name]).flatten(1) for name in meta.theta]
        return Outcome(
            0.5 * torch.cat(gaps, dim=1).square().sum(-1), torch.zeros_like(losses), measures
        )

    return objective


def measured(
    loss: Loss, predictions: Tensor, query: Examples, losses: Tensor, when: str
) -> dict[str, Tensor]:
    """What is logged of the predictions before (``pre``) or after (``post``) the support is seen, by tag: ``[C]``."""
    found = {f"loss/{when}": losses.detach()}
    if loss.score is not loss.loss:
        found[f"{loss.measure}/{when}"] = loss.score(predictions.detach(), query.y)
    return found
