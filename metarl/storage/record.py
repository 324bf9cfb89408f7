"""The record of a run, ``metrics.jsonl``: one JSON object a line, added as training goes, cut where it is resumed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.storage import disk

METRICS = "metrics.jsonl"


class RunError(Exception):
    """A run that cannot be made, found or written; one sentence with the path and the cause."""


class Record:
    """The open record of a run.

    Args:
        path: of the file, made if missing.

    Attributes:
        lines: how many it has; of a file that was there before, once it was cut by `keep`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, 0
        self._file = path.open("ab", buffering=0)

    def add(self, values: Mapping[str, float | None]) -> None:
        """Append a line.

        Raises:
            RunError: the disk does not take it.
        """
        with disk.failures_as(RunError, self.path):
            self.check_place()
            line = _line(values)
            # What does not fit any more is cut short first, and refused with its cause then.
            while line:
                line = line[self._file.write(line) :]
        self.lines += 1

    def keep(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Have these lines and no other."""
        self._file.close()
        disk.replace(self.path, b"".join(map(_line, records)))
        self._file = self.path.open("ab", buffering=0)
        self.lines = len(records)

    def sync(self) -> None:
        """Wait until the disk has it.

        Raises:
            RunError: the disk refuses, or the file is gone.
        """
        with disk.failures_as(RunError, self.path):
            self.check_place()
            os.fsync(self._file.fileno())

    def check_place(self) -> None:
        """Raise OSError where the run's folder was removed or moved away."""
        disk.check_same(self.path, self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The record of a run, one dictionary per line, without a last line that a crash cut short.

    Raises:
        RunError: there is none, or another line cannot be read.
    """
    path = Path(run) / METRICS
    with disk.failures_as(RunError, path):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            raise RunError(f"{path}: is missing; restore the file.") from None
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


def metrics_until(run: Path, iteration: int, lines: int | None) -> list[dict[str, Any]]:
    """The record of the iterations before one.

    Args:
        run: its folder.
        iteration: the first one to leave out; a run that was killed may have recorded it already.
        lines: how many there were when the checkpoint of that iteration was saved; None: it does not say.

    Raises:
        RunError: there is no record, or it is not what it was then.
    """
    records = [each for each in read_metrics(run) if each["iteration"] < iteration]
    if lines is not None and len(records) != lines:
        raise RunError(
            f"{run / METRICS}: has {len(records)} lines before iteration {iteration}, where the "
            f"checkpoint's record had {lines}; restore the file."
        )
    return records


def finite(value: float) -> float | None:
    """A number as it is recorded: an integer as one, NaN and infinity as null."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _is_record(record: Any) -> bool:
    """Whether it is what `Record.add` writes."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("iteration"), int)
        and isinstance(record.get("time"), int | float)
        and all(value is None or isinstance(value, int | float) for value in record.values())
    )
