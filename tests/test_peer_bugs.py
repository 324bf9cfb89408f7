"""Bugs that other meta-learning libraries have or had; each is shown here not to be in this one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import support
import torch

from metarl.checks.failures import EnvironmentFailureError
from metarl.data import Meta
from metarl.functional import baseline, gaussian, returns
from metarl.functional.params import flatten_meta
from metarl.functional.tasks import take
from metarl.problems.environments import EnvironmentFamily
from metarl.problems.protocol import Variant
from metarl.sampler import Sampler
from metarl.seeding import Key, Stream, generator

KEY = support.KEY
TASKS = np.array([[0.5, -0.2], [-0.7, 0.1], [0.0, 0.9]])
PAIR = {"size": 2, "random_end": True}
BOTH = pytest.mark.parametrize("autograd", [False, True], ids=["closed_form", "autograd"])


def collected(steps=1, **kwargs):
    problem = support.target_problem(PAIR, steps=steps, lr=0.2, **kwargs)
    meta = support.double_meta(problem)
    return problem, meta, problem.collect(meta, TASKS, KEY)[0]


def test_the_joint_log_probability_is_a_sum_over_action_dimensions_not_a_mean():
    actions, mean, log_std = (support.normal(seed, 4, 3) for seed in range(3))
    each = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions)
    support.close(gaussian.log_prob(actions, mean, log_std), each.sum(-1), 1e-13)


def test_advantages_are_divided_by_the_deviation_not_by_the_variance():
    values = 100.0 * support.normal(0, 2, 3, 4)
    found, _, _ = returns.standardise(values, torch.ones(2, 3, 4))
    support.close(found.square().mean((1, 2)), torch.ones(2), 1e-12)


@BOTH
def test_the_baseline_is_not_refitted_inside_the_loss(autograd, monkeypatch):
    problem, meta, batch = collected(autograd=autograd)
    for name in ("fit", "predict", "features"):
        monkeypatch.setattr(baseline, name, lambda *_: pytest.fail("the baseline was used"))
    objective = problem.objective(meta, batch, Variant())
    objective.linearise(flatten_meta(meta)).curvature(flatten_meta(meta))
    objective.evaluate(flatten_meta(meta) + 0.1)


@BOTH
def test_later_inner_steps_use_each_tasks_own_parameters(autograd):
    """Whatever the other tasks are: task 0's data and its share of the loss stay as they are."""
    problem, meta, batch = collected(steps=2, autograd=autograd)
    others = TASKS.copy()
    others[1:] = 0.9 - others[1:]
    changed = problem.collect(meta, others, KEY)[0]
    waves = (*batch.support, batch.query), (*changed.support, changed.query)
    for wave, other in zip(*waves, strict=True):
        for one, two in zip(take(wave, 0), take(other, 0), strict=True):
            support.close(one, two, 1e-13)
        assert not torch.equal(wave.rewards[1], other.rewards[1])
    vector = flatten_meta(meta) + 0.05
    whole = problem.objective(meta, batch, Variant()).evaluate(vector)
    alone = [
        problem.objective(meta, take(batch, slice(task, task + 1)), Variant()).evaluate(vector)
        for task in range(3)
    ]
    support.close(whole.loss, sum(outcome.loss for outcome in alone) / 3, 1e-13)
    assert abs(alone[0].loss - alone[2].loss) > 1e-3


@BOTH
def test_the_first_order_flag_changes_the_gradient_and_nothing_else(autograd):
    _, meta, batch = collected(steps=2)
    exact, first = (
        support.target_problem(PAIR, steps=2, lr=0.2, first_order=flag, autograd=autograd)
        .objective(meta, batch, Variant())
        .linearise(flatten_meta(meta))
        for flag in (False, True)
    )
    assert torch.equal(exact.outcome.loss, first.outcome.loss)
    difference = (exact.gradient - first.gradient).norm()
    assert difference > 0.01 * exact.gradient.norm()
    tangent = support.normal(0, len(exact.gradient))
    assert (exact.curvature(tangent) - first.curvature(tangent)).norm() > 1e-3


@BOTH
def test_the_curvature_is_no_finite_difference(autograd):
    """A difference quotient is not linear, and is lost in rounding for tiny or huge directions."""
    problem, meta, batch = collected(steps=2, autograd=autograd)
    vector = flatten_meta(meta)
    curvature = problem.objective(meta, batch, Variant()).linearise(vector).curvature
    v, w = support.normal(0, len(vector)), support.normal(1, len(vector))
    expected = curvature(v)
    for scale in (1e-12, 1e12):
        support.close(curvature(scale * v) / scale, expected, 1e-12)
    support.close(curvature(v + w), expected + curvature(w), 1e-12)
    support.close(w @ expected, v @ curvature(w), 1e-11)


@BOTH
def test_the_kl_is_from_the_old_policy_to_the_new(autograd):
    """Only the deviation moves: KL(old ‖ new) = Σ log r + (r⁻² − 1)/2 with r = σ'/σ; not r² and −log r."""
    problem, meta, batch = collected(steps=0, autograd=autograd)
    wider = Meta(meta.theta | {"log_std": meta.theta["log_std"] + 0.5}, {})
    found = problem.objective(meta, batch, Variant()).evaluate(flatten_meta(wider)).kl
    support.close(found, 2 * (0.5 + (np.exp(-1.0) - 1) / 2), 1e-12)


def test_the_baseline_survives_what_float32_does_not():
    """Observations that vary little: X'X holds numbers of 10⁶ whose differences of 10⁻³ matter."""
    obs = (9.0 + 1e-3 * support.normal(0, 1, 4, 200, 3)).float()
    mask, targets = torch.ones(1, 4, 200), 1000.0 * (obs[..., 0] - 9.0)
    inputs = baseline.features(obs)
    values = baseline.predict(baseline.fit(inputs, targets, mask), inputs)
    assert baseline.explained_variance(values, targets, mask).item() > 0.99
    single = inputs[0].flatten(0, 1).float()
    gram = single.T @ single + 1e-5 * torch.eye(single.shape[1])
    solution, _ = torch.linalg.solve_ex(gram, single.T @ targets.flatten())
    residual = targets.flatten() - single @ solution
    assert not residual.var() < 0.1 * targets.var(), "float32 would have done: no proof of anything"


@pytest.mark.timeout(60)
def test_an_exception_in_a_worker_ends_the_wave_instead_of_hanging_it():
    family = EnvironmentFamily("support:Target-v0", {"fault": "raise"}, 5)
    policy = support.make_policy("tanh", (1, 3, 1))
    tasks = np.array([[0.1], [0.2], [0.9]])
    params = support.stack([support.theta_of(policy)] * 3)
    with ThreadPoolExecutor(3) as pool:
        sampler = Sampler(family, 3, 2, 5, policy.stacked, 3, pool.map)
        with pytest.raises(EnvironmentFailureError, match="the motor is on fire"):
            sampler.wave(params, tasks, KEY, 0)
        # And the pool still works.
        assert sampler.wave(params, 0.1 * tasks, KEY, 0).mask.all()


def test_held_out_tasks_are_not_the_training_tasks():
    """Nor is any of the numbers that make their data."""
    problem = support.target_problem(PAIR)
    held_out = problem.sample_tasks(40, generator(1, Stream.EVALUATION_TASKS))
    trained = np.concatenate(
        [problem.sample_tasks(40, generator(1, Stream.TRAIN_TASKS, i)) for i in range(50)]
    )
    assert not np.isin(held_out, trained).any()
    meta = support.double_meta(problem)
    keys = Key(1, Stream.TRAIN_DATA, 0), Key(1, Stream.EVALUATION_DATA, 0)
    waves = [problem.collect(meta, TASKS, key)[0].support[0] for key in keys]
    assert not np.isin(waves[0].actions[:, :, 0], waves[1].actions[:, :, 0]).any()


@pytest.mark.parametrize("env", ["support:Target-v0", "envs:Navigation2D-v0"])
def test_sampling_tasks_and_data_neither_reads_nor_seeds_the_global_generators(env):
    family = EnvironmentFamily(env, {}, 5)
    size = family.obs_size
    policy = support.make_policy("tanh", (size, 3, family.action_size))
    params = support.stack([support.theta_of(policy)] * 2)
    found, sampler = [], Sampler(family, 2, 2, 5, policy.stacked)
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        rng = generator(1, Stream.TRAIN_TASKS)
        tasks = [family.sample_tasks(2, rng) for _ in range(2)]
        found.append((*tasks, sampler.wave(params, tasks[0], KEY, 0).actions.numpy()))
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.isin(found[0][0], found[0][1]).any()  # each call gives new tasks
