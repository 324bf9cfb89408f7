"""Processes that share a cache: one builds, the others wait; what a killed one left does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metarl import datasets
from metarl.datasets import cache
from metarl.datasets.builder import IMAGES
from metarl.storage import disk

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("number", [12345, os.getpid()])
def test_what_a_killed_process_left_is_neither_used_nor_kept(number, root, load):
    path = cache.path_of(datasets.located("mini-imagenet", root), 84)
    leftover = path.with_name(f".{path.name}.{number}")
    leftover.mkdir(parents=True)
    (leftover / IMAGES).write_bytes(b"half")
    assert cache.caches(("mini-imagenet",)) == []
    assert len(load().names) == 2
    assert not leftover.exists()


def test_processes_that_build_at_once_build_once(tmp_path, samples):
    """The sizes are those of the real set, so that other processes know them; one picture a class."""
    picture = samples.jpeg(np.full((8, 8, 3), 128, np.uint8))
    numbers = iter(range(100))
    files = {
        f"{split}/n{number:08}/x.jpg": picture
        for split, count in (("train", 64), ("val", 16), ("test", 20))
        for number in [next(numbers) for _ in range(count)]
    }
    place = samples.write_folder(tmp_path / "d", files)
    command = [
        sys.executable,
        "-m",
        "metarl.datasets",
        "build",
        "mini-imagenet",
        "--data",
        str(place),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum("100 of 100" in each for each in said) == 1
    (path,) = cache.caches(("mini-imagenet",))
    found = cache.read(path, thorough=True)
    assert found is not None
    assert np.unique(found.images).tolist() == [128]


def test_a_process_waits_for_the_one_that_builds(root, load, monkeypatch, capsys):
    path = cache.path_of(datasets.located("mini-imagenet", root), 84)
    path.parent.mkdir(parents=True)
    held = [disk.lock(path.with_name(f".{path.name}.lock"))]
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.close(held.pop())

    monkeypatch.setattr(time, "sleep", sleep)
    assert len(load().names) == 2
    assert len(waited) == 3
    assert capsys.readouterr().err.count("another process builds it; waiting") == 1
