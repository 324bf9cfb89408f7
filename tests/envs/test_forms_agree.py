"""The single and the vector form give the same bits, whatever the batch and the threads."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

VARIANTS = [
    ("Navigation2D-v0", {}),
    ("Navigation2D-v0", {"squared_distance": True}),
    ("HalfCheetahVel-v0", {}),
    ("HalfCheetahVel-v0", {"preset": "gym", "max_velocity": 3.0}),
    ("HalfCheetahDir-v0", {"preset": "gym", "torso_position": True}),
    ("HalfCheetahDir-v0", {}),
]
variants = pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
cheetahs = pytest.mark.parametrize("preset", ["paper", "gym"])


@variants
def test_single_form_equals_vector_form(name, kwargs):
    count, rng = 5, np.random.default_rng(0)
    venv = gym.make_vec(f"envs:{name}", num_envs=count, max_episode_steps=120, **kwargs)
    tasks = venv.unwrapped.sample_tasks(count, rng)
    seeds = [int(seed) for seed in rng.integers(2**31, size=count)]
    start, _ = venv.reset(seed=seeds, options={"task": tasks})
    actions = rng.normal(size=(120, *venv.action_space.shape)).astype(np.float32)
    steps = [venv.step(action) for action in actions]
    for slot in range(count):
        env = gym.make(f"envs:{name}", max_episode_steps=120, **kwargs)
        obs, info = env.reset(seed=seeds[slot], options={"task": tasks[slot]})
        assert np.array_equal(obs, start[slot])
        assert np.array_equal(info["task"], tasks[slot])
        for action, step in zip(actions[:, slot], steps, strict=True):
            obs, reward, terminated, truncated, info = env.step(action)
            assert np.array_equal(obs, step[0][slot])
            assert (reward, terminated, truncated) == tuple(field[slot] for field in step[1:4])
            assert all(np.array_equal(info[key], step[4][key][slot]) for key in info)
            if terminated or truncated:
                break


@variants
@pytest.mark.parametrize("seed", [0, 2**31, (5, 3, 3, 900), (1, None, 2, None)])
def test_seeds_mean_what_they_mean_to_gymnasiums_vector_form(name, kwargs, seed):
    ours = gym.make_vec(f"envs:{name}", num_envs=4, **kwargs)
    theirs = gym.make_vec(
        f"envs:{name}",
        num_envs=4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        **kwargs,
    )
    for env in (ours, theirs):
        env.reset(seed=7)
    seed = seed if isinstance(seed, int) else list(seed)
    first = [env.reset(seed=seed)[0] for env in (ours, theirs)]
    second = [env.reset()[0] for env in (ours, theirs)]
    assert np.array_equal(*first)
    assert np.array_equal(*second)
    assert ours.unwrapped.np_random_seed == theirs.np_random_seed
    states = [[g.bit_generator.state for g in env.unwrapped.np_random] for env in (ours, theirs)]
    assert states[0] == states[1]


@cheetahs
@pytest.mark.parametrize("size", [1, 2, 7, 8, 64, 400])
def test_the_size_of_the_batch_changes_no_bit(preset, size):
    steps = 12
    actions = np.random.default_rng(1).normal(size=(steps, 401, 6))
    whole = trajectory(actions, preset)
    part = trajectory(actions[:, :size], preset)
    for one, other in zip(part, whole, strict=True):
        assert np.array_equal(one, other[:, :size])


@cheetahs
@pytest.mark.parametrize("num_threads", [2, 3, 0])
def test_the_number_of_threads_changes_no_bit(preset, num_threads):
    actions = np.random.default_rng(2).normal(size=(40, 33, 6))
    one = trajectory(actions, preset, num_threads=1)
    many = trajectory(actions, preset, num_threads=num_threads)
    assert all(np.array_equal(*pair) for pair in zip(one, many, strict=True))


@variants
def test_the_task_changes_the_reward_and_never_the_observation(name, kwargs):
    rng = np.random.default_rng(3)
    venv = gym.make_vec(f"envs:{name}", num_envs=8, **kwargs)
    tasks = venv.unwrapped.sample_tasks(8, rng)
    actions = rng.normal(size=(30, *venv.action_space.shape))
    both = []
    for task in (tasks, -tasks):
        obs = [venv.reset(seed=4, options={"task": task})[0]]
        steps = [venv.step(action) for action in actions]
        both.append((np.stack(obs + [step[0] for step in steps]), [step[1] for step in steps]))
    assert np.array_equal(both[0][0], both[1][0])
    assert (np.array(both[0][1]) != np.array(both[1][1])).all()


@pytest.mark.parametrize("name", ["Navigation2D-v0", "HalfCheetahVel-v0"])
def test_a_task_set_through_wrappers_reaches_the_environment(name):
    env = gym.make(f"envs:{name}")
    env.reset(seed=0)
    task = np.full(env.unwrapped.task.shape, 0.25)
    env.set_wrapper_attr("task", task, force=False)
    assert np.array_equal(env.unwrapped.task, task)
    env.get_wrapper_attr("set_task")(2 * task)
    assert np.array_equal(env.step(env.action_space.sample())[4]["task"], 2 * task)
    assert np.array_equal(env.reset()[1]["task"], 2 * task)


def trajectory(actions, preset, **kwargs):
    count = actions.shape[1]
    env = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=count, preset=preset, **kwargs)
    first = env.reset(seed=0)[0]
    steps = [env.step(action) for action in actions]
    observations = np.stack([first] + [step[0] for step in steps])
    return observations, np.stack([step[1] for step in steps])
