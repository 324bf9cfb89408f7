"""Paths are drawn within boxes: the same pixels as when every pixel is asked for every segment."""

import itertools
import time

import numpy as np
import pytest

from envs import drawing


def slow_path(path, goal, size):
    """The picture by its definition: what is nearer than a radius has the colour."""
    reach = max(1.0, 1.1 * np.abs(goal).max())
    unit = 2.0 * reach / size
    at = (np.arange(size) + 0.5) * unit - reach
    x, y = np.meshgrid(at, at[::-1])
    image = np.full((size, size, 3), 255, np.uint8)
    image[np.minimum(np.abs(x), np.abs(y)) < 0.75 * unit] = 220
    strokes = [(a, b, 1, (60, 90, 200)) for a, b in itertools.pairwise(path)]
    for point, radius, colour in (
        (path[0], 4, (120, 120, 120)),
        (goal, 5, (30, 150, 60)),
        (path[-1], 3, (200, 60, 40)),
    ):
        strokes.append((point, point, radius, colour))
    for a, b, radius, colour in strokes:
        along = b - a
        share = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(along @ along, 1e-12)
        share = np.clip(share, 0.0, 1.0)
        gap = np.hypot(x - a[0] - share * along[0], y - a[1] - share * along[1])
        image[gap < radius * unit] = colour
    return image


def walk(steps, spread, seed):
    moves = np.random.default_rng(seed).normal(0.0, spread, (steps, 2))
    return np.concatenate([np.zeros((1, 2)), moves.cumsum(0)])


PATHS = {
    "a point": (np.zeros((1, 2)), [0.4, 0.3]),
    "one that stays": (np.zeros((3, 2)), [-0.5, 0.5]),
    "a walk": (walk(40, 0.05, 0), [0.3, -0.2]),
    "a long way": (walk(20, 0.5, 1), [0.1, 0.1]),
    "a goal far away": (walk(10, 0.1, 2), [5.0, -3.0]),
    "along the axes": (np.array([[0.0, 0.0], [0.5, 0.0], [0.5, -0.5], [-0.5, -0.5]]), [0.0, 0.5]),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("size", [17, 100])
def test_the_picture_is_the_slow_ones(name, size):
    path, goal = PATHS[name]
    goal = np.array(goal)
    assert np.array_equal(drawing.draw_path(path, goal, size), slow_path(path, goal, size))


def test_the_pictures_of_an_episode_have_the_same_axes():
    """However far it goes, start and goal stay where they are, and what is drawn is drawn over, not moved."""
    path, goal = np.array([[0.0, 0.0], [0.5, 0.5], [0.9, -0.9], [3.0, -3.0]]), np.array([-0.5, 0.4])
    pictures = [drawing.draw_path(path[: count + 1], goal, 100) for count in range(4)]
    green = [(picture == (30, 150, 60)).all(axis=-1) for picture in pictures]
    rows, columns = np.nonzero(green[0])
    centre = np.array([columns.mean() + 0.5, 100 - rows.mean() - 0.5]) * 2.0 / 100 - 1.0
    np.testing.assert_allclose(centre, goal, atol=0.02)
    assert all((each == green[0]).all() for each in green)
    axes = [(picture == 220).all(axis=-1) for picture in pictures]
    # Two lines of two pixels, less the start that is drawn over them.
    assert axes[0][:, 0].nonzero()[0].tolist() == axes[0][0].nonzero()[0].tolist() == [49, 50]
    assert all((axes[0] | ~each).all() for each in axes)
    assert not (pictures[3] == (200, 60, 40)).all(axis=-1).any(), "its end is outside"


def test_a_long_path_takes_little_time():
    path = walk(100, 0.05, 0)
    began = time.process_time()
    drawing.draw_path(path, np.array([0.3, 0.3]), 256)
    assert time.process_time() - began < 0.3
