"""Waves of environments that live on the device: those of the CPU, number for number, and nothing crosses in a step."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
import resident_target
import support
import torch
from simulated import DEVICE, SimulatedDevice

from metarl import config
from metarl.building import make_problem
from metarl.checks.failures import EnvironmentFailureError
from metarl.checks.nonfinite import NonFiniteError
from metarl.data import Meta
from metarl.errors import UserError
from metarl.functional.params import flatten_meta, for_tasks
from metarl.problems.credit import Sampling
from metarl.problems.environments import EnvironmentFamily, UnusableEnvironmentError
from metarl.problems.protocol import Variant
from metarl.problems.rl import RLProblem
from metarl.resident import ResidentSampler
from metarl.sampler import Sampler
from metarl.seeding import Stream, generator

ROOT = Path(__file__).parent.parent.parent
KEY = support.KEY
M, N, T = 3, 4, 5
TASKS = support.normal(0, M, 2).numpy() * 0.3


def family(physics="cpu", device="cpu", horizon=T, **kwargs):
    return EnvironmentFamily(
        "support:Target-v0", {"size": 2, **kwargs}, horizon, False, physics, device
    )


def policies(policy):
    moved = [
        {
            n: v + 0.3 * support.normal(10 * task, *v.shape)
            for n, v in support.theta_of(policy).items()
        }
        for task in range(M)
    ]
    return support.stack(moved)


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("random_end", [False, True])
def test_a_wave_is_that_of_the_cpu(random_end, observe_task):
    policy = support.make_policy("tanh", (3 if observe_task else 1, 4, 2))
    params = policies(policy)
    waves = [
        sampler(each, M, N, T, policy.stacked, observe_task=observe_task).wave(
            params, TASKS, KEY, 1
        )
        for sampler, each in (
            (Sampler, family(random_end=random_end)),
            (ResidentSampler, family("simulated", random_end=random_end)),
        )
    ]
    for one, other in zip(*waves, strict=True):
        support.close(other, one, 1e-13)
    assert bool((waves[0].mask == 0).any()) == random_end


def test_the_problem_samples_where_the_environments_live():
    make_policy = lambda o, a, g: support.GaussianMLP(o, a, (4,), "tanh", generator=g)  # noqa: E731
    given = make_policy, Sampling(6), support.Adaptation(2)
    problem = RLProblem(family(random_end=True), *given)
    meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
    expected, logged = problem.collect(meta, TASKS, KEY)
    with SimulatedDevice():
        there = RLProblem(
            family("simulated", DEVICE, random_end=True), *given, device=DEVICE, chunk=100
        )
        own = Meta({name: value.to(DEVICE) for name, value in meta.theta.items()}, {})
        batch, found = there.collect(own, TASKS, KEY)
        assert isinstance(there.samplers(M, 6), ResidentSampler)
        start = there.objective(own, batch, Variant()).linearise(flatten_meta(own))
        gradient = start.gradient.cpu()
        query = [each.cpu() for each in batch.query]
    for one, other in zip(query, expected.query, strict=True):
        support.close(one, other, 1e-4)
    vector = flatten_meta(meta)
    support.close(
        gradient, problem.objective(meta, expected, Variant()).linearise(vector).gradient, 1e-3
    )
    for tag, value in logged.items():
        assert found[tag] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_nothing_crosses_within_a_wave():
    counts = []
    for horizon in (4, 9):
        with SimulatedDevice() as device:
            policy = support.make_policy("tanh", (1, 4, 2)).to(DEVICE)
            each = family("simulated", DEVICE, horizon=horizon)
            params = for_tasks(dict(policy.named_parameters()), M)
            sampler = ResidentSampler(each, M, N, horizon, policy.stacked, device=DEVICE)
            device.counts.clear()
            sampler.wave(params, TASKS, KEY, 0)
        del device.counts["bytes"]
        counts.append(device.counts)
    assert counts[0] == counts[1]
    assert counts[0]["to_host"] == 0


def test_a_number_that_is_not_finite_is_found_in_the_whole_wave():
    policy = support.make_policy("tanh", (1, 4, 2))
    params = policies(policy)
    params["layers.1.bias"][1, 0] = torch.inf
    sampler = ResidentSampler(family("simulated"), M, N, T, policy.stacked)
    with pytest.raises(NonFiniteError, match=r"actions not finite in task 1 .*, step 0") as raised:
        sampler.wave(params, TASKS, KEY, 0)
    assert raised.value.tasks == (1,)


@pytest.mark.parametrize("on", ["cpu", DEVICE])
def test_numbers_of_another_shape_are_named(monkeypatch, on):
    """A scalar would be every slot's reward."""
    step = resident_target.ResidentTargetEnv.step

    def scalar(self, actions):
        obs, reward, *rest = step(self, actions)
        return obs, reward.sum(), *rest

    monkeypatch.setattr(resident_target.ResidentTargetEnv, "step", scalar)
    with contextlib.ExitStack() as stack:
        if on == DEVICE:
            stack.enter_context(SimulatedDevice())
        policy = support.make_policy("tanh", (1, 4, 2)).to(on)
        sampler = ResidentSampler(family("simulated", on), M, N, T, policy.stacked, device=on)
        params = for_tasks(dict(policy.named_parameters()), M)
        with pytest.raises(EnvironmentFailureError) as caught:
            sampler.wave(params, TASKS, KEY, 0)
    said = "step 0: ValueError: reward of shape (), not (12,)"
    assert str(caught.value) == f"environment simulated/Target-v0, {said}"


def test_a_form_that_is_not_registered_is_refused_by_name():
    with pytest.raises(UnusableEnvironmentError, match="no form for it, registered as warp/Target"):
        family("warp")


def test_a_form_that_cannot_be_imported_is_refused_with_what_to_install(monkeypatch):
    for name in ("warp", "mujoco_warp", "envs.worlds", "envs.half_cheetah_warp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnusableEnvironmentError, match=r"pip install 'metarl-torch\[gpu\]'"):
        EnvironmentFamily("envs:HalfCheetahVel-v0", {}, T, False, "warp", "cpu")


def test_tasks_and_single_environments_are_those_of_the_cpu():
    here, there = family(), family("simulated")
    drawn = [each.sample_tasks(3, np.random.default_rng(0)) for each in (here, there)]
    assert np.array_equal(*drawn)
    assert type(there.single().unwrapped) is support.TargetEnv


def test_training_does_not_fall_back_to_a_simulation_that_takes_days():
    settings = config.load(ROOT / "configs" / "cheetah_vel.yaml", ["problem.physics=warp"])
    assert settings.device == "auto"
    with pytest.raises(UserError, match="no usable GPU here"):
        make_problem(settings, "cpu", 1)
