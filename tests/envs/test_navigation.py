"""The point moves, is rewarded and arrives as the paper's code has it."""

import gymnasium as gym
import numpy as np
import pytest

NAME = "envs:Navigation2D-v0"


def test_an_episode_by_hand():
    env = gym.make(NAME)
    obs, info = env.reset(seed=0, options={"task": [0.3, -0.1]})
    assert obs.tolist() == [0.0, 0.0]
    assert info["task"].tolist() == [0.3, -0.1]
    # actions are in tenths, clipped to [-0.1, 0.1]
    obs, reward, terminated, _, _ = env.step([0.5, -7.0])
    np.testing.assert_allclose(obs, [0.05, -0.1], atol=1e-15)
    np.testing.assert_allclose(reward, -0.25, atol=1e-15)
    assert not terminated
    obs, reward, terminated, _, _ = env.step([1e30, 0.0])
    np.testing.assert_allclose(obs, [0.15, -0.1], atol=1e-15)
    np.testing.assert_allclose(reward, -0.15, atol=1e-15)
    assert not terminated
    env.step([1.0, 0.0])
    obs, reward, terminated, truncated, _ = env.step([0.45, 0.05])
    np.testing.assert_allclose(obs, [0.295, -0.095], atol=1e-15)
    np.testing.assert_allclose(reward, -np.sqrt(2 * 0.005**2), atol=1e-15)
    assert terminated
    assert not truncated


def test_squared_distance_is_the_square():
    plain, squared = gym.make(NAME), gym.make(NAME, squared_distance=True)
    for env in (plain, squared):
        env.reset(options={"task": [0.3, 0.4]})
    np.testing.assert_allclose(plain.step([0.0, 0.0])[1], -0.5)
    np.testing.assert_allclose(squared.step([0.0, 0.0])[1], -0.25)


@pytest.mark.parametrize(("gap", "end"), [((0.0099, 0.0099), True), ((0.0101, 0.0), False)])
def test_arrival_takes_both_coordinates(gap, end):
    env = gym.make(NAME)
    env.reset(options={"task": gap})
    assert env.step([0.0, 0.0])[2] is end


def test_goals_fill_the_square():
    goals = gym.make(NAME).unwrapped.sample_tasks(20_000, np.random.default_rng(0))
    assert goals.shape == (20_000, 2)
    assert np.abs(goals).max() <= 0.5
    np.testing.assert_allclose(goals.mean(axis=0), 0.0, atol=0.011)  # five standard errors
    np.testing.assert_allclose(goals.var(axis=0), 1 / 12, rtol=0.05)


def test_standing_still_returns_minus_the_mean_distance():
    # E|goal| over the square of side 1 is (sqrt 2 + ln(1 + sqrt 2)) / 6
    env = gym.make_vec(NAME, num_envs=20_000, max_episode_steps=1).unwrapped
    env.reset(options={"task": env.sample_tasks(20_000, np.random.default_rng(1))})
    expected = -(np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6
    assert abs(env.step(np.zeros((20_000, 2)))[1].mean() - expected) < 0.005
