"""Half-cheetahs that shall run at a given velocity, or in a given direction."""

from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.half_cheetah_rules import (
    Array,
    CheetahFamily,
    Directions,
    Velocities,
    make_preset,
    make_spaces,
)
from envs.physics import check_simulations, load_model, quiet_clock
from envs.rendering import CheetahRenderer
from envs.tasks import TaskEnv, name_of

MODEL = "half_cheetah.xml"
_SLOT = np.zeros(1, dtype=np.int64)


class HalfCheetahEnv(TaskEnv):
    """A single half-cheetah with a task; the subclasses document it.

    Args:
        family: the distribution of its tasks, with their reward.
        preset: "paper" or "gym".
        torso_position: whether the preset "gym" observes the torso's position too.
        render_mode: "rgb_array" or None.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 100}
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
        self.model = load_model(MODEL)
        self.preset = make_preset(preset, self.model, torso_position)
        super().__init__(family, *make_spaces(self.model, self.preset), render_mode)
        self.data = mujoco.MjData(self.model)
        self.dt = self.model.opt.timestep * self.preset.frame_skip
        self.metadata = self.metadata | {"render_fps": round(1.0 / self.dt)}
        self._renderer = CheetahRenderer(self.model, self.data, width, height)
        self._elapsed = np.zeros(1, dtype=np.int64)

    def set_state(self, qpos: ArrayLike, qvel: ArrayLike) -> None:
        """Start the simulation anew from positions [9] and velocities [9]."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)

    def _begin(self) -> Array:
        self.set_state(*self.preset.noise(self.np_random))
        self._elapsed[0] = 0
        return self._read(self.data.qpos[:1].copy())[0][0]

    def _read(self, x_before: Array) -> tuple[Array, Array]:
        """Return the observation [1, O] and the velocity [1]."""
        return self.preset.read(self.data.qpos[None], self.data.qvel[None], x_before)

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one step; see `gymnasium.Env.step`.

        Raises:
            ValueError: if the action is NaN or infinite, or has a wrong shape.
            SimulationError: if the simulation breaks down.
        """
        clipped = self._clipped(action)
        x_before = self.data.qpos[:1].copy()
        self.data.ctrl[:] = clipped
        with quiet_clock:
            mujoco.mj_step(self.model, self.data, nstep=self.preset.frame_skip)
        self._elapsed += 1
        obs, velocity = self._read(x_before)
        check_simulations(name_of(self), self.data.warning.number[None], obs, self._elapsed, _SLOT)
        reward = self.family.reward(velocity[0], clipped, self._task)
        info = {"x_position": float(self.data.qpos[0]), "x_velocity": float(velocity[0])}
        return obs[0], float(reward), False, False, self._info() | info

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture of the state [height, width, 3], or None without a render mode."""
        return None if self.render_mode is None else self._renderer.draw()

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


class HalfCheetahVelEnv(HalfCheetahEnv):
    """A half-cheetah that shall run at a goal velocity.

    ## Action
    `Box(-1, 1, (6,), float32)`, torques on the joints. Actions are clipped to this range, in the
    reward too.

    | index | joint  | torque at 1 [N m] |
    |-------|--------|-------------------|
    | 0     | bthigh | 120               |
    | 1     | bshin  | 90                |
    | 2     | bfoot  | 60                |
    | 3     | fthigh | 120               |
    | 4     | fshin  | 60                |
    | 5     | ffoot  | 30                |

    ## Observation
    `Box(-inf, inf, (O,), float64)`, O = 20 in the preset `paper`, 17 in `gym`, 20 in `gym` with
    `torso_position`. It never contains the task. All of it describes the state after the step.

    | index | quantity                                                       | unit       |
    |-------|----------------------------------------------------------------|------------|
    | 0     | height of the root, relative to the start                      | m          |
    | 1     | pitch of the root                                              | rad        |
    | 2-7   | angles of the joints, in the order of the actions              | rad        |
    | 8-9   | velocity of the root along x and z                             | m/s        |
    | 10    | angular velocity of the root                                   | rad/s      |
    | 11-16 | angular velocities of the joints, in the order of the actions  | rad/s      |
    | 17-19 | `paper`: centre of mass of the whole robot (x, y, z)           | m          |
    | 17-19 | `gym` with `torso_position`: torso (x, y, z)                   | m          |

    ## Task
    The goal velocity g along x in m/s, `[1]`; `sample_tasks` draws g ~ U(0, `max_velocity`). Until
    a task is set, g is the mean of that distribution.

    ## Reward
    `-|v - g| - 0.05 * sum(clip(a)**2)`. The velocity v is that of the robot's centre of mass after
    the step in the preset `paper`, and the root's mean velocity over the step in `gym`.

    ## Start
    | preset  | time per step | positions, around 0 | velocities, around 0 |
    |---------|---------------|---------------------|----------------------|
    | `paper` | 0.01 s        | N(0, 0.01^2)        | N(0, 0.1^2)          |
    | `gym`   | 0.05 s        | U(-0.1, 0.1)        | N(0, 0.1^2)          |

    `gym` starts and moves as Gymnasium's `HalfCheetah-v5` does, to the last bit.

    ## End
    Never terminated. Truncated after 200 steps (`max_episode_steps`).

    ## Info
    `task`, `x_position` of the root in m, `x_velocity` (v) in m/s.

    Source: Finn, Abbeel & Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", section 5.3; `gym` is the version of later papers (ProMP, PEARL), whose returns
    cannot be compared with those of `paper`.

    Args:
        preset: "paper" or "gym".
        max_velocity: upper end of the goal velocities, in m/s.
        **kwargs: see `HalfCheetahEnv`.
    """

    def __init__(self, preset: str = "paper", max_velocity: float = 2.0, **kwargs: Any) -> None:
        super().__init__(Velocities(max_velocity), preset, **kwargs)


class HalfCheetahDirEnv(HalfCheetahEnv):
    """A half-cheetah that shall run forward, or backward.

    Actions, observations, start, end and info are those of `HalfCheetahVelEnv`.

    ## Task
    The direction d, +1 forward or -1 backward, `[1]`; `sample_tasks` draws each with probability
    1/2. Until a task is set, d is +1.

    ## Reward
    `d * v - 0.05 * sum(clip(a)**2)`, with the velocity v of the preset.

    Source: Finn, Abbeel & Levine (2017), section 5.3.

    Args:
        preset: "paper" or "gym".
        **kwargs: see `HalfCheetahEnv`.
    """

    def __init__(self, preset: str = "paper", **kwargs: Any) -> None:
        super().__init__(Directions(), preset, **kwargs)
