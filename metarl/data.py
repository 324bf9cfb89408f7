"""The data that flows through metarl. Read this file first.

Letters in the shapes: ``M`` tasks in the meta-batch, ``N`` episodes per task, ``T`` horizon, ``O`` observation size,
``A`` action size. Everything is a ``NamedTuple`` of tensors, so torch treats it as a pytree: it can be mapped, stacked,
moved to a device and handed to ``torch.func.vmap`` as it is.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Params = dict[str, Tensor]
"""Parameters of a network, by name. A value: functions return a new one and never write into one they are given."""


class Meta(NamedTuple):
    """What meta-learning learns.

    Attributes:
        theta: the initial parameters θ that every task adapts from.
        rates: learned inner rates by adapted parameter: of its shape (Meta-SGD), or of ones that broadcast to it, with
            a dimension in front where every step has its own (MAML++); empty when the rate is a constant.
    """

    theta: Params
    rates: Params


class Episodes(NamedTuple):
    """Whole episodes of M tasks, collected by one policy per task.

    Attributes:
        obs: observations before each action, ``[M, N, T, O]``.
        actions: actions as the policy sampled them, not clipped, ``[M, N, T, A]``.
        rewards: undiscounted rewards, zero after an episode's end, ``[M, N, T]``.
        mask: 1 where the step belongs to the episode, 0 after its end, ``[M, N, T]``.
        advantages: standardised per task over the valid steps, zero elsewhere, ``[M, N, T]``.
        values: the baseline in the units of ``advantages``: ``advantages + values`` is the (affinely scaled) return
            to go that the advantage was made from. Only the DiCE estimator reads it. ``[M, N, T]``.
        mean: the behaviour policy's action mean, ``[M, N, T, A]``.
        log_std: the behaviour policy's log standard deviation, ``[M, A]``.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    advantages: Tensor
    values: Tensor
    mean: Tensor
    log_std: Tensor


class Examples(NamedTuple):
    """Labelled examples of M tasks: inputs ``x`` ``[M, N, ...]`` and targets ``y`` ``[M, N, ...]``."""

    x: Tensor
    y: Tensor


Data = TypeVar("Data", Episodes, Examples)


class MetaBatch(NamedTuple, Generic[Data]):
    """The data of one meta-iteration, of one kind.

    Attributes:
        support: the inner losses' data, one entry per inner step k = 0..K-1; in reinforcement learning
            ``support[k]`` was collected by the k-times adapted policies.
        query: the outer loss's data, collected by the K-times adapted policies.
    """

    support: tuple[Data, ...]
    query: Data


class Outcome(NamedTuple):
    """The outer objective, of one task or the mean of several: scalars, or ``[C]`` for a stack of tasks.

    Attributes:
        loss: to minimise.
        kl: from the behaviour policies; 0 where there are none.
        measures: what else to log, by tag.
    """

    loss: Tensor
    kl: Tensor
    measures: dict[str, Tensor] = {}
