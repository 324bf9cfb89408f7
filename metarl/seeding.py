"""One seed, many independent streams of random numbers.

A stream is named by a counter key, not by a state: what iteration 7 draws for task 3 depends on
``(seed, stream, 7, 3)`` alone. So resuming needs no generator state, and neither threads nor interruptions
change a number.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Stream(IntEnum):
    """The independent streams of one seed. The numbers are part of the results: append, never renumber."""

    INITIALISATION = 0
    TRAIN_TASKS = 1
    TRAIN_DATA = 2
    EVALUATION_TASKS = 3
    EVALUATION_DATA = 4
    RENDERING = 5
    VALIDATION_TASKS = 6
    SWEEP = 7


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The generator of one counter key, always in the same initial state.

    Args:
        seed: the run's seed, ``>= 0``.
        stream: what the numbers are for.
        key: further counters, such as iteration, task and step, each ``>= 0``.

    Returns:
        A fresh generator seeded by ``SeedSequence(seed, spawn_key=(stream, *key))``.
    """
    # A spawn key, because plain entropy is padded with zeros: [1, 2] and [1, 2, 0] would be one stream.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(stream), *key)))


class Key(NamedTuple):
    """The name of all data of one iteration: one stream of one seed, at one count.

    Attributes:
        seed: the run's seed.
        stream: training, evaluation, ...
        iteration: which meta-iteration.
    """

    seed: int
    stream: Stream
    iteration: int = 0

    def generator(self, *counters: int) -> np.random.Generator:
        """The generator of further counters, such as the task and the inner step."""
        return generator(self.seed, self.stream, self.iteration, *counters)
