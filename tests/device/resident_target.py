"""`support.TargetEnv` as a vector environment whose states live on a device, with a row in the registry."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import support
import torch
from gymnasium.vector import AutoresetMode, VectorEnv


class ResidentTargetEnv(VectorEnv):
    """Slots go on after their end, with a reward of NaN, as the contract allows."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self, num_envs: int, device: Any, max_episode_steps: int, size: int = 1, **kwargs: Any
    ) -> None:
        self.num_envs, self.device, self.horizon = num_envs, device, max_episode_steps
        single = support.TargetEnv(size, **kwargs)
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.random_end = single.random_end

    def reset(self, *, seed: Any = None, options: Any = None):
        self.tasks = torch.from_numpy(options["task"]).to(self.device)
        lengths = np.full(self.num_envs, self.horizon + 1)
        if self.random_end:
            drawn = (gym.utils.seeding.np_random(each)[0].integers(1, 7) for each in seed)
            lengths = np.fromiter(drawn, dtype=np.int64)
        self.lengths = torch.from_numpy(lengths).to(self.device)
        self.taken = torch.zeros_like(self.lengths)
        return torch.ones(self.num_envs, 1, device=self.device, dtype=torch.float64), {}

    def step(self, actions: torch.Tensor):
        over = self.taken >= self.lengths
        self.taken += 1
        reward = -(actions - self.tasks).square().sum(-1)
        reward = torch.where(over, torch.nan, reward)
        obs = torch.where(over, torch.nan, torch.ones_like(reward))
        return obs[:, None], reward, self.taken >= self.lengths, self.taken >= self.horizon, {}


gym.register(id="simulated/Target-v0", vector_entry_point=ResidentTargetEnv)
