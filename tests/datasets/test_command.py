"""``python -m metarl.datasets``: what it prints, and its exit codes."""

from __future__ import annotations

import os

import numpy as np
import pytest

from metarl import datasets
from metarl.datasets import cache
from metarl.datasets.__main__ import main
from metarl.datasets.builder import IMAGES
from metarl.datasets.sets import MINI_IMAGENET, OMNIGLOT, SETS, SPLITS

REAL = os.environ.get("METARL_DATA")


@pytest.fixture
def data(tmp_path, samples) -> str:
    samples.write_zip(tmp_path / "data/mini-imagenet.zip", samples.class_folders())
    return str(tmp_path / "data")


def test_the_list_says_what_is_found_and_what_is_not(data, capsys):
    assert main(["--data", data]) == 0
    assert main(["build", "mini-imagenet", "--data", data]) == 0
    (path,) = cache.caches(("mini-imagenet",))
    size = (path / IMAGES).stat().st_size / 1e6
    capsys.readouterr()
    assert main(["list", "--data", data]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(
        f"omniglot: not found in {data} (the folder asked for); exp"
    )
    assert out.splitlines()[1:] == [
        f"mini-imagenet: zip {data}/mini-imagenet.zip",
        "  train 2 classes, 4 images; val 1 classes, 2 images; test 1 classes, 2 images",
        f"  cached 84x84, {size:.1f} MB, in {path}",
    ]
    assert err == ""


def test_the_list_counts_the_same_before_anything_is_cached(data, capsys):
    assert main(["list", "mini-imagenet", "--data", data]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  train 2 classes, 4 images; val 1 classes, 2 images; test 1 classes, 2 images",
        "  not cached yet",
    ]


def test_a_set_that_cannot_be_used_is_2(tmp_path, samples, capsys):
    path = samples.write_zip(tmp_path / "mini-imagenet.zip", samples.class_folders())
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["--data", str(tmp_path)]) == 2
    assert "is not a whole zip file" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit(data, capsys, monkeypatch):
    monkeypatch.setattr(cache, "ALWAYS_SUMMED", 0)
    assert main(["build", "--data", data]) == 0
    assert main(["verify"]) == 0
    assert capsys.readouterr().out.endswith(": whole\n")
    (path,) = cache.caches(("mini-imagenet",))
    content = bytearray((path / IMAGES).read_bytes())
    content[-1] ^= 128
    (path / IMAGES).write_bytes(content)
    assert main(["verify"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"metarl: error: {path / IMAGES}: is damaged (its SHA-256")
    assert main(["build", "--data", data]) == 0
    assert main(["verify", "mini-imagenet"]) == 0


def test_nothing_to_verify_or_to_build_is_2(tmp_path, data, capsys):
    assert main(["verify"]) == 2
    assert "holds no cache of omniglot or mini-imagenet; build one with" in capsys.readouterr().err
    assert main(["build", "--data", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("not found in") == 2
    assert main(["build", "omniglot", "--data", data]) == 2
    assert main(["list", "cifar"]) == 2
    assert "'cifar': is none of omniglot, mini-imagenet; name one" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REAL, reason="METARL_DATA names no folder")
@pytest.mark.parametrize(
    ("real", "classes", "images"),
    [(OMNIGLOT, (1100, 100, 423), (22000, 2000, 8460)), (MINI_IMAGENET, (64, 16, 20), None)],
)
def test_the_real_sets_have_the_counts_that_are_known(real, classes, images, monkeypatch, capsys):
    monkeypatch.setitem(SETS, real.name, real)
    found = [datasets.load(real.name, split, REAL) for split in SPLITS]
    assert tuple(len(each.names) for each in found) == classes
    assert images is None or tuple(len(each.images) for each in found) == images
    for each in found:
        assert each.images.shape[1:] == (len(real.mode), real.image_size, real.image_size)
        assert np.diff(each.starts).min() >= (real.per_class or 1)
    # Strokes are thin: of a page of Omniglot a few percent are ink.
    assert (0.02 < found[2].images.mean() / 255 < 0.15) == real.invert
