"""`support.TargetEnv` as a native vector environment, with a row in the registry."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import support
from gymnasium.vector import AutoresetMode, VectorEnv


class NativeTargetEnv(VectorEnv):
    """All slots in one call, to the same numbers; an ended slot is idle.

    Args:
        num_envs: slots.
        max_episode_steps: steps after which an episode is truncated.
        size: of the action and of the task.
        random_end: as in `support.TargetEnv`.
        ends: the same.
        fault: a key of ``FAULTS``: how what a step returns is changed.
        fault_step: at which.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int = 100,
        size: int = 1,
        random_end: bool = False,
        ends: str = "terminated",
        fault: str = "",
        fault_step: int = 2,
    ) -> None:
        self.num_envs, self.horizon = num_envs, max_episode_steps
        self.single = support.TargetEnv(size, random_end=random_end)
        self.single_observation_space = self.single.observation_space
        self.single_action_space = self.single.action_space
        self.ends, self.fault, self.fault_step = ends, fault, fault_step
        self.sample_tasks, self.set_task = self.single.sample_tasks, self.single.set_task

    def reset(self, *, seed: Any = None, options: Any = None):
        self.tasks = options["task"]
        self.lengths = np.full(self.num_envs, -1)
        if self.single.random_end:
            drawn = (gym.utils.seeding.np_random(each)[0].integers(1, 7) for each in seed)
            self.lengths = np.fromiter(drawn, dtype=np.int64)
        self.taken = np.zeros(self.num_envs, dtype=np.int64)
        self.flags = np.zeros((2, self.num_envs), dtype=bool)
        return np.ones((self.num_envs, 1)), {}

    def step(self, actions: np.ndarray):
        moving = ~self.flags.any(0)
        self.taken += moving
        rewards = np.where(moving, -np.square(actions - self.tasks).sum(-1), 0.0)
        over = self.taken == self.lengths
        self.flags[0] |= over & (self.ends != "truncated")
        self.flags[1] |= (over & (self.ends != "terminated")) | (self.taken == self.horizon)
        returned = (np.ones((self.num_envs, 1)), rewards, *self.flags.copy(), {})
        wrong = self.fault and self.taken.max() == self.fault_step + 1
        return FAULTS[self.fault](*returned) if wrong else returned


FAULTS = {
    "scalar reward": lambda obs, reward, *rest: (obs, reward[0], *rest),
    "reward by columns": lambda obs, reward, *rest: (obs, reward[:, None], *rest),
    "reward of text": lambda obs, reward, *rest: (obs, reward.astype(str), *rest),
    "flat observations": lambda obs, *rest: (obs[:, 0], *rest),
    "wide observations": lambda obs, *rest: (obs.repeat(2, 1), *rest),
    "too few observations": lambda obs, *rest: (obs[1:], *rest),
    "one observation": lambda obs, *rest: (obs[:1], *rest),
    "complex observations": lambda obs, *rest: (obs + 1j, *rest),
    "ragged observations": lambda obs, *rest: ([[1.0], [1.0, 2.0]], *rest),
    "one flag": lambda obs, reward, ended, *rest: (obs, reward, ended[0], *rest),
    "flags of int": lambda obs, reward, ended, *rest: (obs, reward, ended.astype(int), *rest),
    "flags of float": lambda obs, reward, *_: (obs, reward, 0.0 * reward, 0.0 * reward, {}),
    "no flags": lambda obs, reward, ended, *_: (obs, reward, ended, None, {}),
    "four values": lambda *returned: returned[:4],
    "nothing": lambda *_: None,
}

gym.register(
    id="NativeTarget-v0", entry_point=support.TargetEnv, vector_entry_point=NativeTargetEnv
)
