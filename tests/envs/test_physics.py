"""What makes a step cheaper changes no bit, and what goes wrong is seen."""

import logging
import threading

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from mujoco.batch import Batch

from envs import SimulationError
from envs.physics import ASSETS, load_model, quiet_clock

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def roll(model, actions, nstep):
    batch = Batch(model, actions.shape[1], 1)
    rng = np.random.default_rng(3)
    batch.bind("qpos")[:] = rng.uniform(-0.1, 0.1, size=(actions.shape[1], 9))
    batch.bind("qvel")[:] = 0.1 * rng.standard_normal((actions.shape[1], 9))
    ncon = batch.bind("ncon")
    batch.forward()
    contacts = 0
    for action in actions:
        batch.bind("ctrl")[:] = action
        batch.step(nstep=nstep)
        contacts += int(ncon.sum())
    return batch.state.copy(), contacts


@pytest.mark.parametrize("nstep", [1, 5])
def test_each_setting_leaves_every_bit_alone(original, nstep):
    actions = np.random.default_rng(4).uniform(-1.0, 1.0, size=(300, 6, 6))
    expected, contacts = roll(original, actions, nstep)
    assert contacts > 1000
    islands = load_model("half_cheetah.xml")
    islands.opt.disableflags = original.opt.disableflags
    without_islands = mujoco.MjModel.from_xml_path(str(ASSETS / "half_cheetah.xml"))
    without_islands.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    for model in (islands, without_islands, load_model("half_cheetah.xml")):
        state, same_contacts = roll(model, actions, nstep)
        assert np.array_equal(state, expected)
        assert same_contacts == contacts
    with quiet_clock:
        assert np.array_equal(roll(original, actions, nstep)[0], expected)


def test_explicit_pairs_make_the_same_contacts(original):
    ours = load_model("half_cheetah.xml")
    assert ours.npair == 8
    assert not ours.geom_contype.any()
    qpos = np.zeros(9)
    qpos[1] = -0.3
    contacts = []
    for model in (original, ours):
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        fields = ("dist", "pos", "frame", "friction", "solref", "solimp", "includemargin", "dim")
        contacts.append({name: np.array(getattr(data.contact, name)) for name in fields})
        contacts[-1]["geom"] = np.array(data.contact.geom)
        assert data.ncon > 5
    for name, values in contacts[0].items():
        assert np.array_equal(values, contacts[1][name]), name


def test_every_caller_gets_a_model_of_its_own():
    first, second = load_model("half_cheetah.xml"), load_model("half_cheetah.xml")
    first.opt.timestep = 0.5
    assert second.opt.timestep == 0.01


def test_the_clock_is_put_back():
    slot = quiet_clock._slot
    if slot is None:
        pytest.skip("this MuJoCo does not export its clock callback")
    before = slot.value
    assert before is not None
    with quiet_clock:
        assert slot.value is None
        with quiet_clock:
            assert slot.value is None
        assert slot.value is None
    assert slot.value == before
    with pytest.raises(KeyError), quiet_clock:
        raise KeyError
    assert slot.value == before


def test_without_the_symbol_the_clock_is_left_alone(monkeypatch):
    monkeypatch.setattr(quiet_clock, "_slot", None)
    env = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=2)
    env.reset(seed=0)
    assert np.isfinite(env.step(np.zeros((2, 6)))[0]).all()


def test_environments_in_several_threads_do_not_disturb_each_other():
    actions = np.random.default_rng(5).normal(size=(60, 40, 6))

    def sample(seed, results):
        env = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=40, num_threads=1)
        env.reset(seed=seed)
        results[seed] = np.stack([env.step(action)[0] for action in actions])

    alone, together = {}, {}
    for seed in range(4):
        sample(seed, alone)
    before = quiet_clock._slot.value if quiet_clock._slot is not None else None
    threads = [threading.Thread(target=sample, args=(seed, together)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[seed], together[seed]) for seed in range(4))
    assert quiet_clock._users == 0
    if quiet_clock._slot is not None:
        assert quiet_clock._slot.value == before


@pytest.mark.parametrize("preset", ["paper", "gym"])
@pytest.mark.parametrize(("field", "value"), [("qpos", np.nan), ("qvel", 1e12), ("qvel", np.inf)])
def test_a_broken_simulation_is_an_error_in_the_single_form(preset, field, value, caplog):
    env = gym.make("envs:HalfCheetahVel-v0", preset=preset)
    env.reset(seed=0)
    env.step(np.zeros(6))
    getattr(env.unwrapped.data, field)[4] = value
    expected = rf"HalfCheetahVel-v0: .* slot 0 .* step 2: {field}"
    with caplog.at_level(logging.WARNING), pytest.raises(SimulationError, match=expected):
        env.step(np.zeros(6))
    env.reset(seed=0)
    env.step(np.zeros(6))


@pytest.mark.parametrize("preset", ["paper", "gym"])
@pytest.mark.parametrize(("field", "value"), [("qpos", np.nan), ("qvel", 1e12), ("qvel", np.inf)])
def test_a_broken_simulation_is_an_error_in_the_vector_form(preset, field, value, caplog):
    env = gym.make_vec("envs:HalfCheetahDir-v0", num_envs=5, preset=preset, num_threads=2)
    env.reset(seed=0)
    env.step(np.zeros((5, 6)))
    env.unwrapped.batch.bind(field)[3, 4] = value
    expected = rf"HalfCheetahDir-v0: .* slot 3 .* step 2: {field}"
    with caplog.at_level(logging.WARNING), pytest.raises(SimulationError, match=expected):
        env.step(np.zeros((5, 6)))
    env.reset(seed=0)
    env.step(np.zeros((5, 6)))


def test_what_breaks_after_the_engines_last_check_is_seen_too(monkeypatch):
    env = gym.make_vec("envs:HalfCheetahVel-v0", num_envs=2)
    env.reset(seed=0)
    step = env.unwrapped.batch.step

    def break_last(*args, **kwargs):
        step(*args, **kwargs)
        env.unwrapped.batch.bind("qvel")[1, 8] = np.nan

    monkeypatch.setattr(env.unwrapped.batch, "step", break_last)
    with pytest.raises(SimulationError, match=r"slot 1 .* step 1: observation 16"):
        env.step(np.zeros((2, 6)))


def test_a_users_warning_handler_is_left_in_place():
    previous = mujoco.get_mju_user_warning()
    seen = []
    try:
        mujoco.set_mju_user_warning(seen.append)
        handler = mujoco.get_mju_user_warning()
        load_model("half_cheetah.xml")
        assert mujoco.get_mju_user_warning() is handler
    finally:
        mujoco.set_mju_user_warning(previous)
