"""A cache is whole or not there: whatever is damaged, interrupted, changed or done at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metarl import datasets
from metarl.datasets import builder, cache
from metarl.datasets.builder import IMAGES, MANIFEST
from metarl.datasets.trees import DatasetError
from metarl.storage.sealed import seal


@pytest.fixture
def built(load, tmp_path) -> Path:
    load()
    (path,) = (tmp_path / "cache/datasets").glob("mini*")
    return path


def refuse(*_: object) -> None:
    raise AssertionError("a picture is decoded")


def test_a_second_start_decodes_nothing(built, load, monkeypatch):
    before = np.array(load().images)
    monkeypatch.setattr(builder, "decode", refuse)
    assert np.array_equal(load().images, before)


def test_images_are_mapped_and_cannot_be_written(load):
    images = load().images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0, 0, 0, 0] = 1


def test_the_manifest_says_what_the_cache_was_made_from(built, root):
    manifest = json.loads((built / MANIFEST).read_bytes())
    assert (manifest["set"], manifest["image_size"], manifest["resize"]) == (
        "mini-imagenet",
        84,
        "LANCZOS",
    )
    assert manifest["source"]["paths"] == [str(root / split) for split in ("train", "val", "test")]
    assert manifest["splits"] == {"train": 2, "val": 1, "test": 1}
    assert manifest["classes"][0] == ["n00000001", 1]
    summed = subprocess.run(
        ["sha256sum", built / IMAGES], capture_output=True, text=True, check=True
    )
    assert manifest["images_sha256"] == summed.stdout.split()[0]


@pytest.mark.parametrize("name", [IMAGES, MANIFEST])
@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "missing", "flipped"])
def test_damage_is_found_and_the_cache_built_again(name, damage, built, load, capsys):
    before, content = np.array(load().images), (built / name).read_bytes()
    altered = bytearray(content)
    altered[len(content) // 2] ^= 1
    damaged = {
        "truncated": content[:-1],
        "longer": content + b"\n",
        "empty": b"",
        "flipped": altered,
    }
    if damage == "missing":
        (built / name).unlink()
    else:
        (built / name).write_bytes(damaged[damage])
    with pytest.raises(DatasetError, match=rf"{name}.*delete the folder"):
        cache.read(built)
    assert np.array_equal(load().images, before)
    assert "building it again" in capsys.readouterr().err
    assert (built / name).read_bytes() == content


def test_a_flipped_bit_of_a_large_array_is_found_on_request(built, monkeypatch):
    """Large is what takes long to sum: its size alone is checked at every start."""
    monkeypatch.setattr(cache, "ALWAYS_SUMMED", 0)
    content = bytearray((built / IMAGES).read_bytes())
    content[-1] ^= 1
    (built / IMAGES).write_bytes(content)
    assert cache.read(built) is not None
    with pytest.raises(DatasetError, match=r"images\.npy: is damaged \(its SHA-256"):
        cache.read(built, thorough=True)
    (built / IMAGES).write_bytes(content[:-1])
    with pytest.raises(DatasetError, match=r"images\.npy: is damaged \([\d,]+ bytes, not [\d,]+\)"):
        cache.read(built)


def test_an_array_of_another_shape_is_refused(built, monkeypatch):
    monkeypatch.setattr(cache, "ALWAYS_SUMMED", 0)
    content = (built / IMAGES).read_bytes()
    (built / IMAGES).write_bytes(content.replace(b"(8, 3, 84, 84)", b"(8, 84, 84, 3)"))
    with pytest.raises(DatasetError, match="another shape"):
        cache.read(built)
    (built / IMAGES).write_bytes(content.replace(b"NUMPY", b"NUMPI"))
    with pytest.raises(DatasetError, match="cannot be used"):
        cache.read(built)


def test_another_format_is_refused_by_name(built):
    values = json.loads((built / MANIFEST).read_bytes())
    del values["sha256"]
    (built / MANIFEST).write_bytes(seal(values | {"format": 2}))
    with pytest.raises(
        DatasetError, match=r"manifest\.json: is not of format 1; delete the folder"
    ):
        cache.read(built)


@pytest.mark.parametrize("layout", ["folders", "lists", "zip"])
def test_a_source_that_changes_is_read_again(layout, tmp_path, samples, capsys):
    files = samples.listed() if layout == "lists" else samples.class_folders()
    place = tmp_path / "d"

    def write() -> None:
        if layout == "zip":
            samples.write_zip(place / "mini-imagenet.zip", files)
        else:
            samples.write_folder(place, files)

    write()
    assert datasets.load("mini-imagenet", "val", place).starts.tolist() == [0, 2]
    new, picture = (
        "n00000002x.jpg",
        next(file for name, file in files.items() if name.endswith("jpg")),
    )
    if layout == "lists":
        files |= {
            f"images/{new}": picture,
            "val.csv": files["val.csv"] + f"{new},n00000002".encode(),
        }
    else:
        files[f"val/n00000002/{new}"] = picture
    write()
    assert datasets.load("mini-imagenet", "val", place).starts.tolist() == [0, 3]
    assert "its files have changed since" in capsys.readouterr().err


def test_every_interruption_leaves_a_whole_cache_or_none(root, load, tmp_path, monkeypatch):
    """End the process, by an error nobody handles, at the n-th wait for the disk, for every n."""

    class Ended(BaseException):
        pass

    def countdown(left: list[int]):
        def fsync(_: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Ended

        return fsync

    outcomes = []
    for calls in range(5):
        monkeypatch.setenv("METARL_CACHE", str(tmp_path / f"cache{calls}"))
        monkeypatch.setattr(os, "fsync", countdown([calls]))
        with contextlib.suppress(Ended):
            load()
        found = [cache.read(path, thorough=True) for path in cache.caches(("mini-imagenet",))]
        outcomes.append(len(found))
        folder = tmp_path / f"cache{calls}/datasets"
        assert not [path for path in folder.iterdir() if path.is_dir() and path.name[0] == "."]
    assert outcomes == [0, 0, 0, 1, 1]


def test_a_picture_that_cannot_be_used_leaves_no_cache(root, load, tmp_path):
    next(iter(root.glob("test/*/*"))).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="is no picture"):
        load()
    assert [path.name[0] for path in (tmp_path / "cache/datasets").iterdir()] == ["."]
    assert all(path.is_file() for path in (tmp_path / "cache/datasets").iterdir())


def test_a_cache_folder_that_cannot_be_written_is_one_sentence(root, load, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(
        DatasetError, match=r"cannot be written \(Not a directory\); .*METARL_CACHE"
    ):
        load()


@pytest.mark.parametrize("call", ["mkdir", "rename", "open"])
def test_a_read_only_or_full_disk_is_one_sentence(call, root, load, monkeypatch, tmp_path):
    real = getattr(Path, call)

    def fail(path: Path, *rest: object, **options: object):
        if "cache" in path.parts and ".lock" not in path.name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(
        DatasetError, match=r"cannot be written \(Read-only file system\); make room"
    ):
        load()
    assert not list((tmp_path / "cache").rglob(IMAGES))


def test_a_cache_that_is_there_needs_nothing_written(built, load, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "open", refuse)
    assert len(load().names) == 2


def test_no_home_is_one_sentence(root, load, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("METARL_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DatasetError, match=r"no home folder to cache .*set \$METARL_CACHE"):
        load()
    with pytest.raises(DatasetError, match="not found in any place, as there is no home"):
        datasets.load("mini-imagenet", "train")


def test_each_place_and_size_has_a_cache_of_its_own(root, load, tmp_path, samples):
    load()
    datasets.load("mini-imagenet", "train", root, image_size=42)
    samples.write_zip(tmp_path / "z/mini-imagenet.zip", samples.class_folders())
    datasets.load("mini-imagenet", "train", tmp_path / "z")
    assert len(cache.caches(("mini-imagenet",))) == 3
