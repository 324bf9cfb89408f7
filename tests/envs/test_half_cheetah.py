"""The cheetahs move as MuJoCo and Gymnasium say, and are rewarded as the papers say."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from envs.half_cheetah_rules import control_cost, direction_reward, velocity_reward

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def actions_for(kind, steps, rng):
    """Actions that make the cheetah thrash, stand, or run into the ground."""
    if kind == "random":
        return rng.uniform(-1.0, 1.0, size=(steps, 6))
    if kind == "bang-bang":
        return rng.choice([-1.0, 1.0], size=(steps, 6))
    return np.zeros((steps, 6))


@pytest.mark.parametrize("kind", ["random", "bang-bang", "none"])
@pytest.mark.parametrize("seed", [0, 1, 123456789])
def test_gym_preset_moves_as_half_cheetah_v5(kind, seed):
    theirs = gym.make("HalfCheetah-v5", max_episode_steps=300).unwrapped
    ours = gym.make("envs:HalfCheetahVel-v0", preset="gym").unwrapped
    vector = gym.make_vec(
        "envs:HalfCheetahVel-v0", num_envs=3, preset="gym", max_episode_steps=300
    ).unwrapped
    obs = theirs.reset(seed=seed)[0]
    assert np.array_equal(obs, ours.reset(seed=seed)[0])
    assert np.array_equal(obs, vector.reset(seed=seed)[0][0])
    contacts = 0
    for action in actions_for(kind, 300, np.random.default_rng(seed)):
        obs, _, _, _, info = theirs.step(action)
        one, _, _, _, one_info = ours.step(action)
        all_three = vector.step(np.tile(action, (3, 1)))
        assert np.array_equal(obs, one)
        assert np.array_equal(obs, all_three[0][0])
        assert info["x_velocity"] == one_info["x_velocity"] == all_three[4]["x_velocity"][0]
        assert info["x_position"] == one_info["x_position"] == all_three[4]["x_position"][0]
        contacts += theirs.data.ncon
    assert contacts > 30


def test_paper_preset_moves_as_a_loop_of_mj_step(original):
    env = gym.make("envs:HalfCheetahVel-v0").unwrapped
    data = mujoco.MjData(original)
    rng = np.random.default_rng(5)
    obs = env.reset(seed=11)[0]
    generator = np.random.default_rng(np.random.SeedSequence(11))
    data.qpos[:] = 0.01 * generator.standard_normal(9)
    data.qvel[:] = 0.1 * generator.standard_normal(9)
    mujoco.mj_forward(original, data)
    fresh = mujoco.MjData(original)
    for action in rng.normal(size=(400, 6)):
        assert np.array_equal(obs[:17], np.concatenate((data.qpos[1:], data.qvel)))
        obs, reward, _, _, info = env.step(action)
        data.ctrl[:] = action.clip(-1, 1)
        mujoco.mj_step(original, data)
        fresh.qpos[:], fresh.qvel[:] = data.qpos, data.qvel
        mujoco.mj_forward(original, fresh)
        mujoco.mj_subtreeVel(original, fresh)
        velocity = fresh.subtree_linvel[1, 0]
        np.testing.assert_allclose(obs[17:], fresh.subtree_com[1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(info["x_velocity"], velocity, rtol=0, atol=1e-12)
        cost = 0.05 * float(np.sum(action.clip(-1, 1) ** 2))
        np.testing.assert_allclose(reward, -abs(velocity - 1.0) - cost, rtol=0, atol=1e-12)


def test_torso_position_is_the_current_one(original):
    env = gym.make("envs:HalfCheetahVel-v0", preset="gym", torso_position=True).unwrapped
    plain = gym.make("envs:HalfCheetahVel-v0", preset="gym").unwrapped
    data = mujoco.MjData(original)
    env.reset(seed=3)
    plain.reset(seed=3)
    for action in np.random.default_rng(6).normal(size=(30, 6)):
        obs = env.step(action)[0]
        assert np.array_equal(obs[:17], plain.step(action)[0])
        data.qpos[:] = env.data.qpos
        mujoco.mj_kinematics(original, data)
        np.testing.assert_allclose(obs[17:], data.body("torso").xpos, rtol=0, atol=1e-14)


def test_velocity_reward_by_hand():
    # -|1.5 - 2| - 0.05 (1 + 0.25), -|-1 - 2| - 0.05 * 6
    action = np.array([[1.0, -0.5, 0, 0, 0, 0], [1, -1, 1, -1, 1, -1]])
    reward = velocity_reward(np.array([1.5, -1.0]), action, np.array([[2.0], [2.0]]))
    np.testing.assert_allclose(reward, [-0.5625, -3.3], rtol=1e-15)


def test_direction_reward_by_hand():
    action = np.array([[1.0, -0.5, 0, 0, 0, 0], [1, -1, 1, -1, 1, -1]])
    reward = direction_reward(np.array([1.5, -1.0]), action, np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(reward, [1.4375, 0.7], rtol=1e-15)


def test_rewards_broadcast_over_any_leading_axes():
    rng = np.random.default_rng(0)
    velocity, action, task = rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 6)), np.ones((3, 1, 1))
    for reward in (velocity_reward, direction_reward):
        whole = reward(velocity, action, task)
        assert whole.shape == (3, 4)
        assert whole[1, 2] == reward(velocity[1, 2], action[1, 2], task[1, 0])
    np.testing.assert_allclose(control_cost(action), 0.05 * (action**2).sum(-1), rtol=1e-14)


@pytest.mark.parametrize("preset", ["paper", "gym"])
def test_huge_actions_act_and_cost_as_full_torque(preset):
    env = gym.make("envs:HalfCheetahDir-v0", preset=preset).unwrapped
    results = []
    for scale in (1.0, 1e30):
        env.reset(seed=0)
        results.append(env.step(np.full(6, scale, dtype=np.float32)))
    assert results[0][1] == results[1][1]
    assert np.array_equal(results[0][0], results[1][0])
    assert np.isfinite(results[1][1])


def test_tasks_follow_their_distributions():
    rng = np.random.default_rng(0)
    env = gym.make("envs:HalfCheetahVel-v0", max_velocity=3.0).unwrapped
    speeds = env.sample_tasks(20_000, rng)
    assert speeds.shape == (20_000, 1)
    assert speeds.dtype == np.float64
    assert (speeds.min() >= 0.0) & (speeds.max() <= 3.0)
    # standard errors: 3 / sqrt(12 n) = 0.006 for the mean, about 0.005 for the variance
    assert abs(speeds.mean() - 1.5) < 0.03
    assert abs(speeds.var() - 0.75) < 0.03
    directions = gym.make("envs:HalfCheetahDir-v0").unwrapped.sample_tasks(20_000, rng)
    assert set(np.unique(directions)) == {-1.0, 1.0}
    assert abs(directions.mean()) < 0.035  # five standard errors


def test_sampling_tasks_uses_nothing_but_its_generator():
    env = gym.make("envs:HalfCheetahVel-v0").unwrapped
    vector = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=2).unwrapped
    one, two = (e.sample_tasks(5, np.random.default_rng(8)) for e in (env, vector))
    assert np.array_equal(one, two)
    assert np.array_equal(one, np.random.default_rng(8).uniform(0.0, 2.0, size=(5, 1)))


@pytest.mark.parametrize(
    ("preset", "position_std", "position_max"),
    [("paper", 0.01, np.inf), ("gym", 0.2 / np.sqrt(12.0), 0.1)],
)
def test_starts_follow_their_distributions(preset, position_std, position_max):
    env = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=4000, preset=preset).unwrapped
    env.reset(seed=0)
    state = env.batch.bind("qpos"), env.batch.bind("qvel")
    assert np.abs(state[0]).max() <= position_max
    for values, std in zip(state, (position_std, 0.1), strict=True):
        assert values.shape == (4000, 9)
        np.testing.assert_allclose(values.std(axis=0), std, rtol=0.06)
        np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=5 * std / np.sqrt(4000))


@pytest.mark.parametrize("bad", [[[2.0]], [2.0, 1.0], [np.nan], 0.5])
def test_wrong_tasks_are_refused(bad):
    env = gym.make("envs:HalfCheetahVel-v0").unwrapped
    with pytest.raises(ValueError, match="task must"):
        env.set_task(bad)
    with pytest.raises(ValueError, match="task must"):
        env.reset(options={"task": bad})


def test_a_direction_is_plus_or_minus_one():
    env = gym.make("envs:HalfCheetahDir-v0").unwrapped
    env.set_task([-1.0])
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        env.set_task([0.5])
    with pytest.raises(ValueError, match=r"\+1 or -1"):
        gym.make_vec("envs:HalfCheetahDir-v0", num_envs=2).unwrapped.set_task([[1.0], [0.0]])
