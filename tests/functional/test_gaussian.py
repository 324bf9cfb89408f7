"""The diagonal Gaussian against torch.distributions, in float64, and its accuracy in float32."""

from __future__ import annotations

import math

import pytest
import support
import torch
from torch.distributions import Independent, Normal, kl_divergence

from metarl.functional import gaussian


def case(seed, tasks=4, actions=3):
    mean, log_std = (
        support.normal(seed, tasks, 5, actions),
        support.normal(seed + 1, tasks, 1, actions),
    )
    return mean, log_std, Independent(Normal(mean, log_std.exp()), 1)


def test_log_prob_is_the_joint_density_of_all_components():
    mean, log_std, oracle = case(0)
    actions = support.normal(2, *mean.shape)
    support.close(gaussian.log_prob(actions, mean, log_std), oracle.log_prob(actions), 1e-13)


def test_kl_is_from_the_old_to_the_new():
    (mean, log_std, old), (new_mean, new_log_std, new) = case(0), case(5)
    found = gaussian.kl(mean, log_std, new_mean, new_log_std)
    support.close(found, kl_divergence(old, new), 1e-12)
    assert (found - kl_divergence(new, old)).abs().min() > 1e-3


def test_kl_equals_the_mean_log_ratio_of_samples_of_the_old():
    """Monte Carlo, within five standard errors."""
    (mean, log_std, _), (new_mean, new_log_std, _) = case(0, 1, 2), case(5, 1, 2)
    mean, new_mean = mean[:, :1], new_mean[:, :1]
    actions = mean + log_std.exp() * support.normal(9, 20000, 1, 2)
    ratio = gaussian.log_prob(actions, mean, log_std) - gaussian.log_prob(
        actions, new_mean, new_log_std
    )
    error = ratio.std() / len(ratio) ** 0.5
    found = gaussian.kl(mean, log_std, new_mean, new_log_std)
    assert (found - ratio.mean()).abs().item() < 5 * error


def test_entropy():
    _, log_std, oracle = case(0)
    support.close(gaussian.entropy(log_std).expand(4, 5), oracle.entropy(), 1e-13)


@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_kl_near_zero_keeps_its_digits_in_float32(size):
    """Its error is rounding of the step, ε·|log σ' − log σ|; rounding of 1 is 1/size times that."""
    mean, log_std, _ = case(0)
    moved = (
        mean + size * support.normal(3, *mean.shape),
        log_std + size * support.normal(4, *log_std.shape),
    )
    single = [value.float() for value in (mean, log_std, *moved)]
    found = gaussian.kl(*single)
    # The oracle starts from the same float32 numbers, in float64, by the series of e^x − 1 − x.
    mean, log_std, new_mean, new_log_std = (value.double() for value in single)
    x = 2 * (log_std - new_log_std)
    spread = sum(x**k / (2 * math.factorial(k)) for k in range(2, 16))
    expected = (spread + 0.5 * ((mean - new_mean) / new_log_std.exp()) ** 2).sum(-1)
    allowed = 1e-5 * expected + torch.finfo(torch.float32).eps * x.abs().sum(-1)
    assert ((found.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_is_never_negative(dtype):
    """Means equal, deviations as near as numbers can be: where cancellation would show."""
    steps = torch.logspace(-18, 0, 4000, dtype=dtype)
    for old in (-1.5, 0.0, 0.3):
        for sign in (1, -1):
            new = (old + sign * steps)[:, None]
            zero = torch.zeros(1, dtype=dtype)
            assert (gaussian.kl(zero, torch.full_like(new, old), zero, new) >= 0).all()


def test_kl_of_a_distribution_with_itself_is_zero_to_the_bit():
    mean, log_std, _ = case(0)
    assert not gaussian.kl(mean, log_std, mean, log_std).any()


def test_second_derivative_of_the_kl_at_zero_is_the_fisher_matrix():
    """∂²/∂μ² = σ⁻², ∂²/∂(log σ)² = 2, nothing mixed."""
    mean, log_std = support.normal(0, 2), support.normal(1, 2)

    def divergence(vector):
        return gaussian.kl(mean, log_std, vector[:2], vector[2:])

    found = torch.autograd.functional.hessian(divergence, torch.cat([mean, log_std]))
    expected = torch.diag(torch.cat([(-2 * log_std).exp(), torch.full((2,), 2.0).double()]))
    support.close(found, expected, 1e-12)


@pytest.mark.parametrize("function", [gaussian.log_prob, gaussian.kl])
def test_derivatives_of_first_and_second_order(function):
    shapes = (
        [(3, 2), (3, 2), (2,)] if function is gaussian.log_prob else [(3, 2), (2,), (3, 2), (2,)]
    )
    inputs = [support.normal(index, *shape).requires_grad_() for index, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
