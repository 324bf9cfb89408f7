"""Alternatives timed side by side: A B C A B C ..., so that what else the machine does hits all of them alike."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


class Timing(NamedTuple):
    """Seconds of one run of one alternative.

    Attributes:
        wall: elapsed time.
        cpu: processor time of all threads of this process, and of what the work says it spent elsewhere.
    """

    wall: float
    cpu: float

    def of_one(self, count: int) -> Timing:
        """The mean of ``count`` runs that were timed together."""
        return Timing(self.wall / count, self.cpu / count)


def timed(work: Callable[[], Any]) -> Timing:
    """Run ``work`` once. A float that it returns is CPU-seconds of other processes."""
    wall, cpu = time.perf_counter(), time.process_time()
    elsewhere = work()
    took = time.perf_counter() - wall
    spent = time.process_time() - cpu
    return Timing(took, spent + (elsewhere if isinstance(elsewhere, float) else 0.0))


def interleave(
    alternatives: Mapping[Name, Callable[[], Any]], rounds: int, warm_ups: int = 1
) -> dict[Name, list[Timing]]:
    """Time every alternative once in each round; the warm-up rounds are not kept."""
    taken: dict[Name, list[Timing]] = {name: [] for name in alternatives}
    for index in range(warm_ups + rounds):
        for name, work in alternatives.items():
            timing = timed(work)
            if index >= warm_ups:
                taken[name].append(timing)
    return taken


def walls(timings: Sequence[Timing]) -> list[float]:
    return [timing.wall for timing in timings]


def cpus(timings: Sequence[Timing]) -> list[float]:
    return [timing.cpu for timing in timings]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over the rounds of each round's ratio."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads inside each of torch's operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def within(threads: int, work: Callable[[], object], count: int = 1) -> Callable[[], None]:
    """``work`` with so many threads inside torch's operations, ``count`` times in succession."""

    def run() -> None:
        with torch_threads(threads):
            for _ in range(count):
                work()

    return run
