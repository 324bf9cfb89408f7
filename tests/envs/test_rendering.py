"""Pictures show the state, and taking them changes nothing."""

import gymnasium as gym
import numpy as np
import pytest

import envs.rendering
from envs.drawing import REACH


def test_navigation_draws_start_path_and_goal():
    env = gym.make("envs:Navigation2D-v0", render_mode="rgb_array", size=100)
    env.reset(options={"task": [0.5, 0.0]})
    for _ in range(3):
        env.step([0.0, 1.0])
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((100, 100, 3), np.uint8)
    reach = REACH

    def colour(x, y):
        column, row = (int((value / reach + 1.0) / 2.0 * 100) for value in (x, y))
        return picture[99 - row, column].tolist()

    assert colour(0.0, 0.0) == [120, 120, 120]
    assert colour(0.0, 0.15) == [60, 90, 200]
    assert colour(0.0, 0.3) == [200, 60, 40]
    assert colour(0.5, 0.0) == [30, 150, 60]
    assert colour(-0.3, -0.3) == [255, 255, 255]


def test_navigation_draws_points_far_away():
    env = gym.make("envs:Navigation2D-v0", render_mode="rgb_array", size=64)
    env.reset(options={"task": [5.0, -3.0]})
    assert (env.render() == [30, 150, 60]).all(axis=-1).any()


@pytest.mark.parametrize("name", ["Navigation2D-v0", "HalfCheetahVel-v0"])
def test_without_a_render_mode_there_is_no_picture(name):
    env = gym.make(f"envs:{name}").unwrapped
    env.reset(seed=0)
    assert env.render() is None
    env.close()


@pytest.mark.parametrize(("preset", "fps"), [("paper", 100), ("gym", 20)])
def test_frames_per_second_are_those_of_the_simulation(preset, fps):
    env = gym.make("envs:HalfCheetahVel-v0", preset=preset)
    assert env.unwrapped.metadata["render_fps"] == fps
    assert "rgb_array" in env.metadata["render_modes"]


@pytest.mark.parametrize("preset", ["paper", "gym"])
def test_cheetah_pictures_show_it_move_and_change_nothing(preset):
    options = {"preset": preset, "width": 96, "height": 64}
    env = gym.make("envs:HalfCheetahVel-v0", render_mode="rgb_array", **options).unwrapped
    plain = gym.make("envs:HalfCheetahVel-v0", **options).unwrapped
    env.reset(seed=0)
    plain.reset(seed=0)
    try:
        first = env.render()
    except gym.error.Error as error:
        pytest.skip(str(error))
    assert (first.shape, first.dtype) == ((64, 96, 3), np.uint8)
    assert first.std() > 10
    assert np.array_equal(env.render(), first)
    for action in np.random.default_rng(0).uniform(-1, 1, size=(6, 6)):
        obs = env.step(action)[0]
        assert np.array_equal(obs, plain.step(action)[0])
        assert not np.array_equal(env.render(), first)
    env.close()


def middle_of_the_cheetah(picture):
    """Of the pixels that are more red than blue, which floor and sky are not: their median, in 0..1."""
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    places = np.argwhere(red > blue + 20)
    assert len(places) > 30, "there is no cheetah to be seen"
    return (np.median(places, axis=0) + 0.5) / picture.shape[:2]


def test_the_camera_follows_the_cheetah():
    env = gym.make("envs:HalfCheetahVel-v0", render_mode="rgb_array", width=96, height=96).unwrapped
    env.reset(seed=0)
    for x in (0.0, 0.3, 4.0, -7.0):
        env.set_state([x, *np.zeros(8)], np.zeros(9))
        try:
            row, column = middle_of_the_cheetah(env.render())
        except gym.error.Error as error:
            pytest.skip(str(error))
        assert abs(column - 0.5) < 0.1, x
        assert abs(row - 0.5) < 0.15, x
    env.close()


def test_a_machine_without_opengl_is_told_what_to_try(monkeypatch):
    env = gym.make("envs:HalfCheetahVel-v0", render_mode="rgb_array").unwrapped
    env.reset(seed=0)

    def fail(*args, **kwargs):
        raise RuntimeError("no context")

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_rendering.OffScreenViewer", fail)
    with pytest.raises(gym.error.Error, match=r"MUJOCO_GL=.* egl, or to osmesa"):
        env.render()


def test_the_choice_of_a_backend_leaves_the_environment_as_it_was(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(envs.rendering.sys, "platform", "linux")
    with envs.rendering._backend():
        assert envs.rendering.os.environ["MUJOCO_GL"] == "egl"
    assert "MUJOCO_GL" not in envs.rendering.os.environ
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with envs.rendering._backend():
        assert envs.rendering.os.environ["MUJOCO_GL"] == "osmesa"
