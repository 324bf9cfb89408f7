"""Bias and variance of each estimator's Hessian, exactly: all trajectories are enumerated.

3 states, 2 actions, 3 steps, random transitions and rewards, a softmax policy. The expectation over
trajectories is a sum of 72 terms, so that "unbiased" is an identity to rounding error and a variance
is a number, not an estimate.
"""

from __future__ import annotations

import itertools

import pytest
import support
import torch
from torch.func import grad, jacrev

from metarl.data import Episodes
from metarl.functional.estimators import ESTIMATORS

S, A, T = 3, 2, 3
OFFSET = 2.0  # returns that are not centred, as they seldom are: what a baseline is for
TRANSITION = support.normal(1, S, A, S).mul(1.5).softmax(-1)
REWARD = support.normal(2, S, A) + OFFSET
THETA = support.normal(3, S, A)
ALPHA = 0.5


def _trajectories():
    """States and actions ``[72, T]`` of every trajectory, and its transitions' probability."""
    states, actions, chances = [], [], []
    for acts in itertools.product(range(A), repeat=T):
        for after in itertools.product(range(S), repeat=T - 1):
            path = (0, *after)
            states.append(path)
            actions.append(acts)
            steps = zip(path[:-1], acts[:-1], path[1:], strict=True)
            chances.append(torch.stack([TRANSITION[step] for step in steps]).prod())
    return torch.tensor(states), torch.tensor(actions), torch.stack(chances)


STATES, ACTIONS, CHANCES = _trajectories()
REWARDS = REWARD[STATES, ACTIONS]


def log_probs(theta):
    return theta.log_softmax(-1)[STATES, ACTIONS]


def probability(theta):
    return CHANCES * log_probs(theta).sum(-1).exp()


def expected_return(theta):
    return (probability(theta) * REWARDS.sum(-1)).sum()


def state_values(theta, scale=1.0):
    """V_t(s) of the policy by dynamic programming, along each trajectory ``[72, T]``."""
    chosen, value, found = theta.softmax(-1), torch.zeros(S, dtype=support.DOUBLE), []
    for _ in range(T):
        value = (chosen * (REWARD + TRANSITION @ value)).sum(-1)
        found.insert(0, value)
    return scale * torch.stack([found[t][STATES[:, t]] for t in range(T)], dim=-1)


def returns_to_go(discount=1.0):
    weights = torch.tensor(
        [[discount ** (j - i) if j >= i else 0.0 for j in range(T)] for i in range(T)]
    )
    return REWARDS @ weights.double().T


def episodes(values, to_go):
    """Each trajectory as a task of one episode."""
    row = lambda x: x.unsqueeze(1)  # noqa: E731
    nothing = torch.zeros(len(STATES), 1, T, 1, dtype=support.DOUBLE)
    return Episodes(
        nothing, nothing, row(REWARDS), row(torch.ones_like(REWARDS)), row(to_go - values),
        row(values), nothing, nothing[:, 0, 0],
    )  # fmt: skip


def hessians(name, values, to_go):
    """Each trajectory's own estimate of the Hessian of −T times the loss, ``[72, S·A, S·A]``."""
    count = len(STATES)
    own = THETA.expand(count, S, A).clone().requires_grad_()  # one θ for each trajectory
    chosen = own.log_softmax(-1)[torch.arange(count)[:, None], STATES, ACTIONS]
    loss = -T * ESTIMATORS[name].loss(chosen.unsqueeze(1), episodes(values, to_go))
    (first,) = torch.autograd.grad(loss.sum(), own, create_graph=True)
    columns = [
        torch.autograd.grad(column.sum(), own, retain_graph=True)[0].flatten(1)
        for column in first.flatten(1).unbind(1)
    ]
    return torch.stack(columns, dim=1)


EXACT = jacrev(jacrev(expected_return))(THETA).reshape(S * A, S * A)


def mean(x):
    return torch.einsum("i,i...->...", probability(THETA), x)


def variance(x):
    return float(mean((x - mean(x)).square()).sum())


def bias(name, scale=1.0):
    found = mean(hessians(name, state_values(THETA, scale), returns_to_go()))
    return float((found - EXACT).norm() / EXACT.norm())


def test_the_enumeration_is_complete():
    support.close(probability(THETA).sum(), 1.0, 1e-14)
    support.close(expected_return(THETA), state_values(THETA)[0, 0], 1e-14)


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
@pytest.mark.parametrize("scale", [0.0, 1.0, -2.0])
def test_the_expected_gradient_is_the_exact_one_whatever_the_baseline(name, scale):
    data = episodes(state_values(THETA, scale), returns_to_go())
    theta = THETA.clone().requires_grad_()
    loss = -T * ESTIMATORS[name].loss(log_probs(theta).unsqueeze(1), data)
    (found,) = torch.autograd.grad((probability(THETA) * loss).sum(), theta)
    support.close(found, grad(expected_return)(THETA), 1e-13)


@pytest.mark.parametrize("name", ["dice", "loaded_dice"])
@pytest.mark.parametrize("scale", [0.0, 1.0, -2.0])
def test_both_dice_are_unbiased_whatever_the_baseline(name, scale):
    assert bias(name, scale) < 1e-13


def test_lvc_is_biased_less_than_reinforce():
    assert bias("reinforce") > 0.5
    assert 0.01 < bias("lvc") < 0.5 * bias("reinforce")


def test_lvc_and_loaded_dice_vary_less_than_dice():
    spread = {
        name: variance(hessians(name, state_values(THETA), returns_to_go()))
        for name in support.ESTIMATOR_NAMES
    }
    assert spread["lvc"] < 0.5 * spread["dice"]
    assert spread["loaded_dice"] < 0.5 * spread["dice"]


def test_the_baseline_is_what_makes_loaded_dice_vary_less():
    without, with_baseline = (
        variance(hessians("loaded_dice", state_values(THETA, scale), returns_to_go()))
        for scale in (0.0, 1.0)
    )
    assert with_baseline < 0.5 * without


def test_without_a_baseline_dice_and_loaded_dice_are_one_estimator():
    """Σ_t (□_t − □_{t−1}) G_t telescopes to Σ_t □_t r_t."""
    nothing = torch.zeros_like(REWARDS)
    support.close(
        hessians("dice", nothing, returns_to_go()),
        hessians("loaded_dice", nothing, returns_to_go()),
        1e-13,
    )


@pytest.mark.parametrize("name", support.ESTIMATOR_NAMES)
def test_the_expected_meta_gradient(name):
    """∇_θ J(θ + α∇J(θ)) = (I + αH)∇J(φ): linear in H, so its bias is α(E[Ĥ] − H)∇J(φ)."""
    value = lambda theta: expected_return(theta.reshape(S, A))  # noqa: E731
    theta = THETA.flatten()
    adapted = theta + ALPHA * grad(value)(theta)
    outer = grad(value)(adapted)
    exact = grad(lambda x: value(x + ALPHA * grad(value)(x)))(theta)
    estimate = outer + ALPHA * hessians(name, state_values(THETA), returns_to_go()) @ outer
    error = float((mean(estimate) - exact).norm() / exact.norm())
    if name in {"dice", "loaded_dice"}:
        assert error < 1e-13
    else:
        assert error > 0.01


@pytest.mark.parametrize("name", ["dice", "loaded_dice"])
def test_with_a_discount_both_dice_credit_a_pair_of_steps_with_the_later_ones_return(name):
    """E[Ĥ] = E[Σ_{s,t} ∇log π_s ∇log π_tᵀ G_max(s,t) + Σ_t ∇²log π_t G_t], the G discounted.

    The derivative of the expected discounted policy gradient has γ^(s−t) G_s where s > t, and is
    not even symmetric.
    """
    to_go = returns_to_go(0.9)
    found = mean(hessians(name, state_values(THETA), to_go))
    score = jacrev(log_probs)(THETA).reshape(-1, T, S * A)
    bend = jacrev(jacrev(log_probs))(THETA).reshape(-1, T, S * A, S * A)
    later = torch.maximum(torch.arange(T)[:, None], torch.arange(T)[None])
    pairs = torch.einsum("isp,itq,ist->ipq", score, score, to_go[:, later])
    support.close(found, mean(pairs + torch.einsum("itpq,it->ipq", bend, to_go)), 1e-13)
