"""Folders that tests write, read and compare: runs, what TensorBoard sees of them, sets of generated pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metarl import config, runs
from metarl.config import Config
from metarl.datasets.sets import MINI_IMAGENET, SETS, SPLITS
from metarl.runs import Run

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PICTURES = 6
"""Of each class."""
TINY = """
iterations: 3
device: cpu
threads: 1
problem: {kind: rl, env: "envs:Navigation2D-v0", horizon: 6, episodes: 2}
network: {hidden_sizes: [4]}
inner: {lr: 0.5}
outer: {method: trpo, tasks: 2}
evaluation: {tasks: 3, steps: 2}
"""
CLOCKS = ("time", "time/collect", "time/outer", "time/env_steps_per_second")
"""What a clock measured: the tags whose numbers no two runs share."""


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


def run_settings(folder: Path) -> Config:
    """Of a run that is never trained."""
    path = folder / "a.yaml"
    path.write_text(
        "iterations: 9\nproblem: {kind: rl, env: 'envs:X-v0', horizon: 5, episodes: 2}\n"
        "inner: {lr: 0.1}\nouter: {method: trpo}\nrun: {keep: 2}\n"
    )
    return config.load(path)


def tiny_settings(folder: Path, *overrides: str) -> Config:
    """Of a policy that is evaluated in a moment."""
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return config.load(path, overrides)


def new_run(settings: Config, folder: Path) -> Run:
    """Under ``folder/runs``."""
    return Run.create(settings, "a", folder / "runs")


def fill(run: Run, start: int, stop: int, sign: int) -> None:
    """Record, draw and save some iterations, whose values have a sign."""
    for i in range(start, stop):
        run.log(i, {"return/pre": sign * i, "env_steps": 10 * i})
        run.log(i, {"eval/return_step_0": sign * i})
        run.figure("curve", png(i + 1), i + 1)
        run.save_checkpoint(i + 1, {"theta": torch.full((2,), float(sign * i))}, {"i": i})


def without_clocks(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What repeats of an iteration's metrics."""
    return {tag: value for tag, value in metrics.items() if tag not in CLOCKS}


def record(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what a clock measured."""
    return [without_clocks(line) for line in runs.read_metrics(run)]


def weights(run: Path) -> dict[str, Tensor]:
    """The tensors of its newest checkpoint."""
    return runs.find_checkpoint(run)[0].tensors


def assert_same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same names in the same order, and every bit of their tensors."""
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def assert_same_run(one: Path, other: Path) -> None:
    """The records and the newest checkpoints' tensors are equal to the bit."""
    assert record(one) == record(other)
    assert_same_bits(weights(one), weights(other))


def spoil_checkpoints(run: Path, *iterations: int) -> None:
    """Leave nothing in the files of these checkpoints."""
    for iteration in iterations:
        for path in (run / f"checkpoints/{iteration:06d}").iterdir():
            path.write_bytes(b"")


def events(path: Path) -> EventAccumulator:
    """What TensorBoard shows, without hiding the doubles that a resumed run could have."""
    # Imported here: it takes a second, and every test reads this file.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(path), purge_orphaned_data=False, size_guidance={"scalars": 0, "images": 0}
    )
    accumulator.Reload()
    return accumulator


def scalars(path: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of every event of a tag."""
    return [(event.step, event.value) for event in events(path).Scalars(tag)]


def png(colour: int) -> bytes:
    """A picture of 4 x 3 pixels, as red as that."""
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (colour, 0, 0)).save(content, "png")
    return content.getvalue()
