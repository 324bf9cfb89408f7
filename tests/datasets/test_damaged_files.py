"""Damaged and hostile archives and pictures: named, never extracted, never read without a limit."""

from __future__ import annotations

import struct
import zipfile
import zlib

import numpy as np
import pytest

from metarl import datasets
from metarl.datasets.trees import DatasetError


def load(root):
    return datasets.load("mini-imagenet", "val", root)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_zip_is_named(kept, tmp_path, samples):
    path = samples.write_zip(tmp_path / "mini-imagenet.zip", samples.class_folders())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DatasetError, match=r"mini-imagenet\.zip: is not a whole zip file .*again"):
        load(tmp_path)


def test_a_zip_that_decays_inside_is_named(tmp_path, samples):
    path = samples.write_zip(tmp_path / "mini-imagenet.zip", samples.class_folders())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"mini-imagenet\.zip: .*\.jpg cannot be read .*again"):
        load(tmp_path)


def test_an_encrypted_zip_is_named(tmp_path, samples):
    path = samples.write_zip(tmp_path / "mini-imagenet.zip", samples.class_folders())
    content = path.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + offset
        content = content[:at] + bytes([content[at] | 1]) + content[at + 1 :]
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"cannot be read \(.*encrypted"):
        load(tmp_path)


def test_a_name_twice_in_a_zip_is_named(tmp_path, samples):
    files = samples.class_folders()
    name = next(iter(files))
    path = samples.write_zip(tmp_path / "mini-imagenet.zip", files)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(name, b"another")
    with pytest.raises(DatasetError, match=rf"holds {name} twice"):
        load(tmp_path)


def test_a_zip_bomb_fills_nothing(tmp_path, samples):
    files = samples.class_folders()
    bomb = next(name for name in files if name.startswith("train"))
    samples.write_zip(tmp_path / "mini-imagenet.zip", files | {bomb: bytes(2**26)})
    with pytest.raises(DatasetError, match=rf"{bomb}: is larger than 32 MiB"):
        load(tmp_path)


def test_a_zip_is_never_extracted_wherever_its_names_point(tmp_path, samples):
    evil = {"../../evil.png": b"x", "/evil/evil.png": b"x", "train/../../../evil.jpg": b"x"}
    samples.write_zip(tmp_path / "d/mini-imagenet.zip", samples.class_folders() | evil)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert load(tmp_path / "d").names == ("n00000002",)
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert [path.name for path in (tmp_path / "cache").rglob("*.*") if "evil" in path.name] == []


def test_what_is_called_a_zip_but_holds_another_set_is_named(tmp_path, samples):
    samples.write_zip(tmp_path / "mini-imagenet.zip", {"a/b.png": b"x"})
    with pytest.raises(
        DatasetError, match=r"mini-imagenet\.zip: is not mini-imagenet; expected is a"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"no picture", b"GIF89a" + bytes(20), b"\xff\xd8\xff\xe0"],
)
def test_what_is_no_picture_is_named(content, tmp_path, samples):
    files = samples.class_folders()
    name = next(name for name in files if name.startswith("test"))
    root = samples.write_folder(tmp_path / "d", files | {name: content})
    with pytest.raises(
        DatasetError, match=rf"{name}: is no picture that can be decoded \(.+\); copy"
    ):
        load(root)


def test_a_damaged_or_truncated_drawing_is_named(tmp_path, samples):
    """A PNG carries sums: one bit anywhere after its signature shows."""
    files = {name: file for part in samples.characters().values() for name, file in part.items()}
    name, content = next(iter(files.items()))
    root = samples.write_folder(tmp_path / "d", files)
    for position in (20, 40, len(content) // 2, len(content) - 20, len(content) - 30):
        altered = bytearray(content)
        altered[position] ^= 4
        for damaged in (bytes(altered), content[:position]):
            (root / name).write_bytes(damaged)
            with pytest.raises(DatasetError, match=rf"{name}: is no picture that can be decoded"):
                datasets.load("omniglot", "val", root)


@pytest.mark.parametrize("side", [5_000, 50_000])
def test_a_picture_of_too_many_pixels_is_not_decoded(side, tmp_path, samples):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000)))
    bomb += chunk(b"IEND", b"")
    files = samples.class_folders()
    name = next(name for name in files if name.startswith("test"))
    root = samples.write_folder(tmp_path / "d", files | {name: bomb})
    with pytest.raises(DatasetError, match=rf"{name}: is no picture .*(too many|exceeds limit)"):
        load(root)


def test_a_grey_photograph_has_three_channels(tmp_path, samples):
    files = samples.class_folders()
    grey = samples.png(np.full((84, 84), 77, np.uint8), "L")
    root = samples.write_folder(tmp_path / "d", dict.fromkeys(files, grey))
    assert np.unique(load(root).images).tolist() == [77]
    assert load(root).images.shape == (2, 3, 84, 84)
