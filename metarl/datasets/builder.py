"""The writing of a cache: every picture of a set decoded and summed on its way to the disk."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.datasets.layouts import ClassFiles, classes_of, place_of
from metarl.datasets.locating import Located, stamp
from metarl.datasets.pictures import decode
from metarl.datasets.sets import ImageSet
from metarl.presentation.progress import Progress
from metarl.storage import disk
from metarl.storage.sealed import seal

FORMAT = 1
IMAGES, MANIFEST = "images.npy", "manifest.json"


def build(path: Path, located: Located, size: int) -> None:
    """Write a cache, in the place of one that may be there. The caller holds its lock.

    Args:
        path: its folder.
        located: where the set lies.
        size: pixels of each side.

    Raises:
        DatasetError: a file of the set cannot be used.
        OSError: the disk does not take the cache; nothing of it is left behind.
    """
    before = stamp(located)
    splits = classes_of(located)
    classes = [each for split in splits.values() for each in split]
    count = sum(len(each.files) for each in classes)
    shape = (count, located.image_set.channels, size, size)
    digest = hashlib.sha256()

    def summed() -> Iterator[bytes]:
        for block in _blocks(classes, located.image_set, shape):
            digest.update(block)
            yield block

    _remove_leftovers(path)
    try:
        with disk.replace_folder(path) as folder:
            disk.write_blocks(folder / IMAGES, summed())
            manifest = _describe(located, before, size) | {
                "splits": {split: len(members) for split, members in splits.items()},
                "classes": [[each.name, len(each.files)] for each in classes],
                "shape": list(shape),
                "bytes": (folder / IMAGES).stat().st_size,
                "images_sha256": digest.hexdigest(),
            }
            disk.write(folder / MANIFEST, seal(manifest))
    finally:
        _remove_leftovers(path)


def _remove_leftovers(path: Path) -> None:
    """Remove what an interrupted process left, this one or an earlier: no other has the lock."""
    for leftover in path.parent.glob(f".{path.name}.[0-9]*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _describe(located: Located, source_stamp: str, size: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "set": located.image_set.name,
        "source": {
            "layout": located.layout,
            "paths": [str(each) for each in located.paths],
            "stamp": source_stamp,
        },
        "image_size": size,
        "mode": located.image_set.mode,
        "resize": located.image_set.resize,
    }


def _blocks(
    classes: Sequence[ClassFiles], image_set: ImageSet, shape: tuple[int, ...]
) -> Iterator[bytes]:
    """The content of ``images.npy``: its header, then one picture after another."""
    header = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, layout)
    yield header.getvalue()
    size = shape[-1]
    with Progress(f"building {image_set.name} {size}x{size}", shape[0], "pictures") as progress:
        for each in classes:
            for tree, name in each.files:
                picture = decode(tree.read(name), image_set, size, place_of(tree, name))
                yield picture.tobytes()
                progress.advance()
