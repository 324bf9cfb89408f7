"""Sampling where the environments live on the device, beside the policies: no step of a wave crosses to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.checks import conformance
from metarl.checks.failures import Naming
from metarl.data import Params
from metarl.sampler import Sampler, Wave, by_columns


class ResidentSampler(Sampler):
    """Samples waves of vector environments whose ``reset`` and ``step`` give tensors on the device.

    Such an environment takes actions ``[slots, A]`` as a tensor on the device, and gives observations ``[slots, O]``,
    rewards, terminated and truncated flags ``[slots]`` there. It need not leave ended slots idle: what comes after an
    episode's end is left out here. Nor need it name what breaks down: a number that is not finite is found when the
    wave is whole. Nothing waits for the device before that, so that it never runs out of work.

    Noise, seeds and thus initial states are those of :class:`Sampler`.
    """

    @torch.no_grad()
    def _sample_share(
        self,
        env: Any,
        params: Params,
        tasks: np.ndarray,
        seeds: np.ndarray,
        wave: Wave,
        check_own: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        slots, kept_as = len(tasks) * self.episodes, wave.obs.dtype
        form = (slots,), conformance.shape_of(env.single_observation_space), torch.as_tensor
        params = by_columns(params)
        options = {"task": np.repeat(tasks, self.episodes, axis=0)}
        with Naming(env, "reset"):
            returned = env.reset(seed=seeds.reshape(-1).tolist(), options=options)
            obs = conformance.of_reset(returned, *form)
        told = torch.from_numpy(tasks).to(self.device, kept_as)
        active = torch.ones(slots, dtype=torch.bool, device=self.device)
        for t in range(self.horizon):
            action, log_std = self._act(params, obs.to(kept_as), told, wave, t)
            with Naming(env, f"step {t}"):
                found = conformance.of_step(env.step(action), *form)
            obs, reward, terminated, truncated = found
            # Where it has ended a reward may be anything, NaN too.
            counted = torch.where(active, reward, torch.zeros_like(reward))
            wave.mask[:, :, t] = active.view(len(tasks), -1)
            wave.rewards[:, :, t] = counted.view(len(tasks), -1)
            active = active & ~(terminated | truncated)
        wave.log_std.copy_(log_std)
        ended = (wave.mask == 0.0).unsqueeze(-1)
        for kept in (wave.obs, wave.actions, wave.mean):
            kept.masked_fill_(ended, 0.0)
