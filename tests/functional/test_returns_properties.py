"""What returns and advantages must not depend on: padding, order, and what stands after an episode's end."""

from __future__ import annotations

import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.functional import baseline, returns

TASKS, EPISODES, HORIZON = 2, 3, 6
numbers = st.floats(-1e3, 1e3).map(lambda value: value if abs(value) > 1e-6 else 0.0)
factors = st.floats(0.0, 1.0)


@st.composite
def waves(draw):
    """Rewards, values and mask of episodes of 1 to T steps; the values go on after the end."""
    size = TASKS * EPISODES
    lengths = torch.tensor(draw(st.lists(st.integers(1, HORIZON), min_size=size, max_size=size)))
    mask = (torch.arange(HORIZON) < lengths[:, None]).double().view(TASKS, EPISODES, HORIZON)
    flat = st.lists(numbers, min_size=mask.numel(), max_size=mask.numel())
    rewards, values = (torch.tensor(draw(flat)).double().view(mask.shape) for _ in range(2))
    return rewards * mask, values, mask


def padded(tensor, steps=3):
    return torch.cat([tensor, torch.zeros(*tensor.shape[:-1], steps).double()], -1)


@settings(max_examples=60, deadline=None)
@given(waves(), factors, factors)
def test_advantages_obey_their_recursion_and_end_with_the_episode(wave, discount, gae_lambda):
    """A_t = r_t + γ V_{t+1} − V_t + γλ A_{t+1}, where what follows the last valid step is 0."""
    rewards, values, mask = wave
    found = returns.advantages(rewards, values, mask, discount, gae_lambda)
    assert not (found * (1 - mask)).any()
    following = torch.cat([(values * mask)[..., 1:], torch.zeros(TASKS, EPISODES, 1)], -1)
    later = torch.cat([found[..., 1:], torch.zeros(TASKS, EPISODES, 1)], -1)
    expected = rewards + discount * following - values + discount * gae_lambda * later
    support.close(found, expected * mask, 1e-9)


@settings(max_examples=60, deadline=None)
@given(waves(), factors, factors)
def test_steps_after_the_end_change_nothing(wave, discount, gae_lambda):
    rewards, values, mask = wave
    found = returns.advantages(rewards, values, mask, discount, gae_lambda)
    longer = returns.advantages(*map(padded, wave), discount, gae_lambda)
    support.close(longer, padded(found), 1e-12)
    for one, other in zip(
        returns.standardise(found, mask), returns.standardise(longer, padded(mask)), strict=True
    ):
        support.close(other[..., :HORIZON], one, 1e-9)
    inputs = baseline.features(values[..., None] * mask[..., None])
    long_inputs = baseline.features(padded(values * mask)[..., None])
    support.close(
        baseline.fit(long_inputs, padded(rewards), padded(mask)),
        baseline.fit(inputs, rewards, mask),
        1e-6,
    )


@settings(max_examples=60, deadline=None)
@given(waves(), factors, factors, st.permutations(range(EPISODES)))
def test_the_order_of_episodes_and_of_tasks_is_kept(wave, discount, gae_lambda, order):
    def credit(rewards, values, mask):
        raw = returns.advantages(rewards, values, mask, discount, gae_lambda)
        return returns.standardise(raw, mask)[0]

    found = credit(*wave)
    support.close(credit(*(tensor[:, order] for tensor in wave)), found[:, order], 1e-7)
    support.close(credit(*(tensor.flip(0) for tensor in wave)), found.flip(0), 0.0)


@settings(max_examples=60, deadline=None)
@given(waves())
def test_standardised_is_of_mean_zero_and_variance_one_or_nothing(wave):
    rewards, _, mask = wave
    found, mean, std = returns.standardise(rewards, mask)
    count = mask.sum((1, 2))
    support.close(found.sum((1, 2)) / count, torch.zeros(TASKS), 1e-6)
    for task in range(TASKS):
        variance = float(found[task].square().sum() / count[task])
        assert abs(variance - 1.0) < 1e-6 or (variance == 0.0 and float(std[task]) == 1.0)
    support.close((found * std + mean) * mask, rewards, 1e-9)
