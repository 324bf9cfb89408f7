"""Single environments that carry a task: what is common to all of them.

A task is a row of floats. Both forms sample tasks with `sample_tasks(count, rng)`, take one with
`set_task` or with `reset(options={"task": ...})`, and report it in `info["task"]`; observations
never contain it.
"""

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class TaskFamily(Protocol):
    """A distribution over tasks."""

    @property
    def size(self) -> int:
        """D, the number of floats in a task."""

    @property
    def default(self) -> Array:
        """The task of an environment that was not given one, a new array [D]."""

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` tasks, [count, D]."""

    def check(self, tasks: Array) -> None:
        """Raise ValueError if one of the tasks [n, D], all finite, means nothing."""


def as_tasks(family: TaskFamily, tasks: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return tasks as a new float64 array of the given shape, or raise ValueError."""
    array = np.array(tasks, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"task must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"task must be finite, got {array.tolist()}")
    family.check(array.reshape(-1, family.size))
    return array


class TaskEnv(gym.Env[Any, Any]):
    """A single environment with a task, at first the family's default.

    Args:
        family: the distribution of its tasks.
        observation_space: its observations, [O].
        action_space: its actions, [A].
        render_mode: one of those in the class's metadata, or None.
    """

    def __init__(
        self,
        family: TaskFamily,
        observation_space: Box,
        action_space: Box,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            modes = self.metadata["render_modes"]
            raise ValueError(f"render_mode must be None or one of {modes}, got {render_mode!r}")
        self.family = family
        self.observation_space = observation_space
        self.action_space = action_space
        self.render_mode = render_mode
        self._task = family.default
        self._low = action_space.low.astype(np.float64)
        self._high = action_space.high.astype(np.float64)

    @property
    def task(self) -> Array:
        """The current task, a copy, [D]."""
        return self._task.copy()

    @task.setter
    def task(self, task: ArrayLike) -> None:
        self._task = as_tasks(self.family, task, (self.family.size,))

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

    def _clipped(self, action: ArrayLike) -> Array:
        """Return the action [A] as new float64, clipped to the action space."""
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self._low.shape:
            message = f"{name_of(self)}: an action has shape {self._low.shape}, got {values.shape}"
            raise ValueError(message)
        if not np.isfinite(values).all():
            raise ValueError(f"{name_of(self)}: the action is not finite: {values}")
        return np.clip(values, self._low, self._high)


def name_of(env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """Return the id an environment was made with, else its class's name."""
    return type(env).__name__ if env.spec is None else env.spec.id
