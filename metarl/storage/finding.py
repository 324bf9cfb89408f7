"""Which run, and which of its checkpoints, is meant by a path."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from metarl import system
from metarl.storage import checkpoints, disk
from metarl.storage.checkpoints import Checkpoint, CheckpointError
from metarl.storage.record import RunError, read_metrics

CONFIG, SYSTEM = "config.yaml", "system.json"
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-s\d+(-\d+)?")


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
        found = [path for path in found if RUN_NAME.fullmatch(path.name)]
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
    checkpoint, refused = newest_checkpoint(path)
    if checkpoint is None:
        reason = f"none that can be trusted: {refused[0]}" if refused else "no checkpoint yet."
        raise CheckpointError(f"{path}: has {reason}")
    return checkpoint, refused


def newest_checkpoint(
    run: Path, use: Callable[[Checkpoint], None] = lambda _: None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a run that can be trusted, is the run's own, and can be used.

    Args:
        run: the run's folder.
        use: as of `checkpoints.newest_valid`, which says what is returned, too.

    Raises:
        RunError: the run's ``system.json`` is damaged.
    """
    own = system.read(run / SYSTEM).get("id")

    def use_own(found: Checkpoint) -> None:
        if own and found.origin and found.origin.run != own:
            raise CheckpointError("is of another run, so it is not used here.")
        use(found)

    return checkpoints.newest_valid(run, use_own)


def check_unsaved(run: Path) -> None:
    """Raise RunError where a run without a checkpoint has had one: to begin anew would wipe its record."""
    records = read_metrics(run)
    if records and system.read(run / SYSTEM).get("saved", True):
        count = 1 + max(each["iteration"] for each in records)
        raise RunError(
            f"{run}: its record has {count} iterations, but there is no checkpoint; restore the "
            "checkpoints, or start a new run."
        )


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and not (path / CONFIG).exists()


def _created(path: Path) -> tuple[str, float]:
    return path.name.partition("-")[0], path.stat().st_ctime
