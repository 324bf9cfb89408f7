"""What an environment can do wrong is named, and neither hangs nor goes unseen."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import native_target
import numpy as np
import pytest
import support
import torch

from metarl.checks.failures import EnvironmentFailureError, Naming
from metarl.checks.nonfinite import NonFiniteError
from metarl.functional.params import for_tasks
from metarl.problems.environments import EnvironmentFamily, UnusableEnvironmentError
from metarl.sampler import LoopVectorEnv, Sampler

N, T = 2, 5
GOOD_AND_BAD = np.array([[0.1], [0.9], [0.2]])  # the environment fails in the second task
POLICY = support.make_policy("tanh", (1, 3, 1))


def failure(
    fault: str,
    threads: int = 1,
    kind=EnvironmentFailureError,
    env="support:Target-v0",
    **kwargs,
) -> str:
    family = EnvironmentFamily(env, {"fault": fault, **kwargs}, T)
    with contextlib.ExitStack() as stack:
        mapper = stack.enter_context(ThreadPoolExecutor(threads)).map if threads > 1 else map
        sampler = Sampler(family, 3, N, T, POLICY.stacked, threads, mapper)
        params = for_tasks(support.theta_of(POLICY), 3)
        with pytest.raises(kind) as caught:
            sampler.wave(params, GOOD_AND_BAD, support.KEY, 0)
    return str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("threads", "slot"), [(1, 2), (3, 0)])
def test_an_environment_that_raises_is_named_with_slot_and_step(threads, slot):
    message = failure("raise", threads)
    assert message == (
        f"environment Target-v0, slot {slot}, step 2: ZeroDivisionError: the motor is on fire "
        "(task 1 [0.9], episode 0)"
    )


def test_a_wave_that_fails_has_ended_in_every_thread_and_the_next_one_is_as_ever(monkeypatch):
    """Threads that went on would step the environments of the next wave of that size."""
    stepped, step = [], LoopVectorEnv.step
    params, good = for_tasks(support.theta_of(POLICY), 3), np.array([[0.1], [0.3], [0.2]])

    def slowly(self, actions):
        time.sleep(0.02 * sampler.envs.index(self))
        stepped.append(self)
        return step(self, actions)

    with ThreadPoolExecutor(3) as pool:
        family = EnvironmentFamily("support:Target-v0", {"fault": "raise"}, T)
        expected = Sampler(family, 3, N, T, POLICY.stacked).wave(params, good, support.KEY, 0)
        sampler = Sampler(family, 3, N, T, POLICY.stacked, 3, pool.map)
        monkeypatch.setattr(LoopVectorEnv, "step", slowly)
        with pytest.raises(EnvironmentFailureError):
            sampler.wave(params, GOOD_AND_BAD, support.KEY, 0)
        assert [stepped.count(env) for env in sampler.envs] == [T, 3, T]
        found = sampler.wave(params, good, support.KEY, 0)
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True))


def test_an_environment_that_is_closed_is_forgotten():
    """Another one may get its identity, and a first call is given more time than a later one."""
    family = EnvironmentFamily("support:Target-v0", {}, T)
    sampler = Sampler(family, 3, N, T, POLICY.stacked)
    sampler.wave(for_tasks(support.theta_of(POLICY), 3), GOOD_AND_BAD, support.KEY, 0)
    (env,) = sampler.envs
    assert [Naming(env, call).first for call in ("reset", "step 3")] == [False, False]
    sampler.close()
    assert [Naming(env, call).first for call in ("reset", "step 3")] == [True, True]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("fault", "name", "step"), [("nan_reward", "rewards", 2), ("inf_obs", "obs", 3)]
)
def test_what_is_not_finite_is_named_with_task_episode_and_step(fault, name, step, threads):
    message = failure(fault, threads, NonFiniteError)
    place = "Target-v0, gradient step 0"
    assert message == f"{place}: {name} not finite in task 1 [0.9], episode 0, step {step}."


@pytest.mark.parametrize("threads", [1, 3])
def test_so_is_an_observation_after_the_last_step_that_no_policy_sees(threads):
    message = failure("nan_obs", threads, NonFiniteError, fault_step=T - 1)
    place = "Target-v0, gradient step 0"
    assert message == f"{place}: obs not finite in task 1 [0.9], episode 0, step {T}."


SINGLE = {
    "shape": "ValueError: an observation of shape (2,), where (1,) was declared",
    "no_obs": "ValueError: an observation of shape (), where (1,) was declared",
    "complex_obs": "ValueError: an observation of type complex128, not numbers",
    "vector_reward": "ValueError: reward of shape (2,), not ()",
    "text_reward": "ValueError: reward of type str, not numbers",
    "text_flag": "ValueError: terminated of type str, not bool",
    "no_flag": "ValueError: terminated of type NoneType, not bool",
    "old_api": "ValueError: step returned 4 values, not 5",
    "nothing": "ValueError: step returned NoneType, not 5 values",
    "exit": "SystemExit: 0",
}


@pytest.mark.parametrize("fault", SINGLE)
def test_what_an_environment_should_not_return_is_named_in_plain_words(fault):
    said = f"environment Target-v0, slot 2, step 2: {SINGLE[fault]} (task 1 [0.9], episode 0)"
    assert failure(fault) == said


def test_a_message_of_many_lines_and_characters_becomes_one_line_that_can_be_read():
    message = failure("long")
    begin = "environment Target-v0, slot 2, step 2: ZeroDivisionError: the motor is on fire and xxx"
    assert message.startswith(begin)
    assert message.endswith("... (task 1 [0.9], episode 0)")
    assert len(message) < 400


NATIVE = {
    "scalar reward": "reward of shape (), not (6,)",
    "reward by columns": "reward of shape (6, 1), not (6,)",
    "reward of text": "reward of type <U32, not numbers",
    "flat observations": "observations of shape (6,), where (6, 1) was declared",
    "wide observations": "observations of shape (6, 2), where (6, 1) was declared",
    "too few observations": "observations of shape (5, 1), where (6, 1) was declared",
    "one observation": "observations of shape (1, 1), where (6, 1) was declared",
    "complex observations": "observations of type complex128, not numbers",
    "ragged observations": "observations of type list, which is no array",
    "one flag": "terminated of shape (), not (6,)",
    "flags of int": "terminated of type int64, not bool",
    "flags of float": "terminated of type float64, not bool",
    "no flags": "truncated of shape (), not (6,)",
    "four values": "step returned 4 values, not 5",
    "nothing": "step returned NoneType, not 5 values",
}


@pytest.mark.parametrize("fault", native_target.FAULTS)
def test_so_is_what_a_native_vector_form_should_not_return(fault):
    message = failure(fault, env="native_target:NativeTarget-v0")
    assert message == f"environment NativeTarget-v0, step 2: ValueError: {NATIVE[fault]}"


def test_so_is_what_it_should_not_return_at_reset():
    env = native_target.NativeTargetEnv(6)
    sampler = Sampler(lambda _: env, 3, N, T, POLICY.stacked)
    params = for_tasks(support.theta_of(POLICY), 3)
    env.reset = lambda **_: (np.ones(6), {})
    with pytest.raises(EnvironmentFailureError) as caught:
        sampler.wave(params, GOOD_AND_BAD, support.KEY, 0)
    said = "reset: ValueError: observations of shape (6,), where (6, 1) was declared"
    assert str(caught.value) == f"environment NativeTargetEnv, {said}"


def test_values_that_are_large_but_finite_pass():
    """Their sum overflows, which is not held against them."""
    family = EnvironmentFamily("support:Target-v0", {}, T)
    sampler = Sampler(family, 1, N, T, POLICY.stacked)
    task = np.array([[1.2e154]])  # squared 1.44e308; the largest float64 is 1.8e308
    wave = sampler.wave(for_tasks(support.theta_of(POLICY), 1), task, support.KEY, 0)
    assert not wave.rewards.sum().isfinite()
    assert wave.rewards.isfinite().all()


def test_parameters_that_are_not_finite_are_named():
    theta = support.theta_of(POLICY)
    theta["layers.0.bias"] = torch.full_like(theta["layers.0.bias"], torch.nan)
    family = EnvironmentFamily("support:Target-v0", {}, T)
    sampler = Sampler(family, 1, N, T, POLICY.stacked)
    with pytest.raises(NonFiniteError, match="actions not finite in task 0"):
        sampler.wave(for_tasks(theta, 1), GOOD_AND_BAD[:1], support.KEY, 0)


@pytest.mark.parametrize("native", [True, False])
def test_so_are_they_in_an_environment_that_refuses_them(native):
    policy = support.make_policy("tanh", (2, 3, 2))
    theta = support.theta_of(policy)
    theta["layers.0.bias"] = torch.full_like(theta["layers.0.bias"], torch.nan)
    family = EnvironmentFamily("envs:Navigation2D-v0", {}, T)
    make = family if native else lambda n: LoopVectorEnv([family.single() for _ in range(n)])
    sampler = Sampler(make, 1, N, T, policy.stacked)
    with pytest.raises(NonFiniteError, match=r"actions not finite in task 0 .* step 0"):
        sampler.wave(for_tasks(theta, 1), np.zeros((1, 2)), support.KEY, 0)


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ("support:Missing-v0", "support:Missing-v0"),
        ("no_such_module:Target-v0", "no_such_module"),
        ("gymnasium:CartPole-v1", "a Box of one axis"),
        ("gymnasium:Pendulum-v1", "sample_tasks"),
    ],
)
def test_an_environment_that_cannot_be_used_says_why(env, part):
    with pytest.raises(UnusableEnvironmentError, match=part):
        EnvironmentFamily(env, {}, T)


@pytest.mark.parametrize(
    ("env", "arguments", "part"),
    [
        ("envs:HalfCheetahVel-v0", {"presett": "gym"}, "presett"),
        ("envs:HalfCheetahVel-v0", {"preset": "gim"}, "gim"),
        ("envs:Navigation2D-v0", {"goal": 1}, "goal"),
        ("support:Target-v0", {"sise": 2}, "sise"),
    ],
)
def test_arguments_that_the_environment_does_not_take_are_named(env, arguments, part):
    with pytest.raises(UnusableEnvironmentError, match=part) as found:
        EnvironmentFamily(env, arguments, T)
    assert "problem.env_kwargs" in str(found.value)


class Single(gym.Env):
    """Can be made once."""

    observation_space = action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    made = 0

    def __init__(self):
        Single.made += 1
        if Single.made > 1:
            raise RuntimeError("one licence")

    def sample_tasks(self, count, rng):
        return rng.uniform(size=(count, 1))

    def set_task(self, task):
        pass


gym.register("Single-v0", entry_point=Single, disable_env_checker=True)


def test_an_environment_that_can_be_made_only_once_says_why():
    family = EnvironmentFamily("gymnasium:Single-v0", {}, T)
    with pytest.raises(UnusableEnvironmentError, match=r"Single-v0: cannot be made .*one licence"):
        Sampler(family, 1, N, T, POLICY.stacked)


class Tasks(gym.Env):
    """Tasks as its constructor says; nothing else of it is ever used."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, kind):
        self.kind = kind

    def sample_tasks(self, count, rng):
        goals = rng.uniform(size=(count, 3))
        return {
            "transposed": goals.T,
            "one more": np.vstack([goals, goals[:1]]),
            "nested": goals[:, None],
            "nan": goals * np.nan,
            "row": goals[:, 0],
            "none": None,
        }[self.kind]

    def set_task(self, task):
        pass


gym.register("Tasks-v0", entry_point=Tasks, disable_env_checker=True)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("transposed", r"shape \(3, 2\)"),
        ("one more", r"shape \(3, 3\)"),
        ("nested", r"shape \(2, 1, 3\)"),
        ("nan", "NaN or infinity"),
        ("none", "NaN or infinity|failed"),
    ],
)
def test_tasks_that_are_not_one_row_each_are_refused_before_anything_is_made(kind, part):
    with pytest.raises(UnusableEnvironmentError, match=part):
        EnvironmentFamily("gymnasium:Tasks-v0", {"kind": kind}, T)


def test_a_number_for_each_task_is_a_row_of_one():
    family = EnvironmentFamily("gymnasium:Tasks-v0", {"kind": "row"}, T)
    assert family.sample_tasks(4, np.random.default_rng(0)).shape == (4, 1)
