"""Where the seconds of a meta-iteration go, taken by wrapping the calls that make it up."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from metarl.functional.objectives import Linearisation, Objective
from metarl.problems.rl import RLProblem
from metarl.sampler import Sampler

STAGES = (
    "sampling",
    "credit",
    "inner steps",
    "gradient",
    "preconditioner",
    "products",
    "line search",
)


class Stopwatch:
    """Seconds by stage, since the last :meth:`take`.

    Args:
        settle: waits until what was begun elsewhere, as on a GPU, is done; a stage ends with it.
    """

    def __init__(self, settle: Callable[[], Any] = lambda: None) -> None:
        self.settle = settle
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time added to ``stage``."""

        def run(*arguments: Any, **named: Any) -> Any:
            self.settle()
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.settle()
                self.seconds[stage] += time.perf_counter() - began

        return run

    def take(self) -> dict[str, float]:
        """The seconds of every stage so far; starts anew."""
        found = {stage: self.seconds.get(stage, 0.0) for stage in STAGES}
        # A wave was timed whole, its sampling within it.
        found["credit"] -= found["sampling"]
        self.seconds.clear()
        return found

    def objective(self, chosen: Objective) -> Objective:
        """An objective whose parts are timed."""

        def linearise(vector: Any) -> Linearisation:
            start: Linearisation = self.timed("gradient", chosen.linearise)(vector)
            curvature = self.timed("products", start.curvature)
            make = start.preconditioner
            prepared = None if make is None else self.timed("preconditioner", make)
            return start._replace(curvature=curvature, preconditioner=prepared)

        return Objective(self.timed("line search", chosen.evaluate), linearise)


@contextlib.contextmanager
def watched(problem: RLProblem, settle: Callable[[], Any] = lambda: None) -> Iterator[Stopwatch]:
    """Time the stages of whatever ``problem`` does meanwhile."""
    watch, make = Stopwatch(settle), problem.objective
    sampled = watch.timed("sampling", Sampler.wave)
    with (
        mock.patch.object(Sampler, "wave", sampled),
        mock.patch.object(problem, "wave", watch.timed("credit", problem.wave)),
        mock.patch.object(problem, "adapt", watch.timed("inner steps", problem.adapt)),
        mock.patch.object(problem, "objective", lambda *given: watch.objective(make(*given))),
    ):
        yield watch


def peak_mib() -> float | None:
    """Most memory this process has had in use.

    Not getrusage's figure, which on Linux a child inherits from the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None
