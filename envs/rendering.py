"""Pictures of the environments: MuJoCo's renderer for the cheetahs, plain NumPy for navigation."""

import os
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class CheetahRenderer:
    """Draws a cheetah from a camera that follows it; opens OpenGL at the first frame.

    Args:
        model: the model.
        data: the data, whose positions are drawn.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, width: int, height: int
    ) -> None:
        """Remember what to draw."""
        self.model, self.data = model, data
        self.size = width, height
        self._renderer: Any = None

    def draw(self) -> Image:
        """Return a picture of the current state [height, width, 3]."""
        if self._renderer is None:
            self._renderer = self._open()
        # Bring the drawn positions up to date, touching nothing that the next step reads.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return self._renderer.render("rgb_array")

    def _open(self) -> Any:
        try:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            width, height = self.size
            visual = self.model.vis.global_
            visual.offwidth = max(visual.offwidth, width)
            visual.offheight = max(visual.offheight, height)
            camera = {"distance": 4.0}
            renderer = MujocoRenderer(self.model, self.data, camera, width, height)
            renderer.render("rgb_array")
        except Exception as error:
            raise gym.error.Error(
                f"no OpenGL backend works here (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}): "
                "set MUJOCO_GL=egl, or MUJOCO_GL=osmesa for a machine without a GPU, before Python "
                "starts"
            ) from error
        return renderer

    def close(self) -> None:
        """Free the OpenGL context, if one was made."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def draw_path(path: NDArray[np.float64], goal: NDArray[np.float64], size: int) -> Image:
    """Draw a path through the plane, its start and a goal.

    Args:
        path: positions [t, 2] from the start on.
        goal: position [2].
        size: of the picture, in pixels.

    Returns:
        The picture [size, size, 3] of a square around the origin that holds all points.
    """
    reach = 1.1 * max(0.55, float(np.abs(path).max()), float(np.abs(goal).max()))
    rows, columns = np.mgrid[size - 1 : -1 : -1, 0:size]
    pixels = ((np.stack((columns, rows), axis=-1) + 0.5) / size * 2.0 - 1.0) * reach
    image = np.full((size, size, 3), 255, dtype=np.uint8)
    unit = reach / size
    image[np.abs(pixels).min(axis=-1) < unit] = (220, 220, 220)
    for start, end in zip(path[:-1], path[1:], strict=True):
        image[_distance(pixels, start, end) < 2.0 * unit] = (60, 90, 200)
    for point, radius, colour in (
        (path[0], 8.0, (120, 120, 120)),
        (goal, 10.0, (30, 150, 60)),
        (path[-1], 6.0, (200, 60, 40)),
    ):
        image[_distance(pixels, point, point) < radius * unit] = colour
    return image


def _distance(
    pixels: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance of every pixel [s, s, 2] to the segment from start to end, [s, s]."""
    along = end - start
    length = max(float(along @ along), 1e-12)
    share = np.clip((pixels - start) @ along / length, 0.0, 1.0)
    return np.linalg.norm(pixels - start - share[..., None] * along, axis=-1)
