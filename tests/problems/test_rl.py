"""Collecting: whose policy sampled what, and how it was credited, recomputed from scratch."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import oracles
import pytest
import support
import torch
from torch import nn

from metarl.data import Episodes, Meta
from metarl.functional.params import flatten, flatten_meta, for_tasks
from metarl.functional.tasks import take
from metarl.problems.protocol import Variant
from metarl.seeding import Key, Stream, generator

KEY = support.KEY
TASKS = np.array([[0.5, -0.2], [-0.7, 0.1], [0.0, 0.9]])
PAIR = {"size": 2, "random_end": True}


@pytest.mark.parametrize("autograd", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_wave_k_is_collected_by_each_tasks_own_k_times_adapted_policy(steps, autograd):
    problem = support.target_problem(PAIR, steps=steps, lr=0.2, autograd=autograd)
    meta = support.double_meta(problem)
    batch, _ = problem.collect(meta, TASKS, KEY)
    assert len(batch.support) == steps
    for task in range(len(TASKS)):
        params = meta.theta
        for wave in (*batch.support, batch.query):
            own: Episodes = take(wave, task)
            mean, log_std = support.as_function(problem.policy.double())(params, own.obs)
            support.close(own.mean, mean * own.mask[..., None], 1e-12)
            support.close(own.log_std, log_std, 1e-12)
            gradient = oracles.plain_policy_gradient(problem.policy, params, own)
            assert max(float(value.abs().max()) for value in gradient.values()) > 1e-3
            params = {name: value - 0.2 * gradient[name] for name, value in params.items()}


def test_no_adaptation_leaves_the_untouched_policy():
    problem = support.target_problem(PAIR, steps=0)
    meta = support.double_meta(problem)
    query = problem.collect(meta, TASKS, KEY)[0].query
    wave = problem.wave(for_tasks(meta.theta, 3), TASKS, KEY, 0, 5)
    assert torch.equal(query.actions, wave.episodes.actions)


def test_every_inner_step_has_fresh_episodes():
    problem = support.target_problem({"size": 2}, steps=2, lr=1e-9)
    meta = support.double_meta(problem)
    batch, _ = problem.collect(meta, TASKS, KEY)
    noise = [wave.actions - wave.mean for wave in (*batch.support, batch.query)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (noise[one] - noise[other]).abs().min() > 1e-6


def slow_credit(own: Episodes, discount: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advantage, baseline and return to go of the valid steps of one task, in numpy."""
    rows, to_go, starts = [], [], []
    for n in range(len(own.mask)):
        length = int(own.mask[n].sum())
        for t in range(length):
            o, tau = np.clip(own.obs[n, t].numpy(), -10, 10), t / 100
            rows.append([*o, *o**2, tau, tau**2, tau**3, 1.0])
            rewards = own.rewards[n, t:length].numpy()
            to_go.append((rewards * discount ** np.arange(length - t)).sum())
            starts.append(t)
    x, y = np.array(rows), np.array(to_go)
    augmented = np.concatenate([x, np.sqrt(1e-5) * np.eye(x.shape[1])])
    weights = np.linalg.lstsq(augmented, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
    raw = y - x @ weights
    return (raw - raw.mean()) / raw.std(), x @ weights, y


def test_advantages_are_the_standardised_return_to_go_less_each_tasks_own_baseline():
    problem = support.target_problem(PAIR, episodes=8, discount=0.9)
    meta = support.double_meta(problem)
    episodes = problem.collect(meta, TASKS, KEY)[0].query
    for task in range(len(TASKS)):
        own = take(episodes, task)
        valid = own.mask > 0
        advantages, _, to_go = slow_credit(own, 0.9)
        support.close(own.advantages[valid], advantages, 1e-5)
        # advantages + values is the return to go up to one positive factor per task.
        units = (own.advantages + own.values)[valid].numpy()
        factor = units @ to_go / (to_go @ to_go)
        assert factor > 0
        np.testing.assert_allclose(units, factor * to_go, rtol=1e-9)
        assert not own.advantages[~valid].any()
        assert not own.values[~valid].any()


def test_what_is_logged_of_a_batch():
    problem = support.target_problem(PAIR, episodes=6)
    meta = support.double_meta(problem)
    batch, metrics = problem.collect(meta, TASKS, KEY)
    pre, post = (wave.rewards.sum() / (3 * 6) for wave in (batch.support[0], batch.query))
    support.close(metrics["return/pre"], pre, 1e-12)
    support.close(metrics["return/post"], post, 1e-12)
    support.close(metrics["return/gain"], post - pre, 1e-12)
    assert metrics["env_steps"] == batch.support[0].mask.sum() + batch.query.mask.sum()
    norms = []
    for task in range(3):
        gradient = oracles.plain_policy_gradient(
            problem.policy.double(), meta.theta, take(batch.support[0], task)
        )
        norms.append(flatten(gradient).norm())
    support.close(metrics["inner/grad_norm"], sum(norms) / 3, 1e-10)
    support.close(metrics["policy/std"], meta.theta["log_std"].exp().mean(), 1e-12)
    explained = []
    for wave in (batch.support[0], batch.query):
        for task in range(3):
            _, values, to_go = slow_credit(take(wave, task), 0.99)
            explained.append(1 - np.var(to_go - values) / np.var(to_go))
    support.close(metrics["baseline/explained_variance"], np.mean(explained), 1e-5)


@pytest.mark.parametrize("variant", [Variant(), Variant(clip=0.2, kl_coefficient=0.1)])
@pytest.mark.parametrize("autograd", [False, True])
def test_threads_change_no_bit_of_the_data_or_of_the_gradient(autograd, variant):
    """Often enough that threads which disturb each other are seen to."""
    found = []
    tasks = support.normal(0, 5, 2).numpy()
    for threads in (1, 2):
        problem = support.target_problem(
            PAIR, hidden=(20, 20), steps=2, threads=threads, autograd=autograd
        )
        meta = problem.initial_meta(generator(1, Stream.INITIALISATION))
        batch, metrics = problem.collect(meta, tasks, KEY)
        objective = problem.objective(meta, batch, variant)
        repeats = 1 if threads == 1 else 8
        gradients = [objective.linearise(flatten_meta(meta)).gradient for _ in range(repeats)]
        found.append((batch, metrics, gradients))
        problem.close()
    (batch, metrics, (expected,)), (other_batch, other_metrics, gradients) = found
    for one, other in zip(
        torch.utils._pytree.tree_leaves(batch),
        torch.utils._pytree.tree_leaves(other_batch),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert metrics == other_metrics
    for gradient in gradients:
        assert torch.equal(gradient, expected)


def test_closed_form_and_autograd_problems_agree():
    problems = [support.target_problem(PAIR, steps=2, autograd=flag) for flag in (False, True)]
    meta = support.double_meta(problems[0])
    batch, _ = problems[0].collect(meta, TASKS, KEY)
    closed, autograd = (
        problem.objective(meta, batch, Variant()).linearise(flatten_meta(meta))
        for problem in problems
    )
    assert problems[0].arch is not None
    assert problems[1].arch is None
    support.close(closed.gradient, autograd.gradient, 1e-10)
    tangent = support.normal(0, len(closed.gradient))
    support.close(closed.curvature(tangent), autograd.curvature(tangent), 1e-10)


class Twin(nn.Module):
    """What GaussianMLP with one tanh layer computes, by another class: it must get the same treatment."""

    def __init__(self, obs_size: int, action_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(action_size))
        self.layers = nn.ModuleList([nn.Linear(obs_size, 4), nn.Linear(4, action_size)])
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layers[1](self.layers[0](obs).tanh()), self.log_std


def test_any_module_is_a_policy():
    built_in, own = (
        support.target_problem(PAIR, make_policy=make, threads=2, steps=2) for make in (None, Twin)
    )
    meta = support.double_meta(built_in)
    for one, other in zip(support.double_meta(own).theta.items(), meta.theta.items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    batches = [problem.collect(meta, TASKS, KEY)[0] for problem in (built_in, own)]
    support.close(batches[0].query.actions, batches[1].query.actions, 1e-12)
    gradients = [
        problem.objective(meta, batches[0], Variant()).linearise(flatten_meta(meta)).gradient
        for problem in (built_in, own)
    ]
    support.close(*gradients, 1e-12)
    for problem in (built_in, own):
        problem.close()


def test_learned_rates_start_at_the_constant_and_then_adapt_alike():
    plain, learned = (
        support.target_problem(PAIR, steps=2, lr=0.2, learn_rates=flag) for flag in (False, True)
    )
    meta = support.double_meta(learned)
    assert {float(value.double().round(decimals=6).unique()) for value in meta.rates.values()} == {
        0.2
    }
    one = learned.collect(meta, TASKS, KEY)[0].query
    other = plain.collect(Meta(meta.theta, {}), TASKS, KEY)[0].query
    support.close(one.mean, other.mean, 1e-6)  # the rates were float32's 0.2


def test_the_initial_policy_depends_on_its_generator_alone():
    problem = support.target_problem(PAIR)
    first, again, other = (
        problem.initial_meta(generator(seed, Stream.INITIALISATION)).theta for seed in (1, 1, 2)
    )
    torch.manual_seed(0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_a_curve_is_one_wave_after_another_and_repeats_with_its_key():
    problem = support.target_problem(PAIR, lr=0.2)
    meta = support.double_meta(problem)
    key = Key(1, Stream.EVALUATION_DATA, 0)
    told: list[int] = []
    curve = problem.adaptation_curve(meta, TASKS, (0.2, 0.1), 6, key, None, told.append)
    assert curve.shape == (3, 3)
    assert told == [3, 3, 3]
    np.testing.assert_array_equal(curve, problem.adaptation_curve(meta, TASKS, (0.2, 0.1), 6, key))
    params = {name: value.contiguous() for name, value in for_tasks(meta.theta, 3).items()}
    for step, rate in enumerate((0.2, 0.1, 0.0)):
        wave = problem.wave(params, TASKS, key, step, 6).episodes
        np.testing.assert_allclose(curve[step], wave.rewards.sum(-1).mean(-1), rtol=1e-12)
        gradients = support.stack(
            [
                oracles.plain_policy_gradient(
                    problem.policy.double(), take(params, task), take(wave, task)
                )
                for task in range(3)
            ]
        )
        params = {name: value - rate * gradients[name] for name, value in params.items()}
    other = problem.adaptation_curve(meta, TASKS, (0.2, 0.1), 6, key._replace(iteration=1))
    assert not np.isclose(curve, other).any()


def test_a_registered_environment_of_the_users_own_is_looped_over():
    problem = support.target_problem()
    assert not problem.environments.native
    assert isinstance(problem.environments.single(), gym.Env)


def test_anil_adapts_the_chosen_parameters_alone_and_the_rest_is_still_learned():
    head = frozenset({"layers.1.weight", "layers.1.bias"})
    problem = support.target_problem(PAIR, steps=2, lr=0.2, estimator="reinforce")
    update = problem.adaptation.update._replace(adapted=head)
    problem.adaptation = problem.adaptation._replace(update=update)
    problem.arch = None
    meta = support.double_meta(problem)
    batch, _ = problem.collect(meta, TASKS, KEY)
    params = for_tasks(meta.theta, 3)
    adapted = problem.adapt(params, batch.support[0], 0.2)
    for name, value in adapted.items():
        assert torch.equal(value, params[name]) == (name not in head)
    vector = flatten_meta(meta)
    objective = problem.objective(meta, batch, Variant())
    gradient = objective.linearise(vector).gradient
    for seed in range(3):
        direction = 1e-6 * support.normal(seed, len(vector))
        ahead, behind = (objective.evaluate(vector + sign * direction).loss for sign in (1, -1))
        support.close(1e6 * (gradient @ direction), 1e6 * (ahead - behind) / 2, 1e-7)
