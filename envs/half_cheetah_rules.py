"""What the half-cheetahs observe, how they start, and what they are rewarded for.

Every function broadcasts over environments; the single and the vector forms share them. Rewards
are made of operators alone, so that the form on a GPU computes them from its tensors.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import mujoco
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.kinematics import PlanarTree
from envs.tasks import TaskFamily

Array = NDArray[np.float64]
Values = Any  # arrays of NumPy, or tensors of torch
CONTROL_COST = 0.05
JOINTS = 9


def control_cost(action: Values) -> Values:
    """Return 0.05 * sum of squared torques, [...], of actions [..., A].

    The sum runs in index order, so that its bits do not depend on the shape of the batch.
    """
    squares = action * action
    total = squares[..., 0]
    for index in range(1, squares.shape[-1]):
        total = total + squares[..., index]
    return CONTROL_COST * total


def velocity_reward(velocity: Values, action: Values, task: Values) -> Values:
    """Return -|v - g| - 0.05 * sum(a^2), [...].

    Args:
        velocity: v along x in m/s, [...].
        action: a, clipped to [-1, 1], [..., 6].
        task: the goal velocity g in m/s, [..., 1].
    """
    return -abs(velocity - task[..., 0]) - control_cost(action)


def direction_reward(velocity: Values, action: Values, task: Values) -> Values:
    """Return d * v - 0.05 * sum(a^2), [...].

    Args:
        velocity: v along x in m/s, [...].
        action: a, clipped to [-1, 1], [..., 6].
        task: the direction d, +1 or -1, [..., 1].
    """
    return task[..., 0] * velocity - control_cost(action)


class CheetahFamily(TaskFamily, Protocol):
    """A distribution over tasks of a cheetah, with its reward."""

    def reward(self, velocity: Values, action: Values, task: Values) -> Values:
        """Return the rewards [...] of velocities [...], actions [..., 6], tasks [..., 1]."""


@dataclass(frozen=True)
class Velocities:
    """Goal velocities g ~ U(0, max_velocity) in m/s."""

    max_velocity: float = 2.0
    size: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        """Raise ValueError unless the range is one."""
        if not 0.0 < self.max_velocity < np.inf:
            raise ValueError(f"max_velocity must be positive, got {self.max_velocity}")

    @property
    def default(self) -> Array:
        """The mean of the distribution, [1]."""
        return np.array([self.max_velocity / 2])

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` goal velocities, [count, 1]."""
        return rng.uniform(0.0, self.max_velocity, size=(count, 1))

    def check(self, tasks: Array) -> None:
        """Accept any finite velocity, so that a policy can be tried outside the training range."""

    def reward(self, velocity: Values, action: Values, task: Values) -> Values:
        """See `velocity_reward`."""
        return velocity_reward(velocity, action, task)


@dataclass(frozen=True)
class Directions:
    """Directions, +1 forward or -1 backward with probability 1/2 each."""

    size: int = field(default=1, init=False)

    @property
    def default(self) -> Array:
        """Forward, [1]."""
        return np.array([1.0])

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` directions, [count, 1]."""
        return rng.choice([-1.0, 1.0], size=(count, 1))

    def check(self, tasks: Array) -> None:
        """Raise ValueError unless every direction is +1 or -1."""
        if not (np.abs(tasks) == 1.0).all():
            raise ValueError(f"direction must be +1 or -1, got {tasks.ravel().tolist()}")

    def reward(self, velocity: Values, action: Values, task: Values) -> Values:
        """See `direction_reward`."""
        return direction_reward(velocity, action, task)


class Preset(Protocol):
    """What the literature's two versions of the cheetah differ in."""

    @property
    def frame_skip(self) -> int:
        """Physics steps of 0.01 s per environment step."""

    @property
    def observation_size(self) -> int:
        """O."""

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw what is added to qpos [9] and qvel [9] at a reset."""

    def read(
        self, qpos: Array, qvel: Array, x_before: Array, out: Array | None = None
    ) -> tuple[Array, Array]:
        """Return what is seen and rewarded after a step.

        Args:
            qpos: positions after the step, [n, 9].
            qvel: velocities after the step, [n, 9].
            x_before: the root's x before the step in m, [n].
            out: where to write the observations, [n, O]; None for a new array.

        Returns:
            Observations [n, O], and the velocities along x [n] in m/s that are rewarded.
        """


class Paper:
    """The cheetah of Finn, Abbeel & Levine (2017): 0.01 s per step, 20 observations."""

    frame_skip = 1
    observation_size = 20

    def __init__(self, model: mujoco.MjModel) -> None:
        self.tree = PlanarTree(model)

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw N(0, 0.01^2) for qpos, N(0, 0.1^2) for qvel."""
        return 0.01 * rng.standard_normal(JOINTS), 0.1 * rng.standard_normal(JOINTS)

    def read(
        self, qpos: Array, qvel: Array, x_before: Array, out: Array | None = None
    ) -> tuple[Array, Array]:
        """Return [qpos[1:], qvel, centre of mass], and the velocity of the centre of mass."""
        com, velocity = self.tree.centre_of_mass(qpos, qvel)
        return np.concatenate((qpos[:, 1:], qvel, com), axis=1, out=out), velocity


class Gym:
    """The cheetah of Gymnasium's HalfCheetah-v5: 0.05 s per step, 17 observations."""

    frame_skip = 5

    def __init__(self, model: mujoco.MjModel, torso_position: bool = False) -> None:
        self.dt = model.opt.timestep * self.frame_skip
        self.origin = model.body("torso").pos.copy()
        self.torso_position = torso_position
        self.observation_size = 20 if torso_position else 17

    def noise(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw U(-0.1, 0.1) for qpos, N(0, 0.1^2) for qvel."""
        return rng.uniform(-0.1, 0.1, JOINTS), 0.1 * rng.standard_normal(JOINTS)

    def read(
        self, qpos: Array, qvel: Array, x_before: Array, out: Array | None = None
    ) -> tuple[Array, Array]:
        """Return [qpos[1:], qvel (, torso position)], and the root's mean velocity in the step."""
        velocity = (qpos[:, 0] - x_before) / self.dt
        parts = [qpos[:, 1:], qvel]
        if self.torso_position:
            torso = np.tile(self.origin, (len(qpos), 1))
            torso[:, 0::2] += qpos[:, :2]
            parts.append(torso)
        return np.concatenate(parts, axis=1, out=out), velocity


def make_preset(name: str, model: mujoco.MjModel, torso_position: bool = False) -> Preset:
    """Return the preset of that name, or raise ValueError."""
    if name == "gym":
        return Gym(model, torso_position)
    if name == "paper":
        if torso_position:
            raise ValueError("torso_position belongs to the preset 'gym'")
        return Paper(model)
    raise ValueError(f"preset must be 'paper' or 'gym', got {name!r}")


def make_spaces(model: mujoco.MjModel, preset: Preset) -> tuple[Box, Box]:
    """Return the observation space and the action space of one cheetah."""
    low, high = model.actuator_ctrlrange.T.astype(np.float32)
    return Box(-np.inf, np.inf, (preset.observation_size,), np.float64), Box(low, high)
