"""A point in the plane that shall move to a goal."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray

from envs.drawing import draw_path
from envs.tasks import TaskEnv
from envs.vector import TaskVectorEnv

Array = NDArray[np.float64]
STEP = 0.1
ARRIVED = 0.01


def move(position: Array, action: Array) -> Array:
    """Return the positions [..., 2] after actions [..., 2] in [-1, 1]."""
    return position + STEP * action


def reward(position: Array, task: Array, squared: bool = False) -> Array:
    """Return minus the (squared) distance from positions [..., 2] to goals [..., 2], [...]."""
    gap = position - task
    square = gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1]
    return -square if squared else -np.sqrt(square)


def arrived(position: Array, task: Array) -> NDArray[np.bool_]:
    """Return whether both coordinates are within 0.01 of the goal, [...]."""
    close = np.abs(position - task) < ARRIVED
    return close[..., 0] & close[..., 1]


@dataclass(frozen=True)
class Goals:
    """Goal positions, uniform in [-0.5, 0.5]^2."""

    size: int = field(default=2, init=False)

    @property
    def default(self) -> Array:
        """A corner of the square, [2]."""
        return np.array([0.5, 0.5])

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` goals, [count, 2]."""
        return rng.uniform(-0.5, 0.5, size=(count, 2))

    def check(self, tasks: Array) -> None:
        """Accept any finite goal."""


def make_spaces() -> tuple[Box, Box]:
    """Return the observation space and the action space of one point."""
    return Box(-np.inf, np.inf, (2,), np.float64), Box(-1.0, 1.0, (2,))


class Navigation2DEnv(TaskEnv):
    """A point in the plane that shall move to a goal it cannot see.

    ## Action
    `Box(-1, 1, (2,), float32)`, the movement along x and y in units of 0.1. Actions are clipped
    to this range.

    ## Observation
    `Box(-inf, inf, (2,), float64)`, the position (x, y). It never contains the task.

    ## Task
    The goal position (x, y), `[2]`; `sample_tasks` draws it uniformly from [-0.5, 0.5]^2. Until a
    task is set, the goal is (0.5, 0.5).

    ## Reward
    Minus the distance to the goal after the move, as in the original code; with
    `squared_distance` minus its square, as in the paper's text.

    ## Start
    Position (0, 0).

    ## End
    Terminated where both coordinates are within 0.01 of the goal. Truncated after 100 steps
    (`max_episode_steps`).

    ## Info
    `task`.

    Source: Finn, Abbeel & Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", section 5.3.

    Args:
        squared_distance: whether the reward is minus the squared distance.
        render_mode: "rgb_array" or None.
        size: of the pictures, in pixels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, squared_distance: bool = False, render_mode: str | None = None, size: int = 256
    ) -> None:
        super().__init__(Goals(), *make_spaces(), render_mode)
        self.squared_distance = squared_distance
        self.size = size
        self._path = [np.zeros(2)]

    def _begin(self) -> Array:
        self._path = [np.zeros(2)]
        return np.zeros(2)

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`.

        Raises:
            ValueError: if the action is NaN or infinite, or has a wrong shape.
        """
        position = move(self._path[-1], self._clipped(action))
        self._path.append(position)
        gain = float(reward(position, self._task, self.squared_distance))
        return position.copy(), gain, bool(arrived(position, self._task)), False, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """Return start, goal and path so far [size, size, 3], or None without a render mode."""
        if self.render_mode is None:
            return None
        return draw_path(np.array(self._path), self._task, self.size)


class Navigation2DVectorEnv(TaskVectorEnv):
    """Many `Navigation2DEnv` in lock-step; see `TaskVectorEnv` for its manners.

    Args:
        num_envs: number of slots.
        squared_distance: whether the reward is minus the squared distance.
        max_episode_steps: steps after which an episode is truncated; None: never.
        copy: whether every call returns a new observation array.
    """

    def __init__(
        self,
        num_envs: int,
        squared_distance: bool = False,
        max_episode_steps: int | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__(num_envs, Goals(), *make_spaces(), max_episode_steps, copy)
        self.squared_distance = squared_distance

    def _begin(self, slots: NDArray[np.int64]) -> Array:
        return np.zeros((len(slots), 2))

    def _advance(
        self, actions: Array, slots: NDArray[np.int64] | None
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Array]]:
        rows = slice(None) if slots is None else slots
        tasks = self._tasks[rows]
        position = move(self._observations[rows], actions)
        self._observations[rows] = position
        return reward(position, tasks, self.squared_distance), arrived(position, tasks), {}
