"""The folder of a run: settings, record of metrics, figures, TensorBoard's files, checkpoints."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from metarl import checkpoints, config, disk, system
from metarl.board import Board
from metarl.checkpoints import Checkpoint, CheckpointError
from metarl.config import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG, SYSTEM, METRICS = "config.yaml", "system.json", "metrics.jsonl"
_RUN_NAME = re.compile(r"\d{8}T\d{6}Z-s\d+(-\d+)?")


class RunError(Exception):
    """A run that cannot be made, found or written; one sentence with the path and the cause."""


class Run:
    """An open run, written by this process alone. Made by `create` or `reopen`; a context manager.

    Attributes:
        path: the run's folder.
        config: the run's settings.
    """

    def __init__(self, path: Path, settings: Config) -> None:
        self.path = path
        self.config = settings
        try:
            self._lock = disk.lock(path / ".lock")
        except BlockingIOError:
            raise RunError(
                f"{path}: another process writes this run; wait for it, or end it."
            ) from None
        self._metrics = (path / METRICS).open("ab", buffering=0)
        self._board = Board(path, settings)

    @classmethod
    def create(cls, settings: Config, name: str, directory: str | Path | None = None) -> Run:
        """Make a new run, ``<directory>/<name>/<UTC time>-s<seed>``.

        Args:
            settings: everything that decides its numbers.
            name: its group, as a rule the name of the configuration file without ``.yaml``.
            directory: folder of all runs; None: ``run.directory`` of the settings.

        Raises:
            RunError: it cannot be written there; nothing is left behind.
        """
        group = Path(directory or settings.run.directory) / name
        with disk.failures_as(RunError, group):
            path = disk.new_folder(group, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-s{settings.seed}")
        try:
            with disk.failures_as(RunError, path):
                system.write(path / SYSTEM)
                run = cls(path, settings)
                # Last and whole: a folder is a run as soon as it has settings, and locked by then.
                disk.replace(path / CONFIG, config.dump(settings).encode())
                return run
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    @classmethod
    def reopen(cls, path: str | Path, iteration: int, settings: Config | None = None) -> Run:
        """Continue a run with ``iteration``: what it recorded from there on is taken back.

        Args:
            path: the run's folder.
            iteration: the first iteration to come.
            settings: new settings, such as more iterations; None: those of the run.

        Raises:
            RunError: there is no run, another process writes it, or the disk refuses.
            ConfigError: its ``config.yaml`` cannot be used.
        """
        path = find_run(path)
        settings = settings or config.load(path / CONFIG)
        with disk.failures_as(RunError, path):
            run = cls(path, settings)
            try:
                run._rewind(iteration)
            except BaseException:
                run.close()
                raise
        return run

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Append metrics of one iteration to the record and to TensorBoard.

        Args:
            iteration: iterations completed before this one.
            metrics: tag to value; NaN and infinity are recorded as null. ``env_steps``, the
                environment steps so far, is also the second x axis of the returns.

        Raises:
            RunError: the disk does not take it.
        """
        record: dict[str, float | None] = {"iteration": iteration, "time": time.time()}
        record |= {tag: _finite(value) for tag, value in metrics.items()}
        with disk.failures_as(RunError, self.path / METRICS):
            self._check_place()
            line = (json.dumps(record, allow_nan=False) + "\n").encode()
            while (
                line
            ):  # what does not fit any more is cut short first, and refused with its cause then
                line = line[self._metrics.write(line) :]
        self._show(record)

    def figure(self, tag: str, figure: Figure | bytes, iteration: int) -> None:
        """Keep a figure, ``figures/<tag>/<iteration>.png``, and show it in TensorBoard.

        Args:
            tag: its name; a ``/`` makes a group.
            figure: of Matplotlib, or the bytes of a PNG file.
            iteration: iterations completed.

        Raises:
            RunError: the disk does not take it.
        """
        if not isinstance(figure, bytes):
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=120)
            figure = png.getvalue()
        path = self.path / "figures" / tag / f"{iteration:06d}.png"
        with disk.failures_as(RunError, path):
            self._check_place()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(figure)
        self._board.image(tag, figure, iteration)

    def save_checkpoint(
        self,
        iteration: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        score: float | None = None,
    ) -> Path:
        """Save a checkpoint and remove those that need not be kept: see `checkpoints.save`.

        Raises:
            CheckpointError, RunError: the disk does not take it, or the record up to then.
        """
        with disk.failures_as(RunError, self.path / METRICS):
            self._check_place()
            # Else a power failure could leave a checkpoint without the record up to it.
            os.fsync(self._metrics.fileno())
        directory = self.path / "checkpoints"
        path = checkpoints.save(directory, iteration, tensors, state, score)
        checkpoints.prune(directory, self.config.run.keep)
        return path

    def close(self) -> None:
        """Write what is queued and let other processes have the run."""
        self._board.close()
        self._metrics.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_place(self) -> None:
        disk.check_same(self.path / METRICS, self._metrics.fileno())

    def _show(self, record: Mapping[str, Any]) -> None:
        metrics = dict(record)
        self._board.scalars(metrics.pop("iteration"), metrics, metrics.pop("time"))

    def _rewind(self, iteration: int) -> None:
        """Take back everything from ``iteration`` on; TensorBoard's view is made again."""
        records = [each for each in read_metrics(self.path) if each["iteration"] < iteration]
        try:
            resumed = system.resumed(self.path / SYSTEM, iteration)
        except ValueError:
            raise RunError(
                f"{self.path / SYSTEM}: is damaged; restore the file, or remove it."
            ) from None
        self._metrics.close()
        lines = "".join(json.dumps(record) + "\n" for record in records)
        disk.replace(self.path / METRICS, lines.encode())
        self._metrics = (self.path / METRICS).open("ab", buffering=0)
        for record in records:
            self._show(record)
        for path in sorted(self.path.glob("figures/**/*.png")):
            if not path.stem.isdecimal():
                continue  # somebody else's
            if int(path.stem) <= iteration:
                tag = path.parent.relative_to(self.path / "figures").as_posix()
                self._board.image(tag, path.read_bytes(), int(path.stem))
            else:
                path.unlink()
        disk.remove_leftovers(self.path)
        checkpoints.remove_leftovers(self.path / "checkpoints")
        checkpoints.set_aside(self.path / "checkpoints", iteration)
        disk.replace(self.path / CONFIG, config.dump(self.config).encode())
        disk.replace(self.path / SYSTEM, resumed)


def find_run(run: str | Path, root: str | Path = "runs") -> Path:
    """The folder of a run.

    Args:
        run: the folder, one of its checkpoints, or ``latest``: the one created last under ``root``.
        root: folder of all runs.

    Raises:
        RunError: there is none.
    """
    if str(run) == "latest":
        found = [path.parent for path in Path(root).glob(f"*/*/{CONFIG}")]
        found = [path for path in found if _RUN_NAME.fullmatch(path.name)]
        if not found:
            raise RunError(f"{root}: holds no run; train one first, or name its folder.")
        return max(found, key=_created)
    path = Path(run)
    with disk.failures_as(RunError, path):
        if _is_checkpoint(path):
            path = path.parent.parent
        if not path.is_dir():
            raise RunError(f"{path}: there is no such folder; name a run, or 'latest'.")
        if not (path / CONFIG).is_file():
            raise RunError(f"{path}: is not a run, it has no {CONFIG}; name a run, or 'latest'.")
    return path


def find_checkpoint(run: str | Path, root: str | Path = "runs") -> tuple[Checkpoint, list[str]]:
    """The checkpoint that is meant by a path.

    Args:
        run: a checkpoint, or a run or ``latest``: the newest checkpoint of it that can be trusted.
        root: folder of all runs.

    Returns:
        The checkpoint, and a sentence for each newer one that was refused.

    Raises:
        RunError: there is no such run.
        CheckpointError: there is no checkpoint, or none that can be trusted.
    """
    if _is_checkpoint(Path(run)):
        return checkpoints.load(run), []
    path = find_run(run, root)
    checkpoint, refused = checkpoints.newest_valid(path)
    if checkpoint is None:
        reason = f"none that can be trusted: {refused[0]}" if refused else "no checkpoint yet."
        raise CheckpointError(f"{path}: has {reason}")
    return checkpoint, refused


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The record of a run, one dictionary per line, without a last line that a crash cut short.

    Raises:
        RunError: there is none, or another line cannot be read.
    """
    path = Path(run) / METRICS
    with disk.failures_as(RunError, path):
        lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not _is_record(record):
            raise RunError(f"{path}: line {number} is damaged; restore the file.")
        records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether it is what `Run.log` writes."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("iteration"), int)
        and isinstance(record.get("time"), int | float)
        and all(value is None or isinstance(value, int | float) for value in record.values())
    )


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and not (path / CONFIG).exists()


def _created(path: Path) -> tuple[str, float]:
    return path.name.partition("-")[0], path.stat().st_ctime


def _finite(value: float) -> float | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
