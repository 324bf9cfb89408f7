"""Folders that tests write and read: image sets of generated pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from metarl.datasets.sets import MINI_IMAGENET, SETS, SPLITS

PICTURES = 6
"""Of each class."""


def tiny_image_set(root: Path, monkeypatch, side: int = 8) -> Path:
    """A miniImageNet of two classes a split, one dark and one bright, in place of the real one; its cache is empty."""
    monkeypatch.setitem(SETS, "mini-imagenet", MINI_IMAGENET._replace(counts=(2, 2, 2)))
    monkeypatch.setenv("METARL_CACHE", str(root / "cache"))
    rng = np.random.default_rng(0)
    for number, split in enumerate(SPLITS):
        for bright in (0, 1):
            folder = root / "pictures" / split / f"n{2 * number + bright:08}"
            folder.mkdir(parents=True)
            for picture in range(PICTURES):
                pixels = rng.integers(128 * bright, 128 * (bright + 1), (side, side, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{picture}.png")
    return root / "pictures"
