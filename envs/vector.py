"""Vector environments that carry tasks: what is common to all of them."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from envs.tasks import Array, TaskFamily, as_tasks, name_of

Seeds = int | Sequence[int | None] | None


class TaskVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """Many environments of one family in lock-step, each with its own task.

    Every slot behaves as a single environment with the same seed, task and actions would, to the
    last bit. Slots are not reset on their own (`AutoresetMode.DISABLED`): after the end of its
    episode a slot is idle until the next `reset`. An idle slot ignores its action, repeats its
    last observation with reward 0, keeps its flags, and costs no simulation.

    Args:
        num_envs: number of slots, n.
        family: the distribution of the tasks.
        observation_space: of one slot.
        action_space: of one slot.
        max_episode_steps: steps after which an episode is truncated; None or -1: never.
        copy: whether `reset` and `step` return a new observation array each time. Without it they
            return a buffer that the next call overwrites, and that callers must not write to.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        num_envs: int,
        family: TaskFamily,
        observation_space: Box,
        action_space: Box,
        max_episode_steps: int | None = None,
        copy: bool = True,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if max_episode_steps == -1:  # Gymnasium's way to say never
            max_episode_steps = None
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.num_envs = num_envs
        self.family = family
        self.copy = copy
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._low = np.tile(action_space.low.astype(np.float64), (num_envs, 1))
        self._high = np.tile(action_space.high.astype(np.float64), (num_envs, 1))
        self._tasks = np.tile(family.default, (num_envs, 1))
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._observations = np.zeros((num_envs, *observation_space.shape))
        self._elapsed = np.full(num_envs, -1, dtype=np.int64)
        self._ready = False
        self._terminated = np.zeros(num_envs, dtype=np.bool_)
        self._truncated = np.zeros(num_envs, dtype=np.bool_)

    @property
    def task(self) -> Array:
        """The current task of every slot, a copy, [n, D]."""
        return self._tasks.copy()

    @task.setter
    def task(self, tasks: ArrayLike) -> None:
        self._tasks = as_tasks(self.family, tasks, self._tasks.shape)
        self._use_tasks()

    def set_task(self, tasks: ArrayLike) -> None:
        """Set every slot's task, [n, D], from the next step on."""
        self.task = tasks

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` tasks from `rng` alone, [count, D] float64."""
        return self.family.sample(count, rng)

    @property  # type: ignore[misc]  # like SyncVectorEnv, which has one generator per slot too
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of every slot; one that has none yet is seeded by the system."""
        return tuple(self._generator(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of every slot's generator."""
        _ = self.np_random
        return tuple(self._seeds)

    def _generator(self, slot: int) -> np.random.Generator:
        generator = self._generators[slot]
        if generator is None:
            generator, self._seeds[slot] = seeding.np_random()
            self._generators[slot] = generator
        return generator

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every slot, or in those of a mask.

        Args:
            seed: an integer s seeds slot i with s + i; a sequence of n seeds, or None each, seeds
                every slot with its own; None goes on with the generators there are.
            options: `{"task": [n, D]}` sets the tasks; `{"reset_mask": bool [n]}` resets only the
                slots where it is True, and sets only their tasks.

        Returns:
            Observations [n, O]; info with the tasks.
        """
        options = options or {}
        slots = self._slots_to_reset(options.get("reset_mask"))
        seeds = self._slot_seeds(seed)
        if "task" in options:
            tasks = as_tasks(self.family, options["task"], self._tasks.shape)
            self._tasks[slots] = tasks[slots]
            self._use_tasks()
        for slot in slots:
            if seeds[slot] is not None:
                generator, self._seeds[slot] = seeding.np_random(int(seeds[slot]))
                self._generators[slot] = generator
        self._observations[slots] = self._begin(slots)
        self._elapsed[slots] = 0
        self._ready = bool(self._elapsed.min() >= 0)
        self._terminated[slots] = False
        self._truncated[slots] = False
        started = np.zeros(self.num_envs, dtype=np.bool_)
        started[slots] = True
        return self._returned_observations(), {"task": self.task, "_task": started}

    def _slots_to_reset(self, mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask must be bool [{self.num_envs}] with at least one True")
        return np.flatnonzero(mask)

    def _slot_seeds(self, seed: Seeds) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must hold {self.num_envs} seeds, got {len(seed)}")
        return seed

    def step(
        self, actions: ArrayLike
    ) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take one step in every slot whose episode goes on.

        Args:
            actions: [n, A]; clipped to the action space.

        Returns:
            Observations [n, O], rewards [n], terminated [n], truncated [n], info.

        Raises:
            gymnasium.error.ResetNeeded: before the first `reset`.
            ValueError: if an action is NaN or infinite, or the shape is wrong.
            SimulationError: if a simulation breaks down.
        """
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step()")
        clipped = self._clipped(actions)
        moving = ~(self._terminated | self._truncated)
        rewards = np.zeros(self.num_envs)
        info: dict[str, Any] = {"task": self.task, "_task": moving}
        count = np.count_nonzero(moving)
        if count == self.num_envs:
            self._elapsed += 1
            rewards, self._terminated, extra = self._advance(clipped, None)
            info |= extra | {f"_{key}": moving for key in extra}
        elif count > 0:
            self._step_some(np.flatnonzero(moving), clipped, rewards, info)
        if self.max_episode_steps is not None:
            self._truncated |= self._elapsed >= self.max_episode_steps
        ended = self._terminated.copy(), self._truncated.copy()
        return self._returned_observations(), rewards, *ended, info

    def _step_some(
        self, slots: NDArray[np.int64], clipped: Array, rewards: Array, info: dict[str, Any]
    ) -> None:
        """Step some of the slots; write their rewards and info into the given full arrays."""
        self._elapsed[slots] += 1
        rewards[slots], self._terminated[slots], extra = self._advance(clipped[slots], slots)
        for key, value in extra.items():
            info[key] = np.zeros((self.num_envs, *value.shape[1:]))
            info[key][slots] = value
            info[f"_{key}"] = info["_task"]

    def _clipped(self, actions: ArrayLike) -> Array:
        """Return the actions [n, A] as new float64, clipped to the action space."""
        values = np.asarray(actions, dtype=np.float64)
        if values.shape != self._low.shape:
            message = f"{name_of(self)}: actions have shape {self._low.shape}, got {values.shape}"
            raise ValueError(message)
        finite = np.isfinite(values)
        if not finite.all():
            slot = int(np.argmin(finite.all(axis=1)))
            message = f"{name_of(self)}: the action in slot {slot} is not finite: {values[slot]}"
            raise ValueError(message)
        return np.clip(values, self._low, self._high)

    def _returned_observations(self) -> Array:
        return self._observations.copy() if self.copy else self._observations

    def _use_tasks(self) -> None:
        """Called when tasks have changed, for what must be done about it at once."""

    def _begin(self, slots: NDArray[np.int64]) -> Array:
        """Draw initial states of the given slots [k] and return their observations [k, O]."""
        raise NotImplementedError

    def _advance(
        self, actions: Array, slots: NDArray[np.int64] | None
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Array]]:
        """Move the given slots [k], all for None, by one step.

        Writes their observations into `self._observations`; returns their rewards [k], terminated
        flags [k], and further entries of info [k, ...].
        """
        raise NotImplementedError
