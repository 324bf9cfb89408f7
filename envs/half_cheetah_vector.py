"""Many half-cheetahs in lock-step, on MuJoCo's batch engine."""

from typing import Any

import numpy as np
from mujoco.batch import Batch
from mujoco.batch import SimulationError as BatchError
from numpy.typing import ArrayLike, NDArray

from envs.errors import SimulationError
from envs.half_cheetah import MODEL
from envs.half_cheetah_rules import (
    Array,
    CheetahFamily,
    Directions,
    Velocities,
    make_preset,
    make_spaces,
)
from envs.physics import check_simulations, load_model, quiet_clock
from envs.tasks import name_of
from envs.vector import TaskVectorEnv

_ALL = slice(None)


class HalfCheetahVectorEnv(TaskVectorEnv):
    """Half-cheetahs in lock-step; see `TaskVectorEnv` for its manners.

    Several of them may step at the same time, each in a Python thread of its own: the physics
    runs without the interpreter's lock.

    Args:
        num_envs: number of slots.
        family: the distribution of the tasks, with their reward.
        preset: "paper" or "gym".
        torso_position: whether the preset "gym" observes the torso's position too.
        num_threads: threads that step the simulations, 0 for one per processor; the results are
            the same for any number.
        max_episode_steps: steps after which an episode is truncated; None: never.
        copy: whether every call returns a new observation array.
    """

    family: CheetahFamily

    def __init__(
        self,
        num_envs: int,
        family: CheetahFamily,
        preset: str = "paper",
        torso_position: bool = False,
        num_threads: int = 1,
        max_episode_steps: int | None = None,
        copy: bool = True,
    ) -> None:
        self.model = load_model(MODEL)
        self.preset = make_preset(preset, self.model, torso_position)
        spaces = make_spaces(self.model, self.preset)
        super().__init__(num_envs, family, *spaces, max_episode_steps, copy)
        self.batch = Batch(self.model, num_envs, num_threads)
        self._initial = self.batch.state[0].copy()
        self._qpos = self.batch.bind("qpos")
        self._qvel = self.batch.bind("qvel")
        self._ctrl = self.batch.bind("ctrl")
        self._warnings = self.batch.warning[:, :, 1]
        self._slots = np.arange(num_envs)

    def set_state(
        self, qpos: ArrayLike, qvel: ArrayLike, slots: NDArray[np.int64] | None = None
    ) -> None:
        """Start simulations anew from positions [k, 9] and velocities [k, 9]; None for all."""
        rows = _ALL if slots is None else slots
        # Copying the rows does what batch.reset does, at a fortieth of its price.
        self.batch.state[rows] = self._initial
        self.batch.warning[rows] = 0
        self._qpos[rows] = qpos
        self._qvel[rows] = qvel
        with quiet_clock:
            self.batch.forward(slots)

    def _begin(self, slots: NDArray[np.int64]) -> Array:
        noise = [self.preset.noise(self._generator(slot)) for slot in slots]
        qpos, qvel = (np.array(part) for part in zip(*noise, strict=True))
        self.set_state(qpos, qvel, slots)
        return self.preset.read(qpos, qvel, qpos[:, 0])[0]

    def _advance(
        self, actions: Array, slots: NDArray[np.int64] | None
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Array]]:
        rows = _ALL if slots is None else slots
        x_before = self._qpos[rows, 0].copy()
        self._ctrl[rows] = actions
        self._simulate(slots)
        qpos, qvel = self._qpos[rows], self._qvel[rows]
        out = self._observations if slots is None else None
        obs, velocity = self.preset.read(qpos, qvel, x_before, out)
        if slots is not None:
            self._observations[slots] = obs
        check_simulations(
            name_of(self), self._warnings[rows], obs, self._elapsed[rows], self._slots[rows]
        )
        rewards = self.family.reward(velocity, actions, self._tasks[rows])
        info = {"x_position": qpos[:, 0].copy(), "x_velocity": velocity}
        return rewards, np.zeros(len(rewards), dtype=np.bool_), info

    def _simulate(self, slots: NDArray[np.int64] | None) -> None:
        try:
            with quiet_clock:
                self.batch.step(slots, nstep=self.preset.frame_skip)
        except BatchError as error:
            slot = int(error.ids[0])
            raise SimulationError(
                f"{name_of(self)}: the simulation in slot {slot} stopped at step "
                f"{self._elapsed[slot]}: {self.batch.error(slot)}",
                slot,
            ) from error


class HalfCheetahVelVectorEnv(HalfCheetahVectorEnv):
    """Many `HalfCheetahVelEnv` in lock-step.

    Args:
        num_envs: number of slots.
        preset: "paper" or "gym".
        max_velocity: upper end of the goal velocities, in m/s.
        **kwargs: see `HalfCheetahVectorEnv`.
    """

    def __init__(
        self, num_envs: int, preset: str = "paper", max_velocity: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(num_envs, Velocities(max_velocity), preset, **kwargs)


class HalfCheetahDirVectorEnv(HalfCheetahVectorEnv):
    """Many `HalfCheetahDirEnv` in lock-step.

    Args:
        num_envs: number of slots.
        preset: "paper" or "gym".
        **kwargs: see `HalfCheetahVectorEnv`.
    """

    def __init__(self, num_envs: int, preset: str = "paper", **kwargs: Any) -> None:
        super().__init__(num_envs, Directions(), preset, **kwargs)
