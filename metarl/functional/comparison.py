"""Metric learners, of C tasks at once: query examples are compared with the support in a learned embedding.

Nothing is adapted; what a task teaches is where its support lies. Support and query are embedded as one batch, as in
the authors' code of prototypical networks, so that a network that normalises by its batch treats both alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.data import Examples, Meta, MetaBatch, Outcome, Params
from metarl.functional.few_shot import Network, measured
from metarl.functional.losses import Loss
from metarl.functional.params import for_tasks
from metarl.functional.tasks import count_tasks

WEIGHT, BIAS = "comparison.weight", "comparison.bias"
"""Names of the parameters ``[O, D]`` and ``[O]`` that a learner has beside its embedding, where it has any."""


class Metric(NamedTuple):
    """A row of the table of metric learners. Embedded examples are ``Examples(features [C, n, D], classes [C, n])``.

    Attributes:
        logits: ``(parameters, embedded support, query features [C, Q, D]) -> [C, Q, N]``, one for each class.
        losses: ``(parameters, embedded support, embedded query) -> [C]``; None: the loss of the logits.
    """

    logits: Callable[[Params, Examples, Tensor], Tensor]
    losses: Callable[[Params, Examples, Examples], Tensor] | None = None


def prototypical(_: Params, support: Examples, query: Tensor) -> Tensor:
    """−‖f(x) − c_k‖², c_k the mean of the support of class k: logits of prototypical networks.

    Source: Snell, Swersky & Zemel 2017 (arXiv:1703.05175), equations 1 and 2.
    """
    members = _members(support).to(query.dtype)
    prototypes = members.mT @ support.x / members.sum(1).unsqueeze(-1)
    return -(query.unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(-1)


def matching(_: Params, support: Examples, query: Tensor) -> Tensor:
    """log Σ_{i of class k} a_i, a the softmax over the support of cos(f(x), f(x_i)): matching networks.

    Without full-context embeddings: f depends on the example alone.

    Source: Vinyals et al. 2016 (arXiv:1606.04080), equation 1 and section 2.1.1.
    """
    attention = _cosines(support.x, query).softmax(-1)
    # A cosine is within ±1, so no class has a share of 0.
    return (attention @ _members(support).to(query.dtype)).log()


def siamese(params: Params, support: Examples, query: Tensor) -> Tensor:
    """The largest pair logit of every class: the most similar of the support decides, as for one shot in the paper.

    Source: Koch, Zemel & Salakhutdinov 2015, section 4.3.
    """
    return _nearest(support, _pairs(params, support, query))


def same_or_different(params: Params, support: Examples, query: Examples) -> Tensor:
    """Cross-entropy of p = σ(Σ_j α_j |f_j(x) − f_j(x_i)| + b) over all pairs of query and support.

    Pairs of one class and pairs of two weigh one half each, as in the paper, which draws as many of either. Its L2
    penalty and affine distortions are left out.

    Source: Koch, Zemel & Salakhutdinov 2015, sections 3.1 and 3.2; the balance: section 4.2.
    """
    logits = _pairs(params, support, query.x)
    same = query.y.unsqueeze(-1) == support.y.unsqueeze(-2)
    costs = functional.softplus(torch.where(same, -logits, logits))
    alike, unlike = ((costs * which).sum((1, 2)) / which.sum((1, 2)) for which in (same, ~same))
    return 0.5 * (alike + unlike)


def nearest_neighbour(_: Params, support: Examples, query: Tensor) -> Tensor:
    """The largest cosine of every class: the class of the nearest of the support, in features learned elsewhere.

    Source: Vinyals et al. 2016, section 4.1, and Ravi & Larochelle 2017, section 5 (baselines).
    """
    return _nearest(support, _cosines(support.x, query))


METRICS = {
    "prototypical": Metric(prototypical),
    "matching": Metric(matching),
    "siamese": Metric(siamese, same_or_different),
    "nearest_neighbour": Metric(nearest_neighbour),
}


def class_logits(
    network: Network, metric: Metric, meta: Meta, support: Examples, x: Tensor
) -> Tensor:
    """Logits of the classes of each task at ``x`` ``[C, Q, ...]``, given its support: ``[C, Q, N]``."""
    params = for_tasks(meta.theta, len(x))
    embedded, query = _embedded(network, params, support, x)
    return metric.logits(params, embedded, query)


def episodes(
    network: Network, metric: Metric, loss: Loss
) -> Callable[[Meta, MetaBatch[Examples]], Outcome]:
    """The outer objective: the loss of the query given the support.

    Args:
        network: the embedding f.
        metric: compares with the support.
        loss: of logits and classes.

    Returns:
        The objective of C tasks: their losses ``[C]``, a KL of 0, what is logged.
    """

    def objective(meta: Meta, part: MetaBatch[Examples]) -> Outcome:
        params, query = for_tasks(meta.theta, count_tasks(part)), part.query
        (support,) = part.support
        embedded, features = _embedded(network, params, support, query.x)
        logits = metric.logits(params, embedded, features)
        if metric.losses is None:
            losses = loss.loss(logits, query.y)
        else:
            losses = metric.losses(params, embedded, query._replace(x=features))
        found = measured(loss, logits, query, losses, "post")
        return Outcome(losses, torch.zeros_like(losses), found)

    return objective


def joint_classes(network: Network, loss: Loss) -> Callable[[Meta, MetaBatch[Examples]], Outcome]:
    """The loss of a linear layer on the features that tells all training classes apart, without regard to tasks.

    Args:
        network: the embedding.
        loss: of logits ``[C, Q, O]`` and the numbers of the classes among all O.

    Returns:
        The objective of C tasks, as of `episodes`.
    """

    def objective(meta: Meta, part: MetaBatch[Examples]) -> Outcome:
        params, query = for_tasks(meta.theta, count_tasks(part)), part.query
        logits = classifier(network)(params, query.x)
        losses = loss.loss(logits, query.y)
        found = measured(loss, logits, query, losses, "post")
        return Outcome(losses, torch.zeros_like(losses), found)

    return objective


def classifier(network: Network) -> Network:
    """A linear layer, ``WEIGHT`` and ``BIAS``, on the embedding: ``[C, n, ...] -> [C, n, O]``."""
    return lambda params, x: _linear(params, network(_embedding(params), x))


def _embedded(
    network: Network, params: Params, support: Examples, x: Tensor
) -> tuple[Examples, Tensor]:
    """The support and ``x`` in the embedding, as one batch."""
    shots = support.y.shape[1]
    features = network(_embedding(params), torch.cat([support.x, x], dim=1))
    return support._replace(x=features[:, :shots]), features[:, shots:]


def _embedding(params: Params) -> Params:
    return {name: value for name, value in params.items() if name not in (WEIGHT, BIAS)}


def _linear(params: Params, x: Tensor) -> Tensor:
    """The learner's own layer: ``[C, n, D] -> [C, n, O]``."""
    return torch.baddbmm(params[BIAS].unsqueeze(1), x, params[WEIGHT].mT)


def _pairs(params: Params, support: Examples, query: Tensor) -> Tensor:
    """Σ_j α_j |f_j(x) − f_j(x_i)| + b of all pairs, ``[C, Q, S]``."""
    gaps = (query.unsqueeze(2) - support.x.unsqueeze(1)).abs()
    return _linear(params, gaps.flatten(1, 2)).reshape(gaps.shape[:-1])


def _cosines(support: Tensor, query: Tensor) -> Tensor:
    """``[C, S, D]``, ``[C, Q, D] -> [C, Q, S]``."""
    return functional.normalize(query, dim=-1) @ functional.normalize(support, dim=-1).mT


def _members(support: Examples) -> Tensor:
    """Whether an example of the support is of a class, ``[C, S, N]``; classes are numbered from 0."""
    return functional.one_hot(support.y).bool()


def _nearest(support: Examples, similarity: Tensor) -> Tensor:
    """The largest similarity of each class, ``[C, Q, S] -> [C, Q, N]``."""
    others = ~_members(support).unsqueeze(1)
    return similarity.unsqueeze(-1).masked_fill(others, -torch.inf).amax(2)
