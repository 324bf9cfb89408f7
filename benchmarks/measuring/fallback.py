"""What takes the place of the compiled kernels where there are none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor

from metarl.data import Outcome
from metarl.functional.objectives import Linearisation, Objective
from metarl.kernels import compiled


@contextlib.contextmanager
def no_library() -> Iterator[None]:
    """As where nothing was compiled, in all threads; for one caller at a time."""
    library, compiled.LIBRARY = compiled.LIBRARY, None
    try:
        yield
    finally:
        compiled.LIBRARY = library


def without_library(work: Callable[[], object]) -> Callable[[], None]:
    """``work`` as it is where nothing was compiled."""

    def run() -> None:
        with no_library():
            work()

    return run


def objective_without_library(objective: Objective) -> Objective:
    """An objective as it is where nothing was compiled, without its preconditioner."""

    def linearise(vector: Tensor) -> Linearisation:
        with no_library():
            start = objective.linearise(vector)

        def curvature(direction: Tensor) -> Tensor:
            with no_library():
                return start.curvature(direction)

        return start._replace(curvature=curvature, preconditioner=None)

    def evaluate(vector: Tensor) -> Outcome:
        with no_library():
            return objective.evaluate(vector)

    return Objective(linearise=linearise, evaluate=evaluate)
