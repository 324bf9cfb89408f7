"""Adaptation curves: a measure after 0, 1, ... gradient steps on held-out tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

QUARTILE, RESAMPLES, CONFIDENCE = 0.25, 10_000, 0.95
NORMAL_95 = 1.959964
"""Standard errors in half a 95 % interval."""


class Measure(NamedTuple):
    """A kind of value that adaptation changes.

    Attributes:
        label: of an axis.
        digits: decimals that say something.
        higher_is_better: whether adaptation should raise it.
        data: what it is the mean of: ``episodes`` or ``queries``.
        per: whose data are counted: those of each task, or of each class.
        beside: what is shown beside the mean, keys of ``STATISTICS``; the first is the mean's error.
    """

    label: str
    digits: int
    higher_is_better: bool
    data: str
    per: str
    beside: tuple[str, ...]

    def text(self, value: float) -> str:
        """A value in its decimals."""
        return f"{value:.{self.digits}f}"

    @property
    def error(self) -> Statistic:
        """Of the mean, in tables and figures alike."""
        return STATISTICS[self.beside[0]]


INTERVAL, QUERIES = "half_interval_95", "queries"
MEASURES = {
    "return": Measure("average return", 2, True, "episodes", "task", ("standard_error",)),
    "accuracy": Measure("accuracy", 4, True, QUERIES, "class", (INTERVAL,)),
    "mse": Measure(
        "mean squared error", 3, False, QUERIES, "task", (INTERVAL, "median", "not_finite")
    ),
}


@dataclass(frozen=True, eq=False)
class Curve:
    """One evaluation; S gradient steps, M tasks.

    Attributes:
        title: the environment's id, or the problem in a few words.
        measure: what the values are, a key of ``MEASURES``.
        iteration: meta-iterations trained.
        seed: of tasks and data.
        amount: data of each task at each step: episodes, or query examples (of each class).
        rates: of each gradient step; None: learned ones.
        tasks: the held-out tasks, ``[M, D]``.
        per_task: mean over the data, ``[S + 1, M]``.
        protocol: how they were measured, in words.
        transductive: whether a prediction depends on other query examples; None: nothing is predicted.
    """

    title: str
    measure: str
    iteration: int
    seed: int
    amount: int | None
    rates: tuple[float | None, ...]
    tasks: Array
    per_task: Array
    protocol: str = ""
    transductive: bool | None = None

    @property
    def kind(self) -> Measure:
        """What is known of the measure."""
        return MEASURES[self.measure]

    @property
    def conditions(self) -> str:
        """What decides the level of predictions, in a few words; empty where nothing is predicted."""
        if self.transductive is None:
            return ""
        queries = f"{self.amount} {'query' if self.amount == 1 else 'queries'}"
        kind = "transductive" if self.transductive else "not transductive"
        return f"{queries} of each {self.kind.per}, {kind}"

    def named_beside(self, name: str, curve: Curve) -> str:
        """The name of this reference, and its conditions where they are not those of ``curve``."""
        return name if self.conditions == curve.conditions else f"{name} ({self.conditions})"

    @property
    def steps(self) -> list[int]:
        """0, 1, ..., S."""
        return list(range(len(self.per_task)))

    @property
    def mean(self) -> Array:
        """Mean over tasks, ``[S + 1]``."""
        return self.per_task.mean(axis=1)

    @property
    def standard_error(self) -> Array:
        """Of that mean: sample standard deviation over tasks / √M, ``[S + 1]``; NaN for M = 1."""
        count = self.per_task.shape[1]
        if count == 1:
            return np.full(len(self.per_task), np.nan)
        # A task whose adaptation exploded makes it NaN, which is what is known of it.
        with np.errstate(invalid="ignore"):
            return self.per_task.std(axis=1, ddof=1) / np.sqrt(count)

    @property
    def median(self) -> Array:
        """Median over tasks, ``[S + 1]``: a task whose adaptation explodes does not move it."""
        return np.median(self.per_task, axis=1)

    @property
    def not_finite(self) -> Array:
        """How many tasks have no finite value, ``[S + 1]``."""
        return (~np.isfinite(self.per_task)).sum(axis=1).astype(np.float64)


class Statistic(NamedTuple):
    """What may stand beside the mean over tasks.

    Attributes:
        heading: in a table.
        of: its values, ``[S + 1]``.
        in_words: what is drawn, to be read after "mean".
        counts: it is a number of tasks, not of the measure's kind.
    """

    heading: str
    of: Callable[[Curve], Array]
    in_words: str = ""
    counts: bool = False

    def text(self, curve: Curve, step: int) -> str:
        """Its value after ``step`` gradient steps."""
        value = self.of(curve)[step]
        return f"{value:.0f}" if self.counts else curve.kind.text(value)


STATISTICS = {
    "standard_error": Statistic("s.e.", lambda curve: curve.standard_error, "± s.e."),
    INTERVAL: Statistic(
        "± 95 %", lambda curve: NORMAL_95 * curve.standard_error, "and 95 % interval"
    ),
    "median": Statistic("median", lambda curve: curve.median),
    "not_finite": Statistic("not finite", lambda curve: curve.not_finite, counts=True),
}
"""By their names in ``adaptation.json``."""


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
    means = np.stack([curve.mean for curve in curves], axis=-1)
    count = len(curves)
    if count == 1:
        return Aggregate(means[:, 0], *np.full((2, len(means)), np.nan))
    chosen = rng.integers(count, size=(RESAMPLES, count))
    resampled = interquartile_mean(means[:, chosen])
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, (tail, 1.0 - tail), axis=-1)
    return Aggregate(interquartile_mean(means), low, high)
