"""What the training loop asks of a problem, whether it is reinforcement learning or supervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from metarl.data import Meta, MetaBatch, Params
from metarl.functional.objectives import Objective
from metarl.seeding import Key


class Variant(NamedTuple):
    """Which outer objective: a row of settings.

    Attributes:
        exploration: weight of E-MAML's exploration term.
        clip: ProMP's clip range ε; None is the plain surrogate.
        kl_coefficient: ProMP's weight η of the inner KL.
    """

    exploration: float = 0.0
    clip: float | None = None
    kl_coefficient: float = 0.0


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

    def sample_tasks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` tasks as rows of floats, ``[count, D]``."""
        ...

    def collect(
        self, meta: Meta, tasks: np.ndarray, key: Key
    ) -> tuple[MetaBatch[Any], dict[str, float]]:
        """Support and query data of each task, adapting in between; and what to log of them."""
        ...

    def objective(self, meta: Meta, batch: MetaBatch[Any], variant: Variant) -> Objective:
        """The outer objective on ``batch``, a pure function of the meta-parameters."""
        ...

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        episodes: int | None,
        key: Key,
    ) -> np.ndarray:
        """``measure`` of each task after 0, 1, ... steps, fresh data at each, ``[steps + 1, M]``."""
        ...

    def close(self) -> None:
        """Give back environments and threads."""
        ...
