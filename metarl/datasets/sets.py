"""What is known of each image set: its layout's parts, counts, picture size and split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

SPLITS = ("train", "val", "test")
CSV_FILES, IMAGES = tuple(f"{split}.csv" for split in SPLITS), "images"


class ImageSet(NamedTuple):
    """One image set.

    Attributes:
        name: what a configuration calls it.
        counts: classes of train, val and test.
        per_class: images of each class; None: any number.
        image_size: pixels of each side.
        mode: Pillow's: ``L`` for one channel, ``RGB`` for three.
        resize: Pillow's filter: ``BOX`` or ``LANCZOS``, both of which average when they shrink.
        invert: whether the pictures are dark ink on white.
        parts: folders (or zips of that name) that hold all classes together, with their counts;
            empty where the files come split into train, val and test.
        class_pattern: regular expression of a class's name.
        expected: the layouts that are recognised, for a person.
    """

    name: str
    counts: tuple[int, int, int]
    per_class: int | None
    image_size: int
    mode: str
    resize: str
    invert: bool
    parts: tuple[tuple[str, int], ...]
    class_pattern: str
    expected: str

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mode)


OMNIGLOT = ImageSet(
    name="omniglot",
    counts=(1100, 100, 423),
    per_class=20,
    image_size=28,
    mode="L",
    resize="BOX",
    invert=True,
    parts=(("images_background", 964), ("images_evaluation", 659)),
    class_pattern=r"[^/]+/[^/]+",
    expected=(
        "images_background and images_evaluation, each as a folder or a .zip of "
        "<alphabet>/<character>/<drawing>.png"
    ),
)
MINI_IMAGENET = ImageSet(
    name="mini-imagenet",
    counts=(64, 16, 20),
    per_class=None,
    image_size=84,
    mode="RGB",
    resize="LANCZOS",
    invert=False,
    parts=(),
    class_pattern=r"n\d{8}",
    expected=(
        "a folder of {train,val,test}/<class>/<picture>.jpg, or one of images/ with "
        "{train,val,test}.csv (filename,label), or a zip of either named like mini-imagenet.zip"
    ),
)
SETS = {each.name: each for each in (OMNIGLOT, MINI_IMAGENET)}


def split_classes(names: Sequence[str], counts: Sequence[int]) -> dict[str, list[str]]:
    """Divide classes that come without a split into train, val and test.

    The order is that of the SHA-256 of each name: a shuffle whose seed is the hash, the same on
    every machine and for every version of every library. The first ``counts[0]`` classes are for
    training, the next for validation, the others for test; each split is sorted by name.

    Finn et al. 2017 say "1200 characters for training, irrespective of alphabet, and the remaining
    for testing". Their code shuffles the folders (``random.seed(1)``, in the order in which the
    file system lists them, so nobody else gets the same split) and takes 1100 for training, 100
    for validation and the last 423 for test. So do the counts here; ``train+val`` is the 1200.
    """
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    ends = [sum(counts[: index + 1]) for index in range(len(SPLITS))]
    return {
        split: sorted(shuffled[end - count : end])
        for split, count, end in zip(SPLITS, counts, ends, strict=True)
    }
