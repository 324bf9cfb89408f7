"""The half-cheetahs on MuJoCo Warp against those on MuJoCo: on Warp's CPU device, and by `make gpu` on a GPU too."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_warp", reason="needs the extra gpu: pip install -e '.[gpu]'")

from envs.half_cheetah_rules import Velocities
from envs.half_cheetah_warp import HalfCheetahWarpEnv
from envs.physics import load_model
from envs.worlds import most_constraints

pytestmark = pytest.mark.timeout(900)  # the first test compiles the kernels
DEVICE = "cpu"
COUNT = 6


def make(preset="paper", name="HalfCheetahVel-v0", device=DEVICE, **kwargs):
    return gym.make_vec(f"envs:warp/{name}", COUNT, preset=preset, device=device, **kwargs)


def host(value):
    return value.cpu().numpy()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("preset", "name", "steps"),
    [("paper", "HalfCheetahVel-v0", 30), ("gym", "HalfCheetahDir-v0", 6)],
)
def test_it_moves_as_on_the_cpu(preset, name, steps, device):
    """0.3 s from the same states, with contacts: positions (m, rad) part by 1e-4 at most, rewards by 5e-4."""
    there = make(preset, name, device)
    here = gym.make_vec(f"envs:{name}", COUNT, preset=preset)
    rng = np.random.default_rng(0)
    tasks = here.unwrapped.sample_tasks(COUNT, rng)
    seeds = [int(seed) for seed in rng.integers(2**31, size=COUNT)]
    started = [each.reset(seed=seeds, options={"task": tasks})[0] for each in (here, there)]
    assert started[1].device.type == device
    np.testing.assert_allclose(host(started[1]), started[0], atol=1e-6)
    touched = False
    for _ in range(steps):
        actions = rng.normal(size=(COUNT, 6)).astype(np.float32)
        obs, rewards, _, _, _ = here.step(actions)
        found = there.step(torch.from_numpy(actions).to(device))
        np.testing.assert_allclose(host(found[0])[:, :8], obs[:, :8], atol=1e-4)
        np.testing.assert_allclose(host(found[1]), rewards, atol=5e-4)
        touched |= bool((here.unwrapped.batch.bind("qpos")[:, 1] < -0.02).any())
    assert touched, "the test wants contacts"


def test_episodes_end_together_and_begin_anew_where_asked():
    env = make(max_episode_steps=2)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(torch.zeros(COUNT, 6, device=DEVICE))
    first, _ = env.reset(seed=3)
    for ended in (False, True):
        _, _, terminated, truncated, _ = env.step(torch.ones(COUNT, 6, device=DEVICE))
        assert not terminated.any()
        assert bool(truncated.all()) is bool(truncated.any()) is ended
    mask = np.arange(COUNT) < 2
    again, _ = env.reset(seed=3, options={"reset_mask": mask})
    np.testing.assert_array_equal(host(again)[mask], host(first)[mask])
    assert not np.isclose(host(again)[~mask], host(first)[~mask]).all(axis=1).any()
    assert not env.step(torch.ones(COUNT, 6, device=DEVICE))[3][: mask.sum()].any()
    with pytest.raises(ValueError, match="actions have shape"):
        env.step(torch.zeros(COUNT, 5, device=DEVICE))


def test_a_simulation_that_breaks_down_shows_it_and_leaves_the_others_alone():
    env, alone = make(), make()
    for each in (env, alone):
        each.reset(seed=1)
    env.unwrapped.worlds.qvel[2] = torch.nan
    actions = torch.zeros(COUNT, 6, device=DEVICE)
    obs, rewards, *_ = env.step(actions)
    expected = alone.step(actions)[0]
    assert not obs[2].isfinite().all()
    assert not rewards[2].isfinite()
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(host(obs)[kept], host(expected)[kept], atol=1e-6)


class HeavyCheetahs(HalfCheetahWarpEnv):
    """The task is how many times heavier the robot is."""

    def model_fields(self, tasks):
        model = load_model("half_cheetah.xml")
        return {
            name: getattr(model, name) * tasks.reshape(-1, *([1] * getattr(model, name).ndim))
            for name in ("body_mass", "body_inertia")
        } | {
            name: np.broadcast_to(getattr(model, name), (len(tasks), *getattr(model, name).shape))
            for name in ("body_subtreemass", "body_invweight0", "dof_invweight0")
        }


def test_worlds_differ_in_the_robot_as_models_compiled_so_do():
    factors, steps = np.array([[0.5], [1.0], [2.0]]), 15
    env = HeavyCheetahs(3, Velocities(10.0), device=DEVICE)
    env.reset(seed=0, options={"task": factors})
    qpos, qvel = np.zeros((3, 9)), np.zeros((3, 9))
    qpos[:, 1] = -0.05
    env.set_state(qpos, qvel)
    actions = np.random.default_rng(0).uniform(-1, 1, size=(steps, 6)).astype(np.float32)
    for action in actions:
        env.step(torch.from_numpy(np.tile(action, (3, 1))).to(DEVICE))
    found = host(env.worlds.qpos)
    for slot, factor in enumerate(factors[:, 0]):
        model = load_model("half_cheetah.xml")
        model.body_mass *= factor
        model.body_inertia *= factor
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:] = qpos[slot]
        for action in actions:
            data.ctrl[:] = action
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(found[slot], data.qpos, atol=1e-3)
    assert np.abs(found[0] - found[2]).max() > 0.05


def test_no_state_has_more_contacts_or_constraints_than_were_counted():
    model = load_model("half_cheetah.xml")
    contacts, rows = most_constraints(model)
    data = mujoco.MjData(model)
    most = [0, 0]
    for height in np.linspace(-2.0, 0.0, 9):
        data.qpos[:] = [0, height, np.pi / 2, 3, -3, 3, 3, 3, 3]
        mujoco.mj_forward(model, data)
        most = [max(most[0], data.ncon), max(most[1], data.nefc)]
    assert most == [contacts, rows]


def test_other_models_are_refused():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="only of capsules on planes"):
        most_constraints(model)
