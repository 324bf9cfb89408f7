"""The half-cheetah as published implementations write it: Gymnasium's own environment, its reward replaced.

Left out in its favour: Gymnasium's checker and wrappers; and where the paper's preset rewards and observes the centre
of mass, the velocity is the root's, and the centre of mass what the engine computed before its last physics step.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box

from envs.physics import route_warnings

FRAME_SKIP = {"paper": 1, "gym": 5}
CONTROL_COST = 0.05
TORSO = 1


def quiet_stock_model() -> None:
    """Keep back MuJoCo's warning of a deprecated attribute in the stock model's file."""
    route_warnings()
    logging.getLogger("envs").setLevel(logging.ERROR)


class GoalVelocityCheetah(HalfCheetahEnv):
    """A half-cheetah that shall run at ``options["task"]`` m/s, in either preset's size."""

    def __init__(self, preset: str) -> None:
        self.task, self.with_centre = 1.0, preset == "paper"
        super().__init__(frame_skip=FRAME_SKIP[preset], ctrl_cost_weight=CONTROL_COST)
        if self.with_centre:
            self.observation_space = Box(-np.inf, np.inf, (20,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode of a task."""
        if options is not None:
            self.task = float(options["task"][0])
        return super().reset(seed=seed)

    def _get_rew(self, x_velocity: float, action: Any) -> tuple[float, dict[str, float]]:
        return -abs(x_velocity - self.task) - self.control_cost(action), {}

    def _get_obs(self) -> Any:
        seen = super()._get_obs()
        return np.concatenate((seen, self.data.subtree_com[TORSO])) if self.with_centre else seen
