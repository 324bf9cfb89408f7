"""Pictures of the cheetahs, drawn by MuJoCo."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray


class CheetahRenderer:
    """Draws a cheetah from a camera that follows it; opens OpenGL at the first picture.

    Args:
        model: the model.
        data: the data, whose positions are drawn.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, width: int, height: int) -> None:
        self.model, self.data = model, data
        self.width, self.height = width, height
        self._viewer: Any = None

    def draw(self) -> NDArray[np.uint8]:
        """Return a picture of the current state, [height, width, 3]."""
        # What is drawn lags the state by one step. These bring it up to date, and write nothing
        # that the next step would read.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        if self._viewer is None:
            self._viewer = self._open()
        picture: NDArray[np.uint8] = self._viewer.render("rgb_array")
        return picture

    def _open(self) -> Any:
        # Its MujocoRenderer resets the camera at every picture; to what depends on its version.
        from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

        visual = self.model.vis.global_
        visual.offwidth = max(visual.offwidth, self.width)
        visual.offheight = max(visual.offheight, self.height)
        try:
            with _backend():
                viewer = OffScreenViewer(self.model, self.data, self.width, self.height)
                viewer.render("rgb_array")
        except Exception as error:
            raise gym.error.Error(
                f"no picture without OpenGL, which failed with MUJOCO_GL="
                f"{os.environ.get('MUJOCO_GL', '')!r}: set it to egl, or to osmesa where there is "
                "no GPU driver, before Python starts"
            ) from error
        viewer.cam.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        viewer.cam.trackbodyid = self.model.body("torso").id
        viewer.cam.distance, viewer.cam.elevation = 3.0, -20.0
        return viewer

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


@contextlib.contextmanager
def _backend() -> Iterator[None]:
    """Let Gymnasium choose EGL on a machine without a display, where it would try GLFW."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if os.environ.get("MUJOCO_GL") or screen or sys.platform != "linux":
        yield
        return
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "egl"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before
