"""Environments that carry a task: what is common to all of them, single and vector.

A task is a row of floats. Both forms sample tasks with `sample_tasks(count, rng)`, take one with
`set_task` or with `reset(options={"task": ...})`, and report it in `info["task"]`; observations
never contain it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Seeds = int | Sequence[int | None] | None


class TaskFamily(Protocol):
    """A distribution over tasks.

    Attributes:
        size: D, the number of floats in a task.
        default: the task [D] of an environment that was not given one.
    """

    size: int
    default: Array

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` tasks, [count, D]."""

    def check(self, tasks: Array) -> None:
        """Raise ValueError if one of the tasks [n, D], all finite, means nothing."""


def _as_tasks(family: TaskFamily, tasks: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return tasks as a new float64 array of the given shape, or raise ValueError."""
    array = np.array(tasks, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"task must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"task must be finite, got {array.tolist()}")
    family.check(array.reshape(-1, family.size))
    return array


class TaskEnv(gym.Env[Array, Array]):
    """A single environment with a task.

    Args:
        family: the distribution of its tasks.
    """

    def __init__(self, family: TaskFamily) -> None:
        """Start with the family's default task."""
        self.family = family
        self._task = family.default.copy()

    @property
    def task(self) -> Array:
        """The current task, a copy, [D]."""
        return self._task.copy()

    @task.setter
    def task(self, task: ArrayLike) -> None:
        self._task = _as_tasks(self.family, task, (self.family.size,))

    def set_task(self, task: ArrayLike) -> None:
        """Set the task [D], from the next step on."""
        self.task = task

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` tasks from `rng` alone, [count, D] float64."""
        return self.family.sample(count, rng)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the environment's generator; None goes on with the one it has.
            options: `{"task": [D]}` sets the task; without it the task stays.

        Returns:
            The first observation, and info with the task.
        """
        super().reset(seed=seed)
        if options is not None and "task" in options:
            self.task = options["task"]
        return self._begin(), self._info()

    def _begin(self) -> Array:
        """Draw an initial state from `self.np_random` and return its observation."""
        raise NotImplementedError

    def _info(self) -> dict[str, Any]:
        return {"task": self.task}

    def _finite_action(self, action: ArrayLike) -> Array:
        """Return the action as float64, clipped to the action space."""
        return clip_actions(self, self.action_space, np.asarray(action))


class TaskVectorEnv(VectorEnv[Array, Array, NDArray[Any]]):
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
            return a buffer that the next call overwrites.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self,
        num_envs: int,
        family: TaskFamily,
        observation_space: gym.spaces.Box,
        action_space: gym.spaces.Box,
        max_episode_steps: int | None = None,
        copy: bool = True,
    ) -> None:
        """Start with the family's default task in every slot."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.family = family
        self.copy = copy
        self.horizon = None if max_episode_steps in (None, -1) else max_episode_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._tasks = np.tile(family.default, (num_envs, 1))
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._observations = np.zeros((num_envs, *observation_space.shape))
        self._elapsed = np.full(num_envs, -1, dtype=np.int64)
        self._terminated = np.zeros(num_envs, dtype=np.bool_)
        self._truncated = np.zeros(num_envs, dtype=np.bool_)

    @property
    def task(self) -> Array:
        """The current task of every slot, a copy, [n, D]."""
        return self._tasks.copy()

    @task.setter
    def task(self, tasks: ArrayLike) -> None:
        self._tasks = _as_tasks(self.family, tasks, self._tasks.shape)

    def set_task(self, tasks: ArrayLike) -> None:
        """Set every slot's task, [n, D], from the next step on."""
        self.task = tasks

    def sample_tasks(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` tasks from `rng` alone, [count, D] float64."""
        return self.family.sample(count, rng)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of every slot; one that has none yet is seeded by the system."""
        return tuple(self._generator(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:
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
            tasks = _as_tasks(self.family, options["task"], self._tasks.shape)
            self._tasks[slots] = tasks[slots]
        for slot in slots:
            if seeds[slot] is not None:
                generator, self._seeds[slot] = seeding.np_random(int(seeds[slot]))
                self._generators[slot] = generator
        self._observations[slots] = self._begin(slots)
        self._elapsed[slots] = 0
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
        if self._elapsed.min() < 0:
            raise gym.error.ResetNeeded("call reset() before step()")
        clipped = clip_actions(self, self.action_space, np.asarray(actions))
        moving = ~(self._terminated | self._truncated)
        rewards = np.zeros(self.num_envs)
        info: dict[str, Any] = {"task": self.task, "_task": moving}
        if moving.all():
            self._elapsed += 1
            rewards, self._terminated, extra = self._advance(clipped, None)
            info |= extra
        elif moving.any():
            self._step_some(np.flatnonzero(moving), clipped, rewards, info)
        if self.horizon is not None:
            self._truncated |= self._elapsed >= self.horizon
        return (
            self._returned_observations(),
            rewards,
            self._terminated.copy(),
            self._truncated.copy(),
            info,
        )

    def _step_some(
        self, slots: NDArray[np.int64], clipped: Array, rewards: Array, info: dict[str, Any]
    ) -> None:
        """Step some of the slots; write their rewards and info into the given full arrays."""
        self._elapsed[slots] += 1
        rewards[slots], self._terminated[slots], extra = self._advance(clipped[slots], slots)
        for key, value in extra.items():
            if key.startswith("_"):
                info[key] = info["_task"]
            else:
                info[key] = np.zeros((self.num_envs, *value.shape[1:]))
                info[key][slots] = value

    def _returned_observations(self) -> Array:
        return self._observations.copy() if self.copy else self._observations

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


def clip_actions(env: TaskEnv | TaskVectorEnv, space: gym.Space, actions: NDArray[Any]) -> Array:
    """Return actions as a new float64 array, clipped to the space, or raise ValueError."""
    if actions.shape != space.shape:
        raise ValueError(f"{name_of(env)}: actions must be {space.shape}, got {actions.shape}")
    if not np.isfinite(actions).all():
        bad = np.argwhere(~np.isfinite(actions))[0]
        slot = f" in slot {bad[0]}" if actions.ndim > 1 else ""
        raise ValueError(f"{name_of(env)}: action{slot} is not finite: {actions[tuple(bad[:-1])]}")
    return np.clip(actions, space.low, space.high, dtype=np.float64)


def name_of(env: TaskEnv | TaskVectorEnv) -> str:
    """Return the id an environment was made with, else its class's name."""
    return type(env).__name__ if env.spec is None else env.spec.id
