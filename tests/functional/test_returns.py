"""Returns and advantages against double loops."""

from __future__ import annotations

import pytest
import support
import torch

from metarl.functional import returns

M, N, T = 2, 3, 6


@pytest.fixture
def wave():
    mask = torch.stack([support.early_ends(N, T, seed) for seed in (1, 2)])
    return support.normal(3, M, N, T) * mask, support.normal(4, M, N, T), mask


@pytest.mark.parametrize("way", [returns._one_by_one, returns._doubling])
@pytest.mark.parametrize("factor", [0.0, 0.9, 1.0])
def test_discounted_sums(factor, way, wave):
    rewards = wave[0]
    found = way(rewards, factor)
    for t in range(T):
        expected = sum(factor ** (u - t) * rewards[..., u] for u in range(t, T))
        support.close(found[..., t], expected, 1e-14)


def slow_advantages(rewards, values, length, discount, gae_lambda):
    """Equation 16 with δ written out, of one episode of ``length`` steps."""
    value = lambda t: float(values[t]) if t < length else 0.0  # noqa: E731
    found = torch.zeros(T, dtype=support.DOUBLE)
    for t in range(length):
        for u in range(t, length):
            residual = float(rewards[u]) + discount * value(u + 1) - value(u)
            found[t] += (discount * gae_lambda) ** (u - t) * residual
    return found


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_advantages_equal_the_slow_sum_episode_by_episode(gae_lambda, discount, wave):
    rewards, values, mask = wave  # the values go on after an episode's end: they must not matter
    found = returns.advantages(rewards, values, mask, discount, gae_lambda)
    for m in range(M):
        for n in range(N):
            expected = slow_advantages(
                rewards[m, n], values[m, n], int(mask[m, n].sum()), discount, gae_lambda
            )
            support.close(found[m, n], expected, 1e-13)


def test_with_lambda_one_it_is_the_return_to_go_less_the_baseline(wave):
    rewards, values, mask = wave
    expected = (returns.discounted_sums(rewards, 0.9) - values) * mask
    support.close(returns.advantages(rewards, values, mask, 0.9, 1.0), expected, 1e-13)


def test_with_lambda_zero_it_is_the_residual_of_one_step(wave):
    rewards, values, mask = wave
    following = torch.cat([(values * mask)[..., 1:], torch.zeros(M, N, 1)], -1)
    expected = (rewards + 0.9 * following - values) * mask
    support.close(returns.advantages(rewards, values, mask, 0.9, 0.0), expected, 1e-13)


def test_exact_values_leave_no_advantage(wave):
    rewards, _, mask = wave
    exact = returns.discounted_sums(rewards, 0.9)
    support.close(returns.advantages(rewards, exact, mask, 0.9, 0.5), torch.zeros(M, N, T), 1e-14)


def test_standardise_gives_each_task_mean_zero_and_variance_one_over_its_valid_steps(wave):
    _, values, mask = wave
    values = 3.0 * values + torch.tensor([5.0, -100.0])[:, None, None]
    found, mean, std = returns.standardise(values, mask)
    assert not (found * (1 - mask)).any()
    for m in range(M):
        valid = values[m][mask[m] > 0]
        support.close(
            found[m][mask[m] > 0], (valid - valid.mean()) / valid.std(correction=0), 1e-12
        )
        support.close(mean[m, 0, 0], valid.mean(), 1e-13)
        support.close(std[m, 0, 0], valid.std(correction=0), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -123.4, 1e-20, 3e8])
@pytest.mark.parametrize("size", [1, 7, 4000])
def test_a_constant_is_no_signal(size, constant, dtype):
    """The mean of equal numbers is off by rounding; dividing by that would make a signal of it."""
    mask = torch.ones(1, 2, size, dtype=dtype)
    mask[0, 1, size // 2 :] = 0
    found, _, std = returns.standardise(torch.full_like(mask, constant), mask)
    assert not found.any()
    assert std.item() == 1.0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_standardising_does_not_depend_on_the_scale(scale, wave):
    _, values, mask = wave
    support.close(
        returns.standardise(scale * values, mask)[0], returns.standardise(values, mask)[0], 1e-12
    )
