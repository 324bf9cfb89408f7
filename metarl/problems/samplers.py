"""The samplers of a problem: one for each size of wave, for environments of either kind."""

from __future__ import annotations

import torch

from metarl.functional.tasks import Mapper
from metarl.problems.environments import EnvironmentFamily
from metarl.resident import ResidentSampler
from metarl.sampler import Sampler, StackedPolicy

KEPT = 4
"""Sizes whose environments are kept: training's, the evaluation's, and what is left where tasks are skipped or cut."""


class Samplers:
    """Makes a sampler when a wave of its size first asks for it; its environments are kept from wave to wave.

    Of the sizes the ones used last are kept. A sampler made anew samples the same waves.

    Args:
        environments: the family of tasks.
        policy: acts for M tasks at once.
        threads: the tasks are shared out over at most so many vector environments, unless they live on the device.
        mapper: maps over those.
        device: where the policies act.
    """

    def __init__(
        self,
        environments: EnvironmentFamily,
        policy: StackedPolicy,
        threads: int,
        mapper: Mapper,
        device: torch.device,
    ) -> None:
        self.environments, self.policy, self.device = environments, policy, device
        self.threads, self.mapper = threads, mapper
        self._made: dict[tuple[int, int], Sampler] = {}

    def __call__(self, tasks: int, episodes: int) -> Sampler:
        """The one for so many tasks and episodes of each."""
        size = tasks, episodes
        if size in self._made:
            self._made[size] = self._made.pop(size)  # last is what was used last
        else:
            family = self.environments
            kind = ResidentSampler if family.resident else Sampler
            shared = (1, map) if family.resident else (self.threads, self.mapper)
            self._made[size] = kind(
                *(family, tasks, episodes, family.horizon, self.policy),
                *(*shared, self.device, family.observe_task),
            )
            if len(self._made) > KEPT:
                self._made.pop(next(iter(self._made))).close()
        return self._made[size]

    def stop(self) -> None:
        """Let waves that other threads still sample end at their next step: nobody waits for them."""
        for sampler in self._made.values():
            sampler.stop()

    def close(self) -> None:
        """Close the environments."""
        for sampler in self._made.values():
            sampler.close()
