"""What the training loop asks of a problem, whether it is reinforcement learning or supervised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from metarl.data import Meta, MetaBatch, Params
from metarl.functional.objectives import Objective
from metarl.functional.tasks import Join, alone
from metarl.seeding import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Variant(NamedTuple):
    """Which outer objective: a row of settings.

    Attributes:
        exploration: weight of E-MAML's exploration term.
        clip: ProMP's clip range ε; None is the plain surrogate.
        kl_coefficient: ProMP's weight η of the inner KL.
        reptile: Reptile's distance to the adapted parameters.
    """

    exploration: float = 0.0
    clip: float | None = None
    kl_coefficient: float = 0.0
    reptile: bool = False


Split = Literal["train", "validation", "test"]
"""What tasks are for: to learn from, to watch and choose by on the way, or to report results on."""

LearnRates = Literal[False, True, "layer", "layer_step"]
"""Which inner rates are learned: none, one for every number (Meta-SGD), for every tensor, for every tensor and step."""


def initial_rates(params: Params, learn: LearnRates, lr: float, steps: int) -> Params:
    """The rates that are learned, at their first value.

    Source: Li et al. 2017 (arXiv:1707.09835), algorithm 1 (Meta-SGD); Antoniou et al. 2019 (arXiv:1810.09502),
    section 4 (rates per layer and step).

    Args:
        params: the adapted parameters.
        learn: which.
        lr: the first value.
        steps: K.

    Returns:
        By name: of the parameter's shape, of ones in its place, or ``[K, 1, ...]``; empty where none is learned.
    """
    if learn is False:
        return {}
    if learn is True:
        return {name: torch.full_like(value, lr) for name, value in params.items()}
    lead = (steps,) if learn == "layer_step" else ()
    return {
        name: value.new_full((*lead, *(1 for _ in value.shape)), lr)
        for name, value in params.items()
    }


Found = TypeVar("Found")


class Share:
    """The part of a meta-batch that this process computes, and how it comes by the rest.

    This one is that of a process which has all the tasks; :class:`metarl.distributed.sharing.RankShare` is one of
    several.

    Args:
        first: row of the meta-batch that the part begins with.
        count: its tasks, at least one.
    """

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    @property
    def rows(self) -> slice:
        """Its place in the meta-batch."""
        return slice(self.first, self.first + self.count)

    def join(self, tree: Any) -> Any:
        """Every leaf's rows of all processes, in task order: ``[rows here, ...] -> [rows, ...]``."""
        return tree

    def agree(self, work: Callable[[], Found]) -> Found:
        """What ``work`` returns; a NonFiniteError in any process is raised in all. It must not `join`."""
        return work()

    def keep(self, left: Sequence[int]) -> tuple[list[int], Share]:
        """Leave tasks out.

        Args:
            left: rows of the meta-batch that stay, in order.

        Returns:
            Which rows of this process's data stay, and the share of what is left.
        """
        return list(left), Share(0, len(left))


class Problem(Protocol):
    """A distribution over tasks, with a way to collect their data and a loss.

    Attributes:
        measure: what an adaptation curve shows: ``return``, ``accuracy``, ``mse``.
        name: what messages call it, such as the environment's id.
    """

    measure: str
    name: str

    def initial_meta(self, rng: np.random.Generator) -> Meta:
        """The untrained meta-parameters."""
        ...

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` tasks as rows of floats, ``[count, D]``, of a split, or told apart by their stream alone."""
        ...

    def collect(
        self, meta: Meta, tasks: np.ndarray, key: Key, share: Share | None = None
    ) -> tuple[MetaBatch[Any], dict[str, float]]:
        """Support and query data of the share's tasks, adapting in between.

        Args:
            meta: what was learned so far.
            tasks: of the whole meta-batch, ``[M, D]``.
            key: names the random numbers.
            share: the tasks whose data are collected here; None: all.

        Returns:
            Their data, with a leading task axis, and what to log of all ``tasks``, by tag.

        Raises:
            NonFiniteError: a number of some task is NaN or infinite.
        """
        ...

    def objective(
        self,
        meta: Meta,
        batch: MetaBatch[Any],
        variant: Variant,
        iteration: int = 0,
        join: Join = alone,
    ) -> Objective:
        """The outer objective, a pure function of the meta-parameters.

        Args:
            meta: names and shapes.
            batch: data of the tasks that this process has.
            variant: which one.
            iteration: for what is annealed.
            join: gathers the results of the other tasks.
        """
        ...

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        amount: int | None,
        key: Key,
        share: Share | None = None,
        advance: Callable[[int], None] = lambda count: None,
        /,
    ) -> np.ndarray:
        """``measure`` of each task after 0, 1, ... gradient steps.

        Args:
            meta: what was learned.
            tasks: held-out tasks, ``[M, D]``.
            rates: α of each step, or the learned rates.
            amount: of data of each task: episodes, or queries (of each class); None: as in training.
            key: names the random numbers.
            share: the tasks that are adapted to here; None: all.
            advance: told how many more of the numbers that are returned have been found.

        Returns:
            ``[steps + 1, M]``.
        """
        ...

    def examples_figure(
        self, meta: Meta, tasks: np.ndarray, rates: Sequence[float | Params], key: Key
    ) -> Figure | None:
        """A picture of a few held-out tasks before and after adaptation; None where there is none to draw."""
        ...

    def close(self) -> None:
        """Give back environments and threads."""
        ...
