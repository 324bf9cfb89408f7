"""The manners of the vector form: idle slots, masks, copies, errors."""

import gymnasium as gym
import numpy as np
import pytest

CHEETAH, POINT = "envs:HalfCheetahVel-v0", "envs:Navigation2D-v0"


def test_a_slot_whose_episode_has_ended_is_idle():
    env = gym.make_vec(POINT, num_envs=3, max_episode_steps=20)
    env.reset(options={"task": [[0.1, 0.0], [0.3, 0.0], [0.0, 0.5]]})
    right = np.tile([1.0, 0.0], (3, 1))
    ends, observations, rewards = [], [], []
    for _ in range(25):
        obs, reward, terminated, truncated, _ = env.step(right)
        ends.append((terminated.copy(), truncated.copy()))
        observations.append(obs)
        rewards.append(reward)
    terminated, truncated = (np.array(flags) for flags in zip(*ends, strict=True))
    assert terminated.argmax(axis=0).tolist() == [0, 2, 0]
    assert terminated[:, 0].all()
    assert terminated[2:, 1].all()
    assert not terminated[:, 2].any()
    assert truncated[19:, 2].all()
    assert not truncated[:19].any()
    assert not truncated[:, :2].any()
    obs, rewards = np.array(observations), np.array(rewards)
    np.testing.assert_allclose(obs[:, 0], np.tile([0.1, 0.0], (25, 1)), atol=1e-15)
    np.testing.assert_allclose(obs[2:, 1], np.tile([0.3, 0.0], (23, 1)), atol=1e-15)
    assert (rewards[1:, 0] == 0).all()
    assert (rewards[3:, 1] == 0).all()
    assert (rewards[20:, 2] == 0).all()
    assert (rewards[:20, 2] < 0).all()


def test_an_idle_cheetah_costs_no_physics(monkeypatch):
    env = gym.make_vec(CHEETAH, num_envs=2, max_episode_steps=3)
    env.reset(seed=0)
    calls = []
    step = env.unwrapped.batch.step
    monkeypatch.setattr(
        env.unwrapped.batch, "step", lambda ids=None, **kw: (calls.append(ids), step(ids, **kw))
    )
    for _ in range(3):
        last = env.step(np.ones((2, 6)))
    for _ in range(2):
        obs, reward, terminated, truncated, info = env.step(np.ones((2, 6)))
        assert np.array_equal(obs, last[0])
        assert (reward == 0).all()
        assert truncated.all()
        assert not terminated.any()
        assert not info["_task"].any()
    assert len(calls) == 3


@pytest.mark.parametrize("name", [CHEETAH, POINT])
def test_a_mask_resets_some_slots_and_leaves_the_others(name):
    rng = np.random.default_rng(0)
    env = gym.make_vec(name, num_envs=4, max_episode_steps=10)
    plain = gym.make_vec(name, num_envs=4, max_episode_steps=10)
    tasks = env.unwrapped.sample_tasks(4, rng) + 0.3
    obs = [e.reset(seed=5, options={"task": tasks})[0] for e in (env, plain)]
    actions = rng.normal(size=(10, *env.action_space.shape))
    for action in actions[:6]:
        env.step(action)
        plain.step(action)
    mask = np.array([False, True, False, True])
    options = {"task": tasks + 1.0, "reset_mask": mask}
    again, info = env.reset(seed=5, options=options)
    assert options["reset_mask"] is mask
    assert np.array_equal(info["_task"], mask)
    assert np.array_equal(info["task"], np.where(mask[:, None], tasks + 1.0, tasks))
    assert np.array_equal(again[mask], obs[0][mask])
    for action in actions[6:]:
        ours, theirs = env.step(action), plain.step(action)
        for one, other in zip(ours[:4], theirs[:4], strict=True):
            assert np.array_equal(one[~mask], other[~mask])
    assert ours[3].tolist() == [True, False, True, False]
    # The truncated slots idle on while the others go on as if they were alone.
    rest = [env.step(action) for action in actions[:6]]
    assert rest[-1][3].all()
    assert np.array_equal(rest[-1][0][~mask], ours[0][~mask])
    alone = gym.make_vec(name, num_envs=4, max_episode_steps=10)
    alone.reset(seed=5, options={"task": tasks + 1.0})
    for action in [*actions[6:], *actions[:6]]:
        last = alone.step(action)
    assert np.array_equal(rest[-1][0][mask], last[0][mask])
    assert np.array_equal(rest[-1][1][mask], last[1][mask])


@pytest.mark.parametrize("name", [CHEETAH, POINT])
def test_observations_are_copies_unless_told_otherwise(name):
    action = np.ones(gym.make_vec(name, num_envs=2).action_space.shape)
    env = gym.make_vec(name, num_envs=2)
    first = env.reset(seed=0)[0]
    kept = first.copy()
    second = env.step(action)[0]
    env.step(action)
    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)
    shared = gym.make_vec(name, num_envs=2, copy=False)
    first = shared.reset(seed=0)[0]
    assert np.array_equal(first, kept)
    assert shared.step(action)[0] is first
    assert np.array_equal(first, second)
    reset = shared.reset(seed=0)[0]
    assert np.array_equal(reset, kept)


@pytest.mark.parametrize("name", [CHEETAH, POINT])
@pytest.mark.parametrize("copy", [True, False])
def test_nothing_returned_can_change_the_environment(name, copy):
    env, twin = (gym.make_vec(name, num_envs=2, copy=copy) for _ in range(2))
    action = np.full(env.action_space.shape, 0.5)
    returned = [env.reset(seed=0)[1], twin.reset(seed=0)[1]]
    returned[0]["task"][:] = 77.0
    for _ in range(3):
        ours = env.step(action)
        for part in (ours[1], ours[2], ours[3], *ours[4].values()):
            part[:] = True
    theirs = [twin.step(action) for _ in range(3)][-1]
    ours, theirs = env.step(action), twin.step(action)
    assert all(np.array_equal(*pair) for pair in zip(ours[:4], theirs[:4], strict=True))
    assert np.array_equal(ours[4]["task"], theirs[4]["task"])


@pytest.mark.parametrize("name", [CHEETAH, POINT])
def test_misuse_is_named(name):
    env = gym.make_vec(name, num_envs=3)
    action = np.zeros(env.action_space.shape)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(action)
    with pytest.raises(ValueError, match="seed must hold 3 seeds, got 2"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="task must have shape"):
        env.reset(options={"task": np.zeros(2)})
    for mask in (np.zeros(3, dtype=bool), np.ones(3), np.ones(2, dtype=bool)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions have shape"):
        env.step(action[:2])
    for bad in (np.nan, np.inf):
        action[2, 1] = bad
        with pytest.raises(ValueError, match=r"-v0: the action in slot 2 is not finite"):
            env.step(action)
    with pytest.raises(ValueError, match="num_envs"):
        gym.make_vec(name, num_envs=0)


@pytest.mark.parametrize("name", [CHEETAH, POINT])
def test_misuse_of_the_single_form_is_named(name):
    env = gym.make(name).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action has shape"):
        env.step(np.zeros(1))
    with pytest.raises(ValueError, match="-v0: the action is not finite"):
        env.step(np.full(env.action_space.shape, np.nan))
    with pytest.raises(ValueError, match="render_mode"):
        type(env)(render_mode="human")


def test_a_task_set_between_steps_counts_from_the_next_step():
    env = gym.make_vec(POINT, num_envs=2).unwrapped
    env.reset(options={"task": [[0.5, 0.5], [0.5, 0.5]]})
    env.set_task([[3.0, 4.0], [-3.0, -4.0]])
    assert env.step(np.zeros((2, 2)))[1].tolist() == [-5.0, -5.0]
    assert env.task.tolist() == [[3.0, 4.0], [-3.0, -4.0]]
