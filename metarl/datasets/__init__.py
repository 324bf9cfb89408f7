"""Image sets for few-shot learning, read as they lie on disk and cached once.

    from metarl import datasets
    characters = datasets.load("omniglot", "train")

``omniglot`` is 28x28 grey with ink 255, each pixel the mean of the 9 to 16 it covers (Pillow's ``BOX``);
``mini-imagenet`` is 84x84 RGB, resized by ``LANCZOS`` where its files have another size.
`metarl.datasets.sets` says which layouts are recognised and how classes are split,
``python -m metarl.datasets`` what is found here. Nothing is downloaded. The first `load` builds a
cache (`metarl.datasets.cache`), later ones map it into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.datasets import cache, locating
from metarl.datasets.locating import NotFoundError
from metarl.datasets.sets import SETS, SPLITS, ImageSet
from metarl.datasets.trees import DatasetError

__all__ = [
    "SETS",
    "ClassImages",
    "DatasetError",
    "NotFoundError",
    "cached",
    "load",
    "located",
    "side",
]

SPLIT_NAMES = (*SPLITS, "train+val")
MAX_IMAGE_SIZE = 512


class ClassImages(NamedTuple):
    """The images of some classes; those of class c are ``images[starts[c] : starts[c + 1]]``.

    Attributes:
        images: uint8, 0 to 255, ``[I, C, H, W]``; read-only, mapped from the disk.
        starts: int64, ``[classes + 1]``.
        names: of the classes.
    """

    images: NDArray[np.uint8]
    starts: NDArray[np.int64]
    names: tuple[str, ...]


def load(
    name: str, split: str, root: str | Path | None = None, image_size: int | None = None
) -> ClassImages:
    """The images of one split of a set, the classes in the order of their names.

    Args:
        name: ``omniglot`` or ``mini-imagenet``.
        split: ``train``, ``val``, ``test`` (no class is in two of them), or ``train+val``: for
            Omniglot the paper's 1200 characters; its 423 others are ``test``.
        root: the folder (or zip) that holds the set; None: ``$METARL_DATA``, then ``~/.cache/metarl``.
        image_size: pixels of each side; None: the set's own.

    Raises:
        DatasetError: the set is not there, or a file of it cannot be used.
    """
    if split not in SPLIT_NAMES:
        raise DatasetError(f"split {split!r}: is none of {', '.join(SPLIT_NAMES)}; name one.")
    place = located(name, root)
    cached = cache.ensure(place, side(place.image_set, image_size))
    members, counts = cached.manifest["classes"], cached.manifest["splits"]
    wanted = split.split("+")
    first = sum(counts[each] for each in SPLITS[: SPLITS.index(wanted[0])])
    last = first + sum(counts[each] for each in wanted)
    starts = _starts([count for _, count in members])[first : last + 1]
    return ClassImages(
        images=cached.images[starts[0] : starts[-1]],
        starts=starts - starts[0],
        names=tuple(class_name for class_name, _ in members[first:last]),
    )


def cached(name: str, root: str | Path | None = None, image_size: int | None = None) -> bool:
    """Whether `load` finds a cache that it can use; none is built.

    Raises:
        DatasetError: the set is not there.
    """
    place = located(name, root)
    return cache.usable(place, side(place.image_set, image_size))[0] is not None


def located(name: str, root: str | Path | None = None) -> locating.Located:
    """Where a set lies.

    Raises:
        DatasetError: there is no such set, or it is not there.
    """
    if name not in SETS:
        raise DatasetError(f"image set {name!r}: is none of {', '.join(SETS)}; name one.")
    return locating.locate(SETS[name], root)


def side(image_set: ImageSet, image_size: int | None) -> int:
    """Pixels of each side: as asked for, or the set's own.

    Raises:
        DatasetError: there are no such pictures.
    """
    if image_size is None:
        return image_set.image_size
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise DatasetError(f"image size {image_size}: must be from 1 to {MAX_IMAGE_SIZE}.")
    return image_size


def _starts(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
