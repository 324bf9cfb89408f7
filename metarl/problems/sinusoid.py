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
    """

    input_shape, outputs, loss, interval = (1,), 1, "mse", X

    def __init__(self, shots: int, queries: int) -> None:
        self.shots, self.queries = shots, queries

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` rows (A, φ), ``[count, 2]``; held-out ones differ by their stream alone."""
        low, high = np.transpose([AMPLITUDE, PHASE])
        return rng.uniform(low, high, (count, 2))

    def examples(
        self, tasks: np.ndarray, queries: int, key: Key, draw: int = 0
    ) -> tuple[Examples, Examples]:
        """Support ``[M, shots, 1]`` and query ``[M, queries, 1]``."""
        # Row by row from one stream: what a task gets does not depend on how many follow it.
        x = key.generator(draw).uniform(*X, (len(tasks), self.shots + queries, 1))
        y = self.truth(tasks, x)
        both = Examples(torch.from_numpy(x).float(), torch.from_numpy(y).float())
        first, rest = (
            Examples(*(each[:, part] for each in both))
            for part in (slice(self.shots), slice(self.shots, None))
        )
        return first, rest

    def truth(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The curves without noise: ``[M, 2]``, ``[M, N, 1] -> [M, N, 1]``."""
        amplitude, phase = tasks[:, None, :1], tasks[:, None, 1:]
        return amplitude * np.sin(x - phase)
