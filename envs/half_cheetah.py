"""Half-cheetahs that shall run at a given velocity, or in a given direction."""

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from mujoco.batch import Batch
from mujoco.batch import SimulationError as BatchError
from numpy.typing import ArrayLike, NDArray

from envs.errors import SimulationError
from envs.half_cheetah_rules import Array, CheetahFamily, Directions, Velocities, make_preset
from envs.physics import check_warnings, load_model, quiet_clock
from envs.rendering import CheetahRenderer
from envs.tasks import TaskEnv, TaskVectorEnv, name_of

MODEL = "half_cheetah.xml"


def _spaces(model: mujoco.MjModel, size: int) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """Return the observation space and the action space of one cheetah."""
    low, high = model.actuator_ctrlrange.T.astype(np.float32)
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float64), gym.spaces.Box(low, high)


class HalfCheetahEnv(TaskEnv):
    """A single half-cheetah with a task; see the subclasses."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}
    family: CheetahFamily

    def __init__(
        self,
        family: CheetahFamily,
        preset: str = "paper",
        torso_position: bool = False,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        """Load the model and derive the preset's constants from it."""
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        super().__init__(family)
        self.model = load_model(MODEL)
        self.data = mujoco.MjData(self.model)
        self.preset = make_preset(preset, self.model, torso_position)
        self.dt = self.model.opt.timestep * self.preset.frame_skip
        self.observation_space, self.action_space = _spaces(
            self.model, self.preset.observation_size
        )
        self.metadata = self.metadata | {"render_fps": round(1.0 / self.dt)}
        self.render_mode = render_mode
        self._renderer = CheetahRenderer(self.model, self.data, width, height)
        self._elapsed = 0

    def set_state(self, qpos: ArrayLike, qvel: ArrayLike) -> None:
        """Put the cheetah at rest in the solver's memory, at positions and velocities [9]."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)

    def _begin(self) -> Array:
        self.set_state(*self.preset.noise(self.np_random))
        self._elapsed = 0
        return self._read(self.data.qpos[0])[0]

    def _read(self, x_before: float) -> tuple[Array, Array]:
        """Return the observation [O] and the velocity []."""
        before = np.array([x_before])
        obs, velocity = self.preset.read(self.data.qpos[None], self.data.qvel[None], before)
        return obs[0], velocity[0]

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`.

        Raises:
            ValueError: if the action is not finite or has a wrong shape.
            SimulationError: if the simulation breaks down.
        """
        clipped = self._finite_action(action)
        x_before = float(self.data.qpos[0])
        self.data.ctrl[:] = clipped
        mujoco.mj_step(self.model, self.data, nstep=self.preset.frame_skip)
        self._elapsed += 1
        obs, velocity = self._read(x_before)
        self._check(obs)
        reward = self.family.reward(velocity, clipped, self._task)
        info = {"x_position": self.data.qpos[0], "x_velocity": velocity}
        return obs, float(reward), False, False, self._info() | info

    def _check(self, obs: Array) -> None:
        counters = np.array([warning.number for warning in self.data.warning])[None]
        check_warnings(
            name_of(self), counters, obs[None], np.array([self._elapsed]), np.array([0])
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current frame [height, width, 3], or None without a render mode."""
        return None if self.render_mode is None else self._renderer.draw()

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


class HalfCheetahVectorEnv(TaskVectorEnv):
    """Half-cheetahs in lock-step on MuJoCo's batch engine; see the subclasses."""

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
        """Load the model and make one simulation per slot."""
        model = load_model(MODEL)
        self.preset = make_preset(preset, model, torso_position)
        spaces = _spaces(model, self.preset.observation_size)
        super().__init__(num_envs, family, *spaces, max_episode_steps, copy)
        self.model = model
        self.batch = Batch(model, num_envs, num_threads)
        self._qpos = self.batch.bind("qpos")
        self._qvel = self.batch.bind("qvel")
        self._ctrl = self.batch.bind("ctrl")
        self._warnings = self.batch.warning[:, :, 1]
        self._slots = np.arange(num_envs)

    def set_state(
        self, qpos: ArrayLike, qvel: ArrayLike, slots: NDArray[np.int64] | None = None
    ) -> None:
        """Put cheetahs at rest in the solver's memory, at positions and velocities [k, 9]."""
        with quiet_clock:
            self.batch.reset(slots, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
            rows = slice(None) if slots is None else slots
            self._qpos[rows] = qpos
            self._qvel[rows] = qvel
            self.batch.forward(slots)

    def _begin(self, slots: NDArray[np.int64]) -> Array:
        noise = [self.preset.noise(self._generator(slot)) for slot in slots]
        qpos, qvel = (np.array(part) for part in zip(*noise, strict=True))
        self.set_state(qpos, qvel, slots)
        return self.preset.read(qpos, qvel, qpos[:, 0])[0]

    def _advance(
        self, actions: Array, slots: NDArray[np.int64] | None
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Array]]:
        rows = slice(None) if slots is None else slots
        x_before = self._qpos[rows, 0].copy()
        self._ctrl[rows] = actions
        self._simulate(slots)
        qpos, qvel = self._qpos[rows], self._qvel[rows]
        if slots is None:
            obs, velocity = self.preset.read(qpos, qvel, x_before, self._observations)
        else:
            obs, velocity = self.preset.read(qpos, qvel, x_before)
            self._observations[slots] = obs
        check_warnings(
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
                f"{self._elapsed[slot]}: {self.batch.error(slot)}"
            ) from error


class HalfCheetahVelEnv(HalfCheetahEnv):
    """TODO table."""

    def __init__(
        self, preset: str = "paper", max_velocity: float = 2.0, **kwargs: Any
    ) -> None:
        """Make the environment."""
        super().__init__(Velocities(max_velocity), preset, **kwargs)


class HalfCheetahVelVectorEnv(HalfCheetahVectorEnv):
    """Many `HalfCheetahVelEnv` in lock-step."""

    def __init__(
        self, num_envs: int, preset: str = "paper", max_velocity: float = 2.0, **kwargs: Any
    ) -> None:
        """Make the environments."""
        super().__init__(num_envs, Velocities(max_velocity), preset, **kwargs)


class HalfCheetahDirEnv(HalfCheetahEnv):
    """TODO table."""

    def __init__(self, preset: str = "paper", **kwargs: Any) -> None:
        """Make the environment."""
        super().__init__(Directions(), preset, **kwargs)


class HalfCheetahDirVectorEnv(HalfCheetahVectorEnv):
    """Many `HalfCheetahDirEnv` in lock-step."""

    def __init__(self, num_envs: int, preset: str = "paper", **kwargs: Any) -> None:
        """Make the environments."""
        super().__init__(num_envs, Directions(), preset, **kwargs)
