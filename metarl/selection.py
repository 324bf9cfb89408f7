"""What an evaluation is of: runs with the settings to evaluate them with, and what is shown beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metarl import config
from metarl.errors import UserError
from metarl.presentation import published
from metarl.presentation.published import Row
from metarl.schema import Config, Inner, SupervisedConfig

if TYPE_CHECKING:
    from metarl.storage.checkpoints import Checkpoint

RANDOM = "random"
"""What names the untrained network as a reference."""


class Selected(NamedTuple):
    """A checkpoint of a run.

    Attributes:
        path: the run's folder.
        checkpoint: of what was learned.
        settings: to evaluate it with.
        seed: that it was trained with, whatever the settings say of held-out tasks.
    """

    path: Path
    checkpoint: Checkpoint
    settings: Config
    seed: int

    def changed(self, changes: Sequence[str]) -> Selected:
        """The same with some of the run's settings replaced, as on a command line."""
        from metarl import runs

        return self._replace(settings=config.load(self.path / runs.CONFIG, changes))

    @property
    def title(self) -> str:
        """What it is as a reference: one of the paper's, by the paper's word; else its group."""
        if getattr(self.settings.problem, "observe_task", False):
            return "oracle"
        if not isinstance(self.settings.inner, Inner):
            return self.settings.inner.rule
        return "pretrained" if self.settings.inner.steps == 0 else self.path.parent.name


def select(run: str, root: str | Path) -> Selected:
    """The checkpoint that is meant, with its run's own settings; refused ones are warned of.

    Args:
        run: a run, one of its checkpoints, or ``latest``.
        root: folder of all runs.
    """
    from metarl import runs

    checkpoint, refused = runs.find_checkpoint(run, root)
    for reason in refused:
        print(f"warning: {reason}", file=sys.stderr)
    path = runs.find_run(checkpoint.path)
    settings = config.load(path / runs.CONFIG)
    return Selected(path, checkpoint, settings, settings.seed)


def references(
    names: Sequence[str], beside: Config, root: str | Path
) -> dict[str, Selected | None]:
    """Other runs, to be evaluated on the same tasks at their own steps and rates; None is the untrained network.

    Args:
        names: of runs, or ``random``.
        beside: settings of the run that they are shown beside.
        root: folder of all runs.

    Returns:
        By the names to show: a second one of the same title has its path.

    Raises:
        UserError: its tasks differ.
    """
    problem, evaluation = beside.problem, beside.evaluation
    changes = {"seed": beside.seed, "device": beside.device, "threads": beside.threads}
    changes["evaluation.tasks"] = evaluation.tasks
    changes[f"evaluation.{evaluation.AMOUNT}"] = evaluation.amount or problem.amount
    found: dict[str, Selected | None] = {}
    for name in names:
        if name == RANDOM:
            found[name] = None
            continue
        other = select(name, root)
        if other.settings.problem.tasks != problem.tasks:
            raise UserError(f"{other.path}: its tasks differ, so it is no reference here.")
        other = other.changed([f"{key}={value}" for key, value in changes.items()])
        found[name if other.title in found else other.title] = other
    return found


def published_beside(settings: Config) -> tuple[Row, ...]:
    """The published results to show beside a run: on its tasks, of its variant of MAML."""
    return published.beside(settings.problem.published(), method(settings))


def method(settings: Config) -> str:
    """The variant of MAML that the settings are, by its published name; MAML where they are none alone."""
    if not isinstance(settings, SupervisedConfig):
        return "MAML"
    inner = settings.inner
    plus = (
        inner.learn_rates == "layer_step"
        and inner.per_step_normalisation
        and inner.multi_step_until > 0
    )
    are = {
        "Reptile": settings.outer.objective == "reptile",
        "FOMAML": inner.first_order,
        "ANIL": inner.adapt in ("head", ("head.*",)),
        "MAML++": plus,
    }
    found = [name for name, is_one in are.items() if is_one]
    return found[0] if len(found) == 1 else "MAML"
