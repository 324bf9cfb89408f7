"""Waves of episodes: their book-keeping step by step, and that no number depends on the threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import support
import torch

from metarl.functional.params import for_tasks
from metarl.nets.gaussian_mlp import GaussianMLP
from metarl.problems.environments import EnvironmentFamily
from metarl.sampler import LoopVectorEnv, Sampler
from metarl.seeding import Key, Stream

KEY = support.KEY
M, N, T, A = 3, 4, 5, 2
TASKS = support.normal(0, M, A).numpy() * 0.3


def target_family(horizon=T, **kwargs):
    return EnvironmentFamily("support:Target-v0", {"size": A, **kwargs}, horizon)


def different_policies(policy, count=M):
    """One parameter set per task, none like another."""
    moved = [
        {n: v + 0.3 * support.normal(10 * task + i, *v.shape) for i, (n, v) in enumerate(theta)}
        for task in range(count)
        for theta in [list(support.theta_of(policy).items())]
    ]
    return support.stack(moved)


@pytest.fixture
def policy():
    return support.make_policy("tanh", (1, 4, A))


def sample(policy, family, tasks=TASKS, key=KEY, step=0, episodes=N, horizon=T, **kwargs):
    sampler = Sampler(family, len(tasks), episodes, horizon, policy.stacked, **kwargs)
    params = different_policies(policy, len(tasks))
    return sampler.wave(params, tasks, key, step), params, sampler


def slots(sampler):
    """The single environments of a wave, in the order of tasks and episodes."""
    return [env.unwrapped for vector in sampler.envs for env in vector.envs]


def test_every_number_of_a_wave_with_early_ends_equals_its_own_computation(policy):
    wave, params, sampler = sample(policy, target_family(random_end=True), step=2)
    lengths = set()
    for m in range(M):
        rng = KEY.generator(m, 2)
        seeds = rng.integers(2**31, size=N)
        noise = torch.from_numpy(rng.standard_normal((N, T, A), dtype=np.float32)).double()
        own = {name: value[m] for name, value in params.items()}
        mean, log_std = support.as_function(policy)(own, torch.ones(1).double())
        support.close(wave.log_std[m], log_std, 1e-14)
        for n in range(N):
            drawn, _ = gym.utils.seeding.np_random(int(seeds[n]))
            length = min(int(drawn.integers(1, 7)), T)
            lengths.add(length)
            actions = mean + log_std.exp() * noise[n]
            rewards = -(actions - torch.from_numpy(TASKS[m])).square().sum(-1)
            valid = (torch.arange(T) < length).double()
            support.close(wave.mask[m, n], valid, 0.0)
            support.close(wave.rewards[m, n], rewards * valid, 1e-13)
            support.close(wave.actions[m, n], actions * valid[:, None], 1e-13)
            support.close(wave.mean[m, n], mean * valid[:, None], 1e-13)
            support.close(wave.obs[m, n], valid[:, None], 0.0)
    assert len(lengths) > 2, "the test wants episodes of several lengths"
    steps_taken = [len(env.actions) for env in slots(sampler)]  # a step after the end would raise
    assert steps_taken == wave.mask.sum(-1).flatten().tolist()


@pytest.mark.parametrize("single", [False, True])
def test_navigation_ends_where_the_goal_is_reached(single):
    """A policy that always moves by (0.05, 0): goals on its way are reached after 2 and 4 steps."""
    family = EnvironmentFamily("envs:Navigation2D-v0", {}, 6)
    make = (
        (lambda count: LoopVectorEnv([family.single() for _ in range(count)])) if single else family
    )
    policy = GaussianMLP(2, 2, (), initial_std=1e-6).double().requires_grad_(False)
    theta = support.theta_of(policy)
    theta["layers.0.weight"].zero_()
    theta["layers.0.bias"].copy_(torch.tensor([0.5, 0.0]))
    goals = np.array([[0.1, 0.0], [0.2, 0.0], [0.2, 0.3]])
    sampler = Sampler(make, 3, 2, 6, policy.stacked)
    wave = sampler.wave(for_tasks(theta, 3), goals, KEY, 0)
    for task, length in enumerate((2, 4, 6)):
        at = 0.05 * torch.arange(1.0, length + 1)
        gaps = torch.hypot(at - goals[task, 0], torch.tensor(goals[task, 1]))
        for n in range(2):
            assert wave.mask[task, n].tolist() == [1.0] * length + [0.0] * (6 - length)
            support.close(wave.obs[task, n, :length, 0], at - 0.05, 1e-5)
            support.close(wave.rewards[task, n, :length], -gaps, 1e-5)
            for field in (wave.obs, wave.rewards, wave.actions, wave.mean):
                assert not field[task, n, length:].any()


@pytest.mark.parametrize("family", ["target", "navigation"])
def test_the_same_bits_on_one_two_or_three_threads(family):
    """In float32 and at the usual width: a matrix product may depend on its batch's size."""
    if family == "target":
        environments, size = target_family(random_end=True), 1
    else:
        environments, size = EnvironmentFamily("envs:Navigation2D-v0", {}, T), 2
    policy = GaussianMLP(size, A, (100, 100), generator=support.random_generator(0))
    policy.requires_grad_(False)
    params = {name: value.float() for name, value in different_policies(policy, 5).items()}
    tasks = support.normal(1, 5, A).numpy() * 0.3
    waves = []
    with ThreadPoolExecutor(3) as pool:
        for threads in (1, 2, 3):
            sampler = Sampler(environments, 5, N, T, policy.stacked, threads, pool.map)
            assert len(sampler.envs) == threads
            waves.append(sampler.wave(params, tasks, KEY, 0))
    for wave in waves[1:]:
        for field, expected in zip(wave, waves[0], strict=True):
            assert torch.equal(field, expected)


def test_more_threads_than_tasks(policy):
    _, _, sampler = sample(policy, target_family(), threads=8)
    assert [env.num_envs for env in sampler.envs] == [N] * M


def test_the_stored_distribution_is_what_the_policy_gives_at_the_stored_observations():
    policy = support.make_policy("relu", (2, 5, 2))
    family = EnvironmentFamily("envs:Navigation2D-v0", {}, T)
    wave, params, _ = sample(policy, family)
    for m in range(M):
        own = {name: value[m] for name, value in params.items()}
        mean, log_std = support.as_function(policy)(own, wave.obs[m])
        support.close(wave.mean[m], mean * wave.mask[m, ..., None], 1e-13)
        support.close(wave.log_std[m], log_std, 1e-15)
    assert wave.obs.std(0).max() > 0.01  # the tasks' policies went different ways


def test_the_recorded_action_is_the_sampled_one_and_the_environment_gets_it_clipped(policy):
    wave, _, sampler = sample(policy, target_family(bound=0.25))
    recorded = wave.actions.reshape(-1, T, A).numpy()
    assert np.abs(recorded).max() > 1.0
    for env, actions in zip(slots(sampler), recorded, strict=True):
        np.testing.assert_allclose(env.actions, np.clip(actions, -0.25, 0.25), rtol=1e-13)


def test_every_slot_has_its_tasks_number(policy):
    _, _, sampler = sample(policy, target_family(), threads=2)
    given = np.array([env.task for env in slots(sampler)])
    np.testing.assert_array_equal(given, np.repeat(TASKS, N, axis=0))


def test_the_key_and_the_step_name_a_wave(policy):
    family = target_family()
    first, again = (sample(policy, family)[0] for _ in range(2))
    assert torch.equal(first.actions, again.actions)
    others = [
        sample(policy, family, step=1)[0],
        sample(policy, family, key=KEY._replace(iteration=6))[0],
        sample(policy, family, key=KEY._replace(seed=4))[0],
        sample(policy, family, key=Key(3, Stream.EVALUATION_DATA, 5))[0],
    ]
    for other in others:
        assert not (first.actions == other.actions).any()


def test_a_sampler_can_be_used_again(policy):
    sampler = Sampler(target_family(random_end=True), M, N, T, policy.stacked)
    params = different_policies(policy)
    first, between, last = (sampler.wave(params, TASKS, KEY, step) for step in (0, 1, 0))
    assert not torch.equal(first.actions, between.actions)
    for one, other in zip(first, last, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_policy_that_is_told_its_task_sees_it_after_the_observation_at_every_step(threads):
    policy = support.make_policy("tanh", (1 + A, 4, A))
    family = EnvironmentFamily(
        "support:Target-v0", {"size": A, "random_end": True}, T, observe_task=True
    )
    assert family.obs_size == 1 + A
    wave, params, sampler = sample(policy, family, threads=threads, observe_task=True)
    for m in range(M):
        told = torch.tensor([1.0, *TASKS[m]])
        support.close(wave.obs[m], told * wave.mask[m, ..., None], 1e-15)
        own = {name: value[m] for name, value in params.items()}
        mean, _ = support.as_function(policy)(own, told.double())
        support.close(wave.mean[m], mean * wave.mask[m, ..., None], 1e-13)
    assert slots(sampler)[0].observation_space.shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_and_single_forms_of_navigation_give_the_same_wave(dtype):
    """To the bit; in float64 to the rounding of actions, which single forms get as float32."""
    policy = support.make_policy("tanh", (2, 8, 2)).to(dtype)
    family = EnvironmentFamily("envs:Navigation2D-v0", {}, 30)
    assert family.native
    params = {name: value.to(dtype) for name, value in different_policies(policy).items()}
    waves = [
        Sampler(make, M, N, 30, policy.stacked).wave(params, TASKS, KEY, 0)
        for make in (family, lambda n: LoopVectorEnv([family.single() for _ in range(n)]))
    ]
    for native, looped in zip(*waves, strict=True):
        if dtype == torch.float32:
            assert torch.equal(native, looped)
        support.close(native, looped, 1e-6)
