"""How the tasks of a wave share matrix products where credit is computed and inner steps are taken."""

from __future__ import annotations

import torch
from torch import nn

from metarl import memory
from metarl.functional.closed_form import numbers_kept
from metarl.functional.tasks import Mapper, chunks


class Cutter:
    """Cuts the tasks of a wave into parts.

    On a CPU each is a part, for the threads to take. On a GPU as many as fit share each product, and as
    many in every wave of one size, as rounding depends on it; the parts follow one another.

    Args:
        device: of policies and updates.
        mapper: maps over the parts on a CPU.
        chunk: tasks of a part on a GPU; None: as many as fit, by the layers' sizes, before there is a wave to measure.
        obs_size: O, what the policy sees.
        policy: whose matrices ``[out, in]`` lead from one layer to the next.
    """

    def __init__(
        self,
        device: torch.device,
        mapper: Mapper,
        chunk: int | None,
        obs_size: int,
        policy: nn.Module,
    ) -> None:
        self.device, self.mapper, self.chunk = device, mapper, chunk
        self._sizes = [obs_size, *(len(each) for each in policy.parameters() if each.ndim > 1)]
        self._itemsize = next(policy.parameters()).element_size()
        self._fitting: dict[int, int] = {}

    def __call__(self, tasks: int, states: int) -> tuple[Mapper, list[slice]]:
        """What maps over the parts, and the parts.

        Args:
            tasks: M.
            states: of each task, N · T.
        """
        if self.device.type == "cpu":
            return self.mapper, chunks(tasks, 1)
        return map, chunks(tasks, self.chunk or self._that_fit(states))

    def _that_fit(self, states: int) -> int:
        if states not in self._fitting:
            fitting = memory.budget(self.device) // self.bytes_of_a_task(states)
            self._fitting[states] = max(1, fitting)
        return self._fitting[states]

    def bytes_of_a_task(self, states: int) -> int:
        """What a task's credit, or its inner step, takes at most.

        A gradient takes less than what an outer step keeps; a baseline its features in float64, their mask and squares.
        """
        gradient = self._itemsize * numbers_kept(self._sizes, steps=1)
        return states * max(gradient, 8 * 2 * (3 * self._sizes[0] + 4))
