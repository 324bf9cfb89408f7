"""Inner losses as functions of log-probabilities: values, first and second derivatives, masks."""

from __future__ import annotations

import functools

import oracles
import pytest
import support
import torch

from metarl.data import Episodes
from metarl.functional.estimators import ESTIMATORS, weights

N, T = 3, 5


@pytest.fixture
def episodes() -> Episodes:
    policy = support.make_policy()
    return support.sample_episodes(policy, support.theta_of(policy), N, T, seed=3)


def derivatives(function, at):
    leaf = at.clone().requires_grad_()
    value = function(leaf)
    (first,) = torch.autograd.grad(value, leaf, create_graph=True)
    rows = [
        torch.autograd.grad(x, leaf, retain_graph=True, allow_unused=True)[0]
        for x in first.flatten()
        if x.requires_grad
    ]
    hessian = torch.stack(rows).reshape(N * T, N * T) if rows and rows[0] is not None else None
    return value.detach(), first.detach(), hessian


def second(estimator, tangent, episodes):
    return estimator.hessian_product(tangent, estimator.coefficients(episodes))


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_value_and_derivatives_equal_the_written_out_definition(name, episodes):
    at = support.normal(9, N, T)
    found = derivatives(lambda x: ESTIMATORS[name].loss(x, episodes), at)
    expected = derivatives(lambda x: oracles.written_out_loss(name, x, at, episodes), at)
    support.close(found[0], expected[0], 1e-13)
    support.close(found[1], expected[1], 1e-13)
    if name == "reinforce":
        assert found[2] is None
    else:
        support.close(found[2], expected[2], 1e-12)


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_every_estimator_has_the_same_first_derivative(name, episodes):
    found = derivatives(lambda x: ESTIMATORS[name].loss(x, episodes), support.normal(9, N, T))[1]
    expected = -episodes.advantages * episodes.mask / episodes.mask.sum()
    support.close(found, expected, 1e-14)
    support.close(weights(episodes), expected, 1e-15)


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_hessian_product_equals_autograds(name, episodes):
    estimator, at = ESTIMATORS[name], support.normal(9, N, T)
    hessian = derivatives(lambda x: estimator.loss(x, episodes), at)[2]
    for seed in range(3):
        tangent = support.normal(20 + seed, N, T)
        expected = 0 * tangent if hessian is None else (hessian @ tangent.flatten()).reshape(N, T)
        support.close(second(estimator, tangent, episodes), expected, 1e-13)


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_leading_task_axes_are_the_same_as_one_task_at_a_time(name, episodes):
    policy = support.make_policy()
    other = support.sample_episodes(policy, support.theta_of(policy), N, T, seed=8)
    both, at, estimator = (
        support.stack([episodes, other]),
        support.normal(1, 2, N, T),
        ESTIMATORS[name],
    )
    for function in (estimator.loss, functools.partial(second, estimator)):
        single = torch.stack([function(at[0], episodes), function(at[1], other)])
        support.close(function(at, both), single, 1e-14)


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_what_lies_after_an_episodes_end_changes_nothing(name, episodes):
    """Padding holds zeros everywhere but in the log-probabilities: those of zero actions."""
    at, tangent = support.normal(9, N, T), support.normal(10, N, T)
    outside = (1 - episodes.mask) * 3.0
    estimator = ESTIMATORS[name]
    support.close(estimator.loss(at + outside, episodes), estimator.loss(at, episodes), 1e-14)
    support.close(
        second(estimator, tangent + outside, episodes),
        second(estimator, tangent, episodes),
        1e-14,
    )
    assert not (second(estimator, tangent, episodes) * (1 - episodes.mask)).any()
