"""Credit: from a wave of episodes to baselines and advantages, each task by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.checks import nonfinite
from metarl.data import Episodes
from metarl.functional import baseline, returns
from metarl.functional.tasks import Mapper
from metarl.sampler import Wave


class Sampling(NamedTuple):
    """How episodes are sampled and credited.

    Attributes:
        episodes: N, episodes of each task in each wave.
        discount: γ.
        gae_lambda: λ.
    """

    episodes: int
    discount: float = 0.99
    gae_lambda: float = 1.0


class Collected(NamedTuple):
    """A wave with advantages; per task its mean return and explained variance, ``[M]``."""

    episodes: Episodes
    returns: Tensor
    explained_variance: Tensor


@torch.no_grad()
def credit(
    wave: Wave,
    tasks: np.ndarray,
    sampling: Sampling,
    place: str,
    mapper: Mapper,
    parts: Sequence[slice],
    first: int = 0,
) -> Collected:
    """Baseline and advantages of every task, each fitted and standardised by itself.

    Args:
        wave: of M tasks.
        tasks: ``[M, D]``, for messages.
        sampling: γ and λ.
        place: the environment and where in the iteration, for messages.
        mapper: maps over ``parts``; a thread pool's map runs them side by side.
        parts: of the task axis.
        first: row of the meta-batch that ``tasks`` begin with.

    Returns:
        The episodes ``[M, N, T, ...]``, with advantages and the baseline in their units.

    Raises:
        NonFiniteError: a return, an advantage or the advantages' spread is not finite.
    """
    to_go = returns.discounted_sums(wave.rewards, sampling.discount)
    nonfinite.check({"returns to go": to_go}, tasks, place, first)

    def value(part: slice) -> Tensor:
        inputs = baseline.features(wave.obs[part])
        weights = baseline.fit(inputs, to_go[part], wave.mask[part])
        return baseline.predict(weights, inputs).to(wave.obs.dtype)

    values = torch.cat(list(mapper(value, parts))) * wave.mask
    raw = returns.advantages(
        wave.rewards, values, wave.mask, sampling.discount, sampling.gae_lambda
    )
    advantages, mean, std = returns.standardise(raw, wave.mask)
    # A spread that overflows would make every advantage zero, without a word.
    nonfinite.check(
        {"advantages": raw, "spread of the advantages": std[:, 0, 0]}, tasks, place, first
    )
    in_its_units = (values + mean) / std * wave.mask
    episodes = Episodes(**wave._asdict(), advantages=advantages, values=in_its_units)
    explained = baseline.explained_variance(values, to_go, wave.mask)
    return Collected(episodes, wave.rewards.sum(-1).mean(-1), explained)
