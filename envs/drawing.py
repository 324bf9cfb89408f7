"""Pictures of movements in the plane, drawn with NumPy alone."""

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

REACH = 1.0
"""Half a side of the square, unless the goal is farther away."""

_WHITE, _AXIS, _PATH = (255, 255, 255), (220, 220, 220), (60, 90, 200)
_START, _GOAL, _HERE = (120, 120, 120), (30, 150, 60), (200, 60, 40)


def draw_path(path: Array, goal: Array, size: int) -> NDArray[np.uint8]:
    """Draw a path (blue) with its start (grey), its end (red) and a goal (green).

    Args:
        path: positions from the start on, [t, 2].
        goal: position, [2].
        size: of the picture, in pixels.

    Returns:
        The picture [size, size, 3], y upwards, of a square around the origin that is the same for every path to
        the goal, so that pictures of an episode make a film; what lies outside is cut off.
    """
    reach = max(REACH, 1.1 * float(np.abs(goal).max()))
    unit = 2.0 * reach / size
    rows, columns = np.mgrid[size - 1 : -1 : -1, 0:size]
    pixels = (np.stack((columns, rows), axis=-1) + 0.5) * unit - reach
    image = np.full((size, size, 3), _WHITE, dtype=np.uint8)
    # Pixels beside an axis lie half a unit from it in a picture of even size: both are coloured.
    image[np.abs(pixels).min(axis=-1) < 0.75 * unit] = _AXIS
    for start, end in itertools.pairwise(path):
        _stroke(image, pixels, start, end, unit, _PATH)
    for point, radius, colour in ((path[0], 4, _START), (goal, 5, _GOAL), (path[-1], 3, _HERE)):
        _stroke(image, pixels, point, point, radius * unit, colour)
    return image


def _stroke(
    image: NDArray[np.uint8],
    pixels: Array,
    start: Array,
    end: Array,
    radius: float,
    colour: tuple[int, int, int],
) -> None:
    """Colour the pixels nearer than a radius to a segment, looking only at the box around it."""
    low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
    columns = slice(*np.searchsorted(pixels[0, :, 0], (low[0], high[0])))
    # Rows go downwards, y upwards.
    bottom, top = np.searchsorted(pixels[::-1, 0, 1], (low[1], high[1]))
    rows = slice(len(pixels) - top, len(pixels) - bottom)
    image[rows, columns][_distance(pixels[rows, columns], start, end) < radius] = colour


def _distance(pixels: Array, start: Array, end: Array) -> Array:
    """Return the distance of every pixel [h, w, 2] to the segment from start to end, [h, w]."""
    along = end - start
    share = np.clip((pixels - start) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
    return np.linalg.norm(pixels - start - share[..., None] * along, axis=-1)
