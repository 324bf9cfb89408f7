"""Supervised losses and measures, of C tasks at once: ``(predictions [C, N, ...], targets [C, N, ...]) -> [C]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Criterion = Callable[[Tensor, Tensor], Tensor]
"""``(predictions, targets) -> [C]``, the mean over each task's examples."""


class Loss(NamedTuple):
    """A loss and what is reported of it.

    Attributes:
        loss: to minimise.
        measure: name of what an adaptation curve shows.
        score: its value.
    """

    loss: Criterion
    measure: str
    score: Criterion


def mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """(1/n) Σ (f(x) − y)², over examples and outputs: both ``[C, N, ...]``."""
    return (predictions - targets).square().flatten(1).mean(-1)


def cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """−(1/N) Σ log softmax(f(x))_y, of logits ``[C, N, K]`` and class numbers ``[C, N]``."""
    log_likelihood = predictions.log_softmax(-1).gather(-1, targets.unsqueeze(-1))
    return -log_likelihood.squeeze(-1).mean(-1)


def accuracy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest logit ``[C, N, K]`` is that of their class ``[C, N]``; NaN where a logit is."""
    best, numbers = predictions.max(-1)
    return torch.where(best.isnan(), best, (numbers == targets).to(best.dtype)).mean(-1)


LOSSES = {
    "mse": Loss(mean_squared_error, "mse", mean_squared_error),
    "cross_entropy": Loss(cross_entropy, "accuracy", accuracy),
}
