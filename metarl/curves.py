"""Adaptation curves: what a policy is worth after 0, 1, ... gradient steps on held-out tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

QUARTILE, RESAMPLES, CONFIDENCE = 0.25, 10_000, 0.95


@dataclass(frozen=True, eq=False)
class Curve:
    """One evaluation; S gradient steps, M tasks.

    Attributes:
        env: the environment's id, or the kind of problem.
        measure: what the values are: ``return``, ``accuracy``, ``mse``.
        iteration: meta-iterations trained.
        seed: of tasks and data.
        episodes: N, of each task at each step; None: the problem's own number of data.
        rates: of each gradient step; None: learned ones.
        tasks: the held-out tasks, ``[M, D]``.
        per_task_return: mean over the episodes, ``[S + 1, M]``.
    """

    env: str
    measure: str
    iteration: int
    seed: int
    episodes: int | None
    rates: tuple[float | None, ...]
    tasks: Array
    per_task_return: Array

    @property
    def steps(self) -> list[int]:
        """0, 1, ..., S."""
        return list(range(len(self.per_task_return)))

    @property
    def mean_return(self) -> Array:
        """Mean over tasks, ``[S + 1]``."""
        return self.per_task_return.mean(axis=1)

    @property
    def standard_error(self) -> Array:
        """Of that mean: sample standard deviation over tasks / √M, ``[S + 1]``; NaN for M = 1."""
        count = self.per_task_return.shape[1]
        if count == 1:
            return np.full(len(self.per_task_return), np.nan)
        return self.per_task_return.std(axis=1, ddof=1) / np.sqrt(count)


class Aggregate(NamedTuple):
    """Several seeds as one: interquartile mean of their means, and its interval, ``[S + 1]``."""

    iqm: Array
    low: Array
    high: Array


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half along the last axis; of all values where there are fewer than four.

    Source: Agarwal et al. 2021 (arXiv:2108.13264), section 4.3.
    """
    cut = int(QUARTILE * values.shape[-1])
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)


def aggregate(curves: Sequence[Curve], rng: np.random.Generator) -> Aggregate:
    """Interquartile mean over seeds with its 95 % percentile-bootstrap interval.

    Args:
        curves: one per seed, of equally many steps.
        rng: draws the resamples of seeds.

    Returns:
        The aggregate; the interval is NaN for a single seed, which says nothing about others.
    """
    means = np.stack([curve.mean_return for curve in curves], axis=-1)
    count = len(curves)
    if count == 1:
        return Aggregate(means[:, 0], *np.full((2, len(means)), np.nan))
    chosen = rng.integers(count, size=(RESAMPLES, count))
    resampled = interquartile_mean(means[:, chosen])
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, (tail, 1.0 - tail), axis=-1)
    return Aggregate(interquartile_mean(means), low, high)
