"""What the training loop asks of a problem, whether it is reinforcement learning or supervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from metarl.data import Meta, MetaBatch, Params
from metarl.functional.objectives import Objective
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
        self, meta: Meta, tasks: np.ndarray, key: Key
    ) -> tuple[MetaBatch[Any], dict[str, float]]:
        """Support and query data of each task, adapting in between; and what to log of them."""
        ...

    def objective(
        self, meta: Meta, batch: MetaBatch[Any], variant: Variant, iteration: int = 0
    ) -> Objective:
        """The outer objective on ``batch``, a pure function of the meta-parameters.

        ``iteration`` is for what is annealed.
        """
        ...

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        amount: int | None,
        key: Key,
        /,
    ) -> np.ndarray:
        """``measure`` of each task after 0, 1, ... gradient steps.

        Args:
            meta: what was learned.
            tasks: held-out tasks, ``[M, D]``.
            rates: α of each step, or the learned rates.
            amount: of data of each task: episodes, or queries (of each class); None: as in training.
            key: names the random numbers.

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
