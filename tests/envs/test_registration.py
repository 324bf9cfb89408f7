"""The environments are found by their ids and keep to Gymnasium's interface."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

VARIANTS = [
    ("Navigation2D-v0", {}, 2, 2, 2, 100),
    ("HalfCheetahVel-v0", {}, 20, 6, 1, 200),
    ("HalfCheetahVel-v0", {"preset": "gym"}, 17, 6, 1, 200),
    ("HalfCheetahDir-v0", {}, 20, 6, 1, 200),
    ("HalfCheetahDir-v0", {"preset": "gym", "torso_position": True}, 20, 6, 1, 200),
]
variants = pytest.mark.parametrize(("name", "kwargs", "obs", "act", "task", "horizon"), VARIANTS)


@variants
def test_single_form_passes_gymnasiums_checker(name, kwargs, obs, act, task, horizon):
    env = gym.make(f"envs:{name}", **kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*Box observation space")  # it is unbounded
        check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (obs,)
    assert env.observation_space.dtype == np.float64
    assert env.action_space.shape == (act,)
    assert env.unwrapped.task.shape == (task,)
    assert env.spec.max_episode_steps == horizon


@variants
def test_vector_form_keeps_to_the_vector_interface(name, kwargs, obs, act, task, horizon):
    env = gym.make_vec(f"envs:{name}", num_envs=3, **kwargs)
    single = gym.make(f"envs:{name}", **kwargs)
    assert env.num_envs == 3
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    assert env.observation_space.shape == (3, obs)
    assert env.action_space.shape == (3, act)
    start, info = env.reset(seed=1)
    assert start in env.observation_space
    assert info["task"].shape == (3, task)
    assert info["_task"].all()
    env.action_space.seed(0)
    after, rewards, terminated, truncated, info = env.step(env.action_space.sample())
    assert after in env.observation_space
    assert (rewards.shape, rewards.dtype) == ((3,), np.float64)
    assert (terminated.shape, terminated.dtype) == ((3,), np.bool_)
    assert (truncated.shape, truncated.dtype) == ((3,), np.bool_)
    keys = {key for key in info if not key.startswith("_")}
    assert keys == set(single.step(single.reset()[0][:act] * 0)[4])
    assert {f"_{key}" for key in keys} == set(info) - keys
    env.close()


@variants
def test_gymnasiums_own_vector_form_works_too(name, kwargs, obs, act, task, horizon):
    mode = {"autoreset_mode": AutoresetMode.DISABLED}
    env = gym.make_vec(
        f"envs:{name}", num_envs=2, vectorization_mode="sync", vector_kwargs=mode, **kwargs
    )
    assert env.reset(seed=0)[0].shape == (2, obs)
    env.close()


@variants
def test_horizon_is_the_registered_one(name, kwargs, obs, act, task, horizon):
    env = gym.make_vec(f"envs:{name}", num_envs=2, **kwargs)
    assert steps_to_truncation(env) == horizon


@pytest.mark.parametrize("name", ["Navigation2D-v0", "HalfCheetahVel-v0"])
def test_horizon_can_be_overridden_in_both_forms(name):
    assert steps_to_truncation(gym.make_vec(f"envs:{name}", num_envs=2, max_episode_steps=7)) == 7
    env = gym.make(f"envs:{name}", max_episode_steps=7)
    env.reset(seed=0)
    ends = [env.step(np.zeros(env.action_space.shape))[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_without_a_horizon_nothing_is_truncated():
    env = gym.make_vec("envs:Navigation2D-v0", num_envs=1, max_episode_steps=-1)
    assert steps_to_truncation(env, limit=150) is None
    with pytest.raises(ValueError, match="max_episode_steps"):
        gym.make_vec("envs:Navigation2D-v0", num_envs=1, max_episode_steps=0)


def steps_to_truncation(env, limit=300):
    env.reset(seed=0)
    for step in range(1, limit + 1):
        truncated = env.step(np.zeros(env.action_space.shape))[3]
        if truncated.any():
            assert truncated.all()
            return step
    return None


def test_a_wrong_preset_is_named():
    with pytest.raises(ValueError, match="'papr'"):
        gym.make("envs:HalfCheetahVel-v0", preset="papr")
    with pytest.raises(ValueError, match="torso_position"):
        gym.make("envs:HalfCheetahVel-v0", torso_position=True)
    with pytest.raises(ValueError, match="max_velocity"):
        gym.make("envs:HalfCheetahVel-v0", max_velocity=-1.0)


def test_navigation_loads_neither_mujoco_nor_metarl():
    program = (
        "import sys, gymnasium; gymnasium.make_vec('envs:Navigation2D-v0', num_envs=2).reset(); "
        "sys.exit(any(name.partition('.')[0] in {'mujoco', 'metarl', 'torch'}"
        " for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_making_a_cheetah_writes_no_file(tmp_path):
    program = (
        "import gymnasium, numpy; env = gymnasium.make('envs:HalfCheetahVel-v0'); env.reset(); "
        "env.unwrapped.data.qvel[:] = numpy.inf\n"
        "try: env.step(numpy.zeros(6))\n"
        "except FloatingPointError: print('broke')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "broke\n"
    assert list(tmp_path.iterdir()) == []
    assert "MuJoCo: Nan, Inf or huge value in QVEL" in result.stderr  # by way of logging
    assert "settotalmass" not in result.stderr
