"""Folders that tests write and read: runs, what TensorBoard sees of them, and image sets of generated pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from metarl import config
from metarl.config import Config
from metarl.datasets.sets import MINI_IMAGENET, SETS, SPLITS
from metarl.runs import Run

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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


def run_settings(folder: Path) -> Config:
    """Of a run that is never trained."""
    path = folder / "a.yaml"
    path.write_text(
        "iterations: 9\nproblem: {kind: rl, env: 'envs:X-v0', horizon: 5, episodes: 2}\n"
        "inner: {lr: 0.1}\nouter: {method: trpo}\nrun: {keep: 2}\n"
    )
    return config.load(path)


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
