"""What holds for every wave of a meta-batch, whichever inner step it is for and wherever its episodes end."""

from __future__ import annotations

import numpy as np
import support
import torch
from gymnasium.utils.seeding import np_random
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.functional import returns
from metarl.seeding import Key, Stream


def drawn_lengths(key: Key, step: int, tasks: int, episodes: int, horizon: int) -> torch.Tensor:
    """How long the environment lets every episode of a wave last, from its slot's own seed: ``[M, N]``."""
    seeds = [key.generator(task, step).integers(2**31, size=episodes) for task in range(tasks)]
    ends = [[int(np_random(int(seed))[0].integers(1, 7)) for seed in row] for row in seeds]
    return torch.tensor(ends).clamp(max=horizon)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(0, 3),
    tasks=st.integers(1, 3),
    episodes=st.integers(1, 4),
    horizon=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    discount=st.floats(0.1, 1.0),
)
def test_every_wave_credits_what_came_before_its_episodes_ends_and_nothing_else(
    steps, tasks, episodes, horizon, seed, discount
):
    problem = support.target_problem(
        {"random_end": True}, horizon, episodes, discount=discount, steps=steps
    )
    meta, key = support.double_meta(problem), Key(seed, Stream.TRAIN_DATA)
    targets = np.linspace(-1.0, 1.0, tasks)[:, None]
    batch, metrics = problem.collect(meta, targets, key)
    problem.close()
    waves = (*batch.support, batch.query)
    assert len(waves) == steps + 1
    for step, wave in enumerate(waves):
        lengths = drawn_lengths(key, step, tasks, episodes, horizon)
        support.close(wave.mask, torch.arange(horizon) < lengths[..., None], 0.0)
        rewards = -(wave.actions[..., 0] - torch.tensor(targets)[:, None]).square() * wave.mask
        support.close(wave.rewards, rewards, 1e-12)
        for field in (wave.advantages, wave.values):
            assert not (field * (1 - wave.mask)).any()
        count = wave.mask.sum((1, 2))
        support.close(wave.advantages.sum((1, 2)) / count, torch.zeros(tasks), 1e-9)
        # Advantage and baseline make up the return to go, up to one positive factor of each task.
        to_go = returns.discounted_sums(wave.rewards, discount)
        made = wave.advantages + wave.values
        factor = (made * to_go).sum((1, 2), True) / to_go.square().sum((1, 2), True)
        assert (factor > 0).all()
        support.close(made, factor * to_go, 1e-8)
    assert metrics["env_steps"] == sum(int(wave.mask.sum()) for wave in waves)
    for tag, wave in (("return/pre", waves[0]), ("return/post", waves[-1])):
        support.close(metrics[tag], wave.rewards.sum((1, 2)).mean() / episodes, 1e-9)
