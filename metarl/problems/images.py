"""N-way K-shot classification: episodes of classes that training has not seen."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.data import Examples
from metarl.problems.protocol import Split
from metarl.seeding import Key

TURNS = 4
"""Rotations by multiples of 90 degrees."""


class UnusableImagesError(ValueError):
    """Images that are too few for the tasks asked for; one sentence that says why and what to do."""


class ClassImages(Protocol):
    """Images of one split, sorted by class, as ``metarl.datasets.load`` gives them; a file may hold them."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """``[I, C, H, W]``, one byte for each value."""
        ...

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each class starts in ``images``, and their end, ``[classes + 1]``."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of each class."""
        ...


class EpisodeSizes(NamedTuple):
    """How many examples of how many classes.

    Attributes:
        ways: N, classes of a task.
        shots: K, support examples of each class.
        queries: query examples of each class while training.
        evaluated: query examples of each class in evaluation; None: as in training.
        train_ways: classes of a task while training; None: as ever.
    """

    ways: int
    shots: int
    queries: int
    evaluated: int | None = None
    train_ways: int | None = None

    def of(self, split: Split) -> int:
        """Classes of a task of a split."""
        return self.train_ways if split == "train" and self.train_ways else self.ways


class FewShotImages:
    """Tasks are N classes, each turned by a multiple of 90 degrees, in the order of their labels.

    A row of a task is ``[class_0 .. class_{N-1}, turn_0 .. turn_{N-1}]``; the splits' classes are numbered one
    after another. The order is random, so labels are permuted anew for each task. Pixels are bytes.

    Args:
        splits: the classes of each split.
        episodes: sizes.
        rotated: splits in which a turned class is a class of its own (Santoro et al. 2016, arXiv:1605.06065).

    Raises:
        UnusableImagesError: a split has too few classes, or a class too few images, for one task.
    """

    loss = "cross_entropy"

    def __init__(
        self,
        splits: Mapping[Split, ClassImages],
        episodes: EpisodeSizes,
        rotated: Collection[Split] = (),
    ) -> None:
        self.splits, self.episodes, self.rotated = dict(splits), episodes, frozenset(rotated)
        self.queries, self.outputs = episodes.queries, episodes.ways
        self.input_shape = self.splits["train"].images.shape[1:]
        counts = [len(split.names) for split in self.splits.values()]
        self._first = dict(zip(self.splits, itertools.accumulate([0, *counts]), strict=False))
        for split in self.splits:
            self._check(split)

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` rows of N classes and N turns, ``[count, 2N]``; no class stands twice in a task."""
        turns = self._turns(split)
        total, ways = turns * len(self.splits[split].names), self.episodes.of(split)
        drawn = np.stack([rng.choice(total, ways, replace=False) for _ in range(count)])
        classes = self._first[split] + drawn // turns
        return np.concatenate([classes, drawn % turns], axis=1).astype(np.float64)

    def examples(
        self, tasks: np.ndarray, queries: int, key: Key, draw: int = 0
    ) -> tuple[Examples, Examples]:
        """Support ``[M, N·K, C, H, W]`` and query ``[M, N·queries, C, H, W]``, class by class; labels 0 to N − 1.

        The support is the same however many queries follow. Draws after the first give support alone, of images that
        are no queries of training's first draw.
        """
        ways, shots = tasks.shape[1] // 2, self.episodes.shots
        pixels = np.empty((len(tasks), ways, shots + queries, *self.input_shape), np.uint8)
        for index, (task, row) in enumerate(zip(pixels, tasks.astype(np.int64), strict=True)):
            rng, later = key.generator(0, index), key.generator(draw, index) if draw else None
            for images, number, turn in zip(task, row[:ways], row[ways:], strict=True):
                own = self._images(number)
                order = rng.permutation(len(own))
                if later:
                    order = later.permutation(np.delete(order, slice(shots, shots + self.queries)))
                images[:] = np.rot90(own[order[: shots + queries]], turn, axes=(-2, -1))
        x = torch.from_numpy(pixels)
        y = torch.arange(ways)[:, None].expand(len(tasks), ways, shots + queries)
        parts = slice(shots), slice(shots, None)
        support, query = (
            Examples(_by_pixel(x[:, :, part].flatten(1, 2)), y[:, :, part].flatten(1, 2))
            for part in parts
        )
        return support, query

    @property
    def train_classes(self) -> int:
        """All classes of training, turned ones included."""
        return self._turns("train") * len(self.splits["train"].names)

    def class_numbers(self, tasks: np.ndarray) -> np.ndarray:
        """Of the classes of training tasks, among all of them: ``[M, 2N] -> [M, N]``."""
        classes, turns = np.split(tasks.astype(np.int64), 2, axis=1)
        return (classes - self._first["train"]) * self._turns("train") + turns

    def _turns(self, split: Split) -> int:
        return TURNS if split in self.rotated else 1

    def _images(self, number: int) -> NDArray[np.uint8]:
        """Of a class, ``[I, C, H, W]``."""
        name = max((first, name) for name, first in self._first.items() if first <= number)[1]
        split, index = self.splits[name], number - self._first[name]
        start, end = split.starts[index : index + 2]
        return split.images[start:end]

    def _check(self, name: Split) -> None:
        """Whether every task of a split, with as many queries as it may be asked for, can be drawn."""
        ways, shots, queries = self.episodes.of(name), self.episodes.shots, self.episodes.queries
        split, key = self.splits[name], "problem.queries"
        if name != "train" and self.episodes.evaluated is not None:
            queries, key = self.episodes.evaluated, "evaluation.queries"
        if (count := self._turns(name) * len(split.names)) < ways:
            asked = "ways" if ways == self.episodes.ways else "train_ways"
            raise UnusableImagesError(
                f"problem.{asked} is {ways}, but for {name} there are only {count} classes; lower it."
            )
        sizes = np.diff(split.starts)
        if (smallest := int(sizes.min())) < shots + queries:
            raise UnusableImagesError(
                f"{key} is {queries}, but class {split.names[int(sizes.argmin())]} ({name}) has "
                f"{smallest} images, of which problem.shots takes {shots}; lower one of them."
            )


def _by_pixel(pictures: Tensor) -> Tensor:
    """The same ``[..., C, H, W]``, in memory each pixel's channels together: convolution and pooling are faster."""
    return pictures.movedim(-3, -1).contiguous().movedim(-1, -3)
