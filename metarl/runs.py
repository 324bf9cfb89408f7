"""The folder of a run: settings, record of metrics, figures, TensorBoard's files, checkpoints."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from metarl import config, system
from metarl.config import Config, ConfigError
from metarl.presentation.board import Board
from metarl.storage import checkpoints, disk
from metarl.storage.checkpoints import Origin
from metarl.storage.finding import (
    CONFIG,
    SYSTEM,
    check_unsaved,
    find_checkpoint,
    find_run,
    newest_checkpoint,
)
from metarl.storage.record import METRICS, Record, RunError, finite, metrics_until, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CONFIG",
    "METRICS",
    "SYSTEM",
    "Run",
    "RunError",
    "check_unsaved",
    "find_checkpoint",
    "find_run",
    "newest_checkpoint",
    "read_metrics",
]


class Run:
    """An open run, written by this process alone. Made by `create` or `reopen`; a context manager.

    Attributes:
        path: the run's folder.
        config: the run's settings.
    """

    def __init__(self, path: Path, settings: Config) -> None:
        self.path = path
        self.config = settings
        self._facts: dict[str, Any] = {}  # what its `SYSTEM` holds, set by those who make the run
        try:
            self._lock = disk.lock(path / ".lock")
        except BlockingIOError:
            raise RunError(
                f"{path}: another process writes this run; wait for it, or end it."
            ) from None
        self._record = Record(path / METRICS)
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
                facts = system.begun()
                system.write(path / SYSTEM, facts)
                run = cls(path, settings)
                run._facts = facts
                # Last and whole: a folder is a run as soon as it has settings, and locked by then.
                disk.replace(path / CONFIG, config.dump(settings).encode())
                return run
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    @classmethod
    def reopen(
        cls,
        path: str | Path,
        iteration: int,
        settings: Config | None = None,
        origin: Origin | None = None,
    ) -> Run:
        """Continue a run with ``iteration``: what it recorded from there on is taken back.

        Args:
            path: the run's folder.
            iteration: the first iteration to come.
            settings: new settings, such as more iterations; None: those of the run.
            origin: of the checkpoint that it is continued from; None: it does not say.

        Raises:
            RunError: there is no run, another process writes it, its record has lost lines since the checkpoint
                was saved, or the disk refuses.
            ConfigError: its ``config.yaml`` cannot be used.
        """
        path = find_run(path)
        settings = settings or config.load(path / CONFIG)
        # Read before it is opened, which would make a file where one was lost.
        records = metrics_until(path, iteration, origin and origin.lines)
        with disk.failures_as(RunError, path):
            run = cls(path, settings)
            try:
                run._rewind(iteration, records, origin and origin.run)
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
        record |= {tag: finite(value) for tag, value in metrics.items()}
        self._record.add(record)
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
            self._record.check_place()
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
        self._record.sync()  # else a power failure could leave a checkpoint without the record up to it
        directory = self.path / "checkpoints"
        origin = Origin(self._facts["id"], self._record.lines)
        path = checkpoints.save(directory, iteration, tensors, state, score, origin)
        if not self._facts["saved"]:
            self._facts["saved"] = True
            with disk.failures_as(RunError, self.path / SYSTEM):
                system.write(self.path / SYSTEM, self._facts)
        checkpoints.prune(directory, self.config.run.keep)
        return path

    def close(self) -> None:
        """Write what is queued and let other processes have the run."""
        self._board.close()
        self._record.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, record: Mapping[str, Any]) -> None:
        metrics = dict(record)
        self._board.scalars(metrics.pop("iteration"), metrics, metrics.pop("time"))

    def _rewind(
        self, iteration: int, records: Sequence[Mapping[str, Any]], run_id: str | None
    ) -> None:
        """Take back everything but the records before ``iteration``; TensorBoard's view is made again."""
        before = system.read(self.path / SYSTEM)
        self._facts = system.resumed(before, iteration, self._changes(), run_id)
        # Before the record is cut: no checkpoint in the run is ever newer than the record.
        checkpoints.set_aside(self.path / "checkpoints", iteration)
        self._record.keep(records)
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
        system.write(self.path / SYSTEM, self._facts)
        disk.replace(self.path / CONFIG, config.dump(self.config).encode())

    def _changes(self) -> dict[str, tuple[Any, Any]] | None:
        """The settings that the run goes on with otherwise; None where its old ones cannot be used any more."""
        try:
            return config.changes(config.load(self.path / CONFIG), self.config)
        except ConfigError:
            return None
