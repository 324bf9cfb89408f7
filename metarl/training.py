"""What a training holds, and how it is saved and restored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.distributed.ranks import ALONE, Ranks
from metarl.schema import Config

if TYPE_CHECKING:
    from metarl.storage.checkpoints import Origin


class Training:
    """What training changes: meta-parameters, outer step, counters. Saved whole, restored whole.

    Args:
        settings: the configuration.
        ranks: the processes that share the tasks; what they hold of this is the same.
    """

    def __init__(self, settings: Config, ranks: Ranks = ALONE) -> None:
        import torch

        from metarl.building import make_outer, make_problem
        from metarl.resources import resolve_device, resolve_threads
        from metarl.seeding import Stream, generator

        # The matrices of one task are small: threads over tasks are faster than threads inside a product.
        torch.set_num_threads(1)
        self.settings, self.ranks = settings, ranks
        self.device = resolve_device(settings.device)
        self.threads = resolve_threads(settings.threads)
        self.problem = make_problem(settings, self.device, self.threads)
        self.outer = make_outer(settings)
        self.meta = self.problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        self.iteration = 0
        self.env_steps = 0

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.problem.close()

    def save(self, run: Any, score: float | None) -> None:
        """Write a checkpoint of this moment."""
        run.save_checkpoint(self.iteration, *self._contents(), score)

    def fingerprint(self) -> str:
        """A few letters that change with any bit of what is learned."""
        from metarl.storage.metastate import fingerprint

        return fingerprint(self._contents()[0])

    def spread(self) -> None:
        """Take over what the first process has restored."""
        from metarl.storage.checkpoints import Checkpoint, pack, unpack

        moment = lambda: Checkpoint(Path(), self.iteration, *self._contents(), None)  # noqa: E731
        told = self.ranks.from_first(moment, pack, unpack)
        if not self.ranks.first:
            self.restore(told)

    def agree(self) -> None:
        """On GPUs take over the first process's numbers: the same sums may end in other bits on another one."""
        if self.device == "cuda":
            self.spread()

    def _contents(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors and plain values of a checkpoint."""
        from metarl.storage.metastate import meta_to_tensors, outer_to_tensors

        memory, values = self.outer.state()
        tensors = meta_to_tensors(self.meta) | outer_to_tensors(memory)
        return tensors, {"env_steps": self.env_steps, "outer": values}

    def restore_newest(self, run: Path) -> Origin | None:
        """Continue from a run's newest checkpoint that can be used, with a warning for each that cannot.

        Returns:
            What the checkpoint says of its run; None where it does not, or the run has none yet and begins anew.

        Raises:
            CheckpointError: none of its checkpoints can be used.
            RunError: its checkpoints are gone.
        """
        from metarl import runs
        from metarl.storage import checkpoints

        found, refused = runs.newest_checkpoint(run, self.restore)
        for reason in refused:
            print(f"warning: {reason}", file=sys.stderr)
        if found is not None:
            return found.origin
        if refused:
            raise checkpoints.CheckpointError(
                f"{run}: has no checkpoint that can be used; start a new run."
            )
        runs.check_unsaved(run)
        print(f"warning: {run}: has no checkpoint yet, so it begins anew.", file=sys.stderr)
        return None

    def restore(self, checkpoint: Any) -> None:
        """Continue from a checkpoint; CheckpointError, and nothing changed, where it does not fit."""
        from metarl.storage.metastate import meta_from_tensors, restore_outer

        meta = meta_from_tensors(checkpoint.tensors, self.meta)
        self.env_steps = restore_outer(self.outer, checkpoint, meta, self.device)
        self.meta, self.iteration = meta, checkpoint.iteration
