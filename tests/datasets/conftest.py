"""Tiny image sets of every layout, and an environment without any other."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl import datasets
from metarl.datasets.sets import MINI_IMAGENET, OMNIGLOT, SETS

CHARACTERS = {
    "images_background": [
        ("Greek", "character01"),
        ("Greek", "character02"),
        ("Latin", "character01"),
    ],
    "images_evaluation": [("Runes", "character01"), ("Runes", "character02")],
}
WORDS = {"train": ["n00000003", "n00000001"], "val": ["n00000002"], "test": ["n00000004"]}
COUNTS = {"n00000001": 1, "n00000002": 2, "n00000003": 3, "n00000004": 2}


def png(array: np.ndarray, mode: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).convert(mode).save(stream, format="PNG")
    return stream.getvalue()


def jpeg(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="JPEG")
    return stream.getvalue()


def characters() -> dict[str, dict[str, bytes]]:
    """The files of each part of a tiny Omniglot: 5 characters, 2 drawings of each."""
    rng = np.random.default_rng(0)
    return {
        part: {
            f"{part}/{alphabet}/{character}/{number:04}_{drawing:02}.png": png(
                255 * (rng.random((105, 105)) > 0.2).astype(np.uint8), "1"
            )
            for number, (alphabet, character) in enumerate(members)
            for drawing in (1, 2)
        }
        for part, members in CHARACTERS.items()
    }


def photographs() -> dict[str, dict[str, bytes]]:
    """The pictures of a tiny miniImageNet: class to file name to content."""
    rng = np.random.default_rng(1)
    return {
        word: {
            f"{word}{number:08}.jpg": jpeg(rng.integers(256, size=(84, 84, 3), dtype=np.uint8))
            for number in range(count)
        }
        for word, count in COUNTS.items()
    }


def class_folders() -> dict[str, bytes]:
    pictures = photographs()
    return {
        f"{split}/{word}/{name}": content
        for split, words in WORDS.items()
        for word in words
        for name, content in pictures[word].items()
    }


def listed() -> dict[str, bytes]:
    """One folder of pictures and three lists, whose rows are in no order."""
    pictures = photographs()
    files = {f"images/{name}": each[name] for each in pictures.values() for name in each}
    for split, words in WORDS.items():
        rows = [f"{name},{word}" for word in words for name in reversed(pictures[word])]
        files[f"{split}.csv"] = "\r\n".join(["filename,label", *rows, ""]).encode()
    return files


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes], prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


class Samples:
    """The functions above, for tests, which cannot import this file."""

    png, jpeg = staticmethod(png), staticmethod(jpeg)
    characters, class_folders = staticmethod(characters), staticmethod(class_folders)
    listed = staticmethod(listed)
    write_folder, write_zip = staticmethod(write_folder), staticmethod(write_zip)


@pytest.fixture
def samples() -> type[Samples]:
    return Samples


@pytest.fixture
def root(tmp_path) -> Path:
    """The folder of a tiny miniImageNet."""
    return write_folder(tmp_path / "mini-imagenet", class_folders())


@pytest.fixture
def load(root):
    """Reads its training classes."""
    return lambda: datasets.load("mini-imagenet", "train", root)


@pytest.fixture(autouse=True)
def small_world(tmp_path, monkeypatch):
    """Sets of a few pictures, a cache and a home of this test's own."""
    parts = tuple((part, len(members)) for part, members in CHARACTERS.items())
    omniglot = OMNIGLOT._replace(counts=(2, 1, 2), per_class=2, parts=parts)
    monkeypatch.setitem(SETS, "omniglot", omniglot)
    monkeypatch.setitem(SETS, "mini-imagenet", MINI_IMAGENET._replace(counts=(2, 1, 1)))
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("METARL_DATA", raising=False)
