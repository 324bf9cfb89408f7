"""Many half-cheetahs on a GPU: states, observations and rewards never leave it."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from envs.half_cheetah import MODEL
from envs.half_cheetah_rules import (
    Array,
    CheetahFamily,
    Directions,
    Velocities,
    make_preset,
    make_spaces,
)
from envs.half_cheetah_tensors import make_reader
from envs.physics import load_model
from envs.tasks import name_of
from envs.vector import TaskVectorEnv
from envs.worlds import Worlds

_NEVER = np.iinfo(np.int32).max


class HalfCheetahWarpEnv(TaskVectorEnv):
    """Half-cheetahs in lock-step on MuJoCo Warp, for batches of thousands.

    Tasks, seeds and initial states are those of `HalfCheetahVectorEnv`; from there on the physics
    is float32, and trajectories part as those of any two engines do. `reset` and `step` give
    tensors on `device`, and `step` takes one; nothing in `step` waits for the GPU. For that:

    - slots go on moving after the end of their episode, until the next `reset`: whoever steps
      them leaves out what comes after;
    - a simulation that breaks down, or is given an action that is not finite, is not named: its
      observations and rewards become NaN or infinite, for whoever reads them to find.

    A family of tasks that differ in the robot, not in the reward, overrides `model_fields`.

    Args:
        num_envs: number of slots, n.
        family: the distribution of the tasks, with their reward.
        preset: "paper" or "gym".
        torso_position: whether the preset "gym" observes the torso's position too.
        max_episode_steps: steps after which an episode is truncated; None: never.
        device: "cuda", or "cpu" for Warp's CPU device, which is for tests.
    """

    family: CheetahFamily

    def __init__(
        self,
        num_envs: int,
        family: CheetahFamily,
        preset: str = "paper",
        torso_position: bool = False,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cuda",
    ) -> None:
        model = load_model(MODEL)
        self.preset = make_preset(preset, model, torso_position)
        spaces = make_spaces(model, self.preset)
        super().__init__(num_envs, family, *spaces, max_episode_steps)
        fields = self.model_fields(self._tasks)
        self.worlds = Worlds(model, num_envs, device, self.preset.frame_skip, fields)
        self.device = self.worlds.device
        self._read = make_reader(self.preset, self.device)
        self._bounds = [
            torch.from_numpy(each).to(self.device) for each in (spaces[1].low, spaces[1].high)
        ]
        self._told = torch.zeros(num_envs, family.size, device=self.device)
        self._steps = torch.zeros(num_envs, dtype=torch.int32, device=self.device)
        self._last = _NEVER if self.max_episode_steps is None else self.max_episode_steps
        self._ends = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._use_tasks()

    def model_fields(self, tasks: Array) -> dict[str, Array]:
        """Return the model fields that tasks [n, D] give their worlds, by name, [n, *shape].

        The names are those of `mujoco_warp.Model`, whose fields are mostly `mujoco.MjModel`'s,
        and must always be the same. Constants that follow from them are computed anew, world by
        world where they are named too: `body_subtreemass`, `body_invweight0` and
        `dof_invweight0` beside masses and inertias. The base class names none: its tasks differ
        in the reward.
        """
        return {}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """See `TaskVectorEnv.reset`; the observations are a tensor on the device."""
        _, info = super().reset(seed=seed, options=options)
        worlds = self.worlds
        return self._read(worlds.qpos, worlds.qvel, worlds.qpos[:, 0])[0], info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one step in every slot.

        Args:
            actions: float32 [n, A] on the device; clipped to the action space.

        Returns:
            Observations [n, O], rewards [n], terminated [n], truncated [n], on the device; info
            with `x_velocity` [n].

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
            ValueError: if the shape is wrong.
        """
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step()")
        if actions.shape != self.worlds.ctrl.shape:
            shape = tuple(self.worlds.ctrl.shape)
            message = f"{name_of(self)}: actions have shape {shape}, got {tuple(actions.shape)}"
            raise ValueError(message)
        worlds = self.worlds
        clipped: Tensor = torch.clamp(actions, *self._bounds)
        x_before = worlds.qpos[:, 0].clone()
        worlds.ctrl.copy_(clipped)
        worlds.step()
        obs, velocity = self._read(worlds.qpos, worlds.qvel, x_before)
        rewards = self.family.reward(velocity, clipped, self._told)
        self._steps += 1
        return obs, rewards, self._ends, self._steps >= self._last, {"x_velocity": velocity}

    def set_state(
        self, qpos: ArrayLike, qvel: ArrayLike, slots: NDArray[np.int64] | None = None
    ) -> None:
        """Start simulations anew from positions [k, 9] and velocities [k, 9]; None for all."""
        self.worlds.set_state(slice(None) if slots is None else slots, qpos, qvel)

    def _begin(self, slots: NDArray[np.int64]) -> Array:
        noise = [self.preset.noise(self._generator(slot)) for slot in slots]
        qpos, qvel = (np.array(part) for part in zip(*noise, strict=True))
        self.set_state(qpos, qvel, slots)
        self._steps[torch.from_numpy(slots).to(self.device)] = 0
        return self.preset.read(qpos, qvel, qpos[:, 0])[0]

    def _use_tasks(self) -> None:
        self._told.copy_(torch.from_numpy(self._tasks))
        fields = self.model_fields(self._tasks)
        for name, values in fields.items():
            self.worlds.assign(name, values)
        if fields:
            self.worlds.derive_constants()


class HalfCheetahVelWarpEnv(HalfCheetahWarpEnv):
    """Many `HalfCheetahVelEnv` on a GPU.

    Args:
        num_envs: number of slots.
        preset: "paper" or "gym".
        max_velocity: upper end of the goal velocities, in m/s.
        **kwargs: see `HalfCheetahWarpEnv`.
    """

    def __init__(
        self, num_envs: int, preset: str = "paper", max_velocity: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(num_envs, Velocities(max_velocity), preset, **kwargs)


class HalfCheetahDirWarpEnv(HalfCheetahWarpEnv):
    """Many `HalfCheetahDirEnv` on a GPU.

    Args:
        num_envs: number of slots.
        preset: "paper" or "gym".
        **kwargs: see `HalfCheetahWarpEnv`.
    """

    def __init__(self, num_envs: int, preset: str = "paper", **kwargs: Any) -> None:
        super().__init__(num_envs, Directions(), preset, **kwargs)
