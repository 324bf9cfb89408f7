"""Numbers that are NaN or infinite are named: the quantity, the environment, the task and the step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

AXES = ("task", "episode", "step")


class NonFiniteError(Exception):
    """A number is NaN or infinite, or a simulation broke down; names environment, task, step and quantity.

    Args:
        message: one sentence.
        tasks: the rows of the meta-batch that are to blame; none: it is not known to be theirs.
    """

    def __init__(self, message: str, *tasks: int) -> None:
        super().__init__(message)
        self.tasks = tasks


def check(quantities: Mapping[str, Tensor], tasks: np.ndarray, place: str, first: int = 0) -> None:
    """Raise for the first of several quantities that is not finite everywhere.

    Args:
        quantities: by name, ``[M]`` or ``[M, N]`` or ``[M, N, T, ...]``.
        tasks: ``[M, D]``, for the message.
        place: the environment and where in the iteration, for the message.
        first: row of the meta-batch that ``tasks`` begin with.

    Raises:
        NonFiniteError: with every task to blame; its message names the first, down to the step.
    """
    for name, values in quantities.items():
        # A sum is finite only if every term is: one pass, and no temporary.
        if values.sum().isfinite():
            continue
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            row, *rest = bad[0].tolist()
            where = [f"task {first + row} {tasks[row].tolist()}"]
            where += [f"{axis} {index}" for axis, index in zip(AXES[1:], rest, strict=False)]
            rows = sorted({first + int(index) for index in bad[:, 0]})
            raise NonFiniteError(f"{place}: {name} not finite in {', '.join(where)}.", *rows)
