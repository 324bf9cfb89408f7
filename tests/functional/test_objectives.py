"""ProMP's and E-MAML's objectives against their equations, written out with torch.distributions."""

from __future__ import annotations

import oracles
import pytest
import support
import torch
from torch.distributions import Independent, Normal, kl_divergence

from metarl.data import Meta
from metarl.functional import objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten, unflatten
from metarl.functional.tasks import take

LR = 0.3
TASKS = 3


def setting(steps, activation="tanh"):
    policy = support.make_policy(activation)
    theta = support.theta_of(policy)
    batch = support.sample_batch(policy, theta, steps, LR, TASKS)
    arguments = support.as_function(policy), ESTIMATORS["lvc"], InnerUpdate(LR)
    return policy, theta, batch, arguments


def distribution(policy, params, obs):
    mean, log_std = support.as_function(policy)(params, obs)
    return Independent(Normal(mean, log_std.exp()), 1)


def mean_over_steps(values, mask):
    return (values * mask).sum() / mask.sum()


def adapted(policy, params, batch, task):
    """φ_0 .. φ_K of one task."""
    found = [params]
    for wave in batch.support:
        gradient = oracles.plain_policy_gradient(policy, found[-1], take(wave, task))
        found.append({name: value - LR * gradient[name] for name, value in found[-1].items()})
    return found


def ratio_of(policy, params, own):
    old = Independent(Normal(own.mean, own.log_std.exp()), 1)
    new = distribution(policy, params, own.obs)
    return (new.log_prob(own.actions) - old.log_prob(own.actions)).exp(), kl_divergence(old, new)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_promps_objective_elsewhere_than_the_behaviour_policy(steps, clip):
    policy, theta, batch, arguments = setting(steps)
    objective = objectives.by_autograd(
        objectives.clipped_surrogate(*arguments, clip, 0.7), batch, Meta(theta, {})
    )
    vector = flatten(theta) + 0.2 * support.normal(50, len(flatten(theta)))
    losses, divergences, clipped = [], [], 0
    for task in range(TASKS):
        params = adapted(policy, unflatten(vector, theta), batch, task)
        inner = [
            mean_over_steps(ratio_of(policy, phi, take(wave, task))[1], take(wave, task).mask)
            for phi, wave in zip(params, batch.support, strict=False)
        ]
        own = take(batch.query, task)
        ratio = ratio_of(policy, params[-1], own)[0]
        bounded = torch.where(
            own.advantages > 0, ratio.clamp(max=1 + clip), ratio.clamp(min=1 - clip)
        )
        clipped += int(((bounded != ratio) * own.mask).sum())
        divergences.append(sum(inner) / steps)
        losses.append(0.7 * divergences[-1] - mean_over_steps(bounded * own.advantages, own.mask))
    found = objective.evaluate(vector)
    support.close(found.loss, sum(losses) / TASKS, 1e-12)
    support.close(found.kl, sum(divergences) / TASKS, 1e-12)
    assert clipped > 0, "the test wants ratios beyond the clip range"


@pytest.mark.parametrize("kl_coefficient", [0.0, 3.0])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_at_the_behaviour_policy_promps_gradient_is_the_plain_surrogates(steps, kl_coefficient):
    """There the ratio is 1, inside any clip range, and the KL with its gradient 0."""
    _, theta, batch, arguments = setting(steps)
    found, plain = (
        objectives.by_autograd(task_objective, batch, Meta(theta, {})).linearise(flatten(theta))
        for task_objective in (
            objectives.clipped_surrogate(*arguments, 0.2, kl_coefficient),
            objectives.surrogate(*arguments),
        )
    )
    support.close(found.outcome.loss, plain.outcome.loss, 1e-12)
    support.close(found.gradient, plain.gradient, 1e-10)


def test_promps_curvature_is_that_of_the_inner_kl():
    """Its ``kl`` has the Fisher matrix of the pre-update policy as its Hessian, for one step."""
    policy, theta, batch, arguments = setting(1)
    vector = flatten(theta)
    objective = objectives.by_autograd(
        objectives.clipped_surrogate(*arguments, 0.2, 1.0), batch, Meta(theta, {})
    )

    def divergence(x):
        total = 0.0
        for task in range(TASKS):
            own = take(batch.support[0], task)
            total = total + mean_over_steps(ratio_of(policy, unflatten(x, theta), own)[1], own.mask)
        return total / TASKS

    tangent = support.normal(1, len(vector))
    dense = torch.autograd.functional.hessian(divergence, vector)
    support.close(objective.linearise(vector).curvature(tangent), dense @ tangent, 1e-10)


def test_e_maml_without_exploration_is_plain_to_the_bit():
    _, theta, batch, arguments = setting(2)
    found, plain = (
        objectives.by_autograd(task_objective, batch, Meta(theta, {})).linearise(flatten(theta))
        for task_objective in (
            objectives.exploring_surrogate(*arguments, 0.0),
            objectives.surrogate(*arguments),
        )
    )
    assert torch.equal(found.outcome.loss, plain.outcome.loss)
    support.close(found.gradient, plain.gradient, 1e-15)


@pytest.mark.parametrize("steps", [1, 2])
def test_e_maml_credits_the_support_actions_with_the_post_update_return(steps):
    policy, theta, batch, arguments = setting(steps)
    found, plain = (
        objectives.by_autograd(task_objective, batch, Meta(theta, {}))
        for task_objective in (
            objectives.exploring_surrogate(*arguments, 0.4),
            objectives.surrogate(*arguments),
        )
    )
    vector = flatten(theta) + 0.1 * support.normal(50, len(flatten(theta)))
    extra = 0.0
    for task in range(TASKS):
        own = take(batch.query, task)
        credit = mean_over_steps(own.rewards, own.mask)
        params = adapted(policy, unflatten(vector, theta), batch, task)
        for phi, stacked in zip(params, batch.support, strict=False):
            wave = take(stacked, task)
            log_prob = distribution(policy, phi, wave.obs).log_prob(wave.actions)
            extra = extra - 0.4 * credit * mean_over_steps(log_prob, wave.mask) / TASKS
    support.close(found.evaluate(vector).loss - plain.evaluate(vector).loss, extra, 1e-12)


def test_the_gradient_of_e_mamls_term_for_one_step():
    """−c R ∇E[log π_θ(support)]: what the pre-update policy did is credited, R is a constant."""
    policy, theta, batch, arguments = setting(1)
    vector = flatten(theta)
    found, plain = (
        objectives.by_autograd(task_objective, batch, Meta(theta, {})).linearise(vector).gradient
        for task_objective in (
            objectives.exploring_surrogate(*arguments, 0.4),
            objectives.surrogate(*arguments),
        )
    )
    expected = torch.zeros_like(vector)
    for task in range(TASKS):
        wave, own = take(batch.support[0], task), take(batch.query, task)
        credit = mean_over_steps(own.rewards, own.mask)
        ones = wave._replace(advantages=torch.ones_like(wave.advantages))
        score = oracles.plain_policy_gradient(policy, theta, ones)  # −∇E[log π]
        expected = expected + 0.4 * credit * flatten(score) / TASKS
    support.close(found - plain, expected, 1e-11)
