"""Regression of sinusoids: y = A sin(x − φ), from K points."""

from __future__ import annotations

import numpy as np
import torch

from metarl.data import Examples
from metarl.problems.protocol import Split
from metarl.seeding import Key

AMPLITUDE, PHASE, X = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)


class Sinusoid:
    """Tasks are an amplitude A ~ U(0.1, 5) and a phase φ ~ U(0, π); points have x ~ U(−5, 5).

    Source: Finn et al. 2017 (arXiv:1703.03400), section 5.1.

    Args:
        shots: K, points of the support.
        queries: points of the query while training.
        observe_task: the network reads (x, A, φ), which makes it the oracle of figures 2 and 3.
    """

    outputs, loss, interval, names = 1, "mse", X, ("amplitude", "phase")

    def __init__(self, shots: int, queries: int, observe_task: bool = False) -> None:
        self.shots, self.queries, self.observe_task = shots, queries, observe_task
        self.input_shape: tuple[int, ...] = (3,) if observe_task else (1,)

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` rows (A, φ), ``[count, 2]``; held-out ones differ by their stream alone."""
        low, high = np.transpose([AMPLITUDE, PHASE])
        return rng.uniform(low, high, (count, 2))

    def examples(
        self, tasks: np.ndarray, queries: int, key: Key, draw: int = 0
    ) -> tuple[Examples, Examples]:
        """Support ``[M, shots, I]`` and query ``[M, queries, I]``, I as in :meth:`inputs`; labels ``[M, ..., 1]``."""
        # Row by row from one stream: what a task gets does not depend on how many follow it.
        x = key.generator(draw).uniform(*X, (len(tasks), self.shots + queries, 1))
        both = [
            torch.from_numpy(each).float() for each in (self.inputs(tasks, x), self.truth(tasks, x))
        ]
        first, rest = (
            Examples(*(each[:, part] for each in both))
            for part in (slice(self.shots), slice(self.shots, None))
        )
        return first, rest

    def truth(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The curves without noise: ``[M, 2]``, ``[M, N, 1] -> [M, N, 1]``."""
        amplitude, phase = tasks[:, None, :1], tasks[:, None, 1:]
        return amplitude * np.sin(x - phase)

    def inputs(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What the network reads at x: x, and the task where it is observed; ``[M, N, 1] -> [M, N, 1 or 3]``."""
        if not self.observe_task:
            return x
        told = np.broadcast_to(tasks[:, None], (*x.shape[:2], tasks.shape[1]))
        return np.concatenate([x, told], axis=2)
