"""What is logged of a meta-batch's waves: numbers of each task, which processes can share out, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.functional import gaussian
from metarl.problems.credit import Collected


class Measured(NamedTuple):
    """Of each of M tasks; of each wave, or inner step, where it is several.

    Attributes:
        returns: mean return, of each wave ``[M]``.
        explained: explained variance, of each wave ``[M]``.
        steps: environment steps, of each wave ``[M]``.
        norms: of the gradient, of each inner step ``[M]``.
        log_std: of the first wave's policies, ``[M, A]``.
    """

    returns: tuple[Tensor, ...]
    explained: tuple[Tensor, ...]
    steps: tuple[Tensor, ...]
    norms: tuple[Tensor, ...]
    log_std: Tensor


def of_each_task(waves: Sequence[Collected], norms: Sequence[Tensor]) -> Measured:
    """Measure waves that adaptation lies between, with the norms of its gradients."""
    return Measured(
        tuple(wave.returns for wave in waves),
        tuple(wave.explained_variance for wave in waves),
        tuple(wave.episodes.mask.sum((-2, -1)) for wave in waves),
        tuple(norms),
        waves[0].episodes.log_std,
    )


def metrics(each: Measured) -> dict[str, float]:
    """Means over the tasks, by tag."""
    pre, post = float(each.returns[0].mean()), float(each.returns[-1].mean())
    return {
        "return/pre": pre,
        "return/post": post,
        "return/gain": post - pre,
        "inner/grad_norm": float(sum(norm.mean() for norm in each.norms)) / max(len(each.norms), 1),
        "policy/std": float(each.log_std.exp().mean()),
        "policy/entropy": float(gaussian.entropy(each.log_std).mean()),
        "baseline/explained_variance": float(torch.stack(each.explained).mean()),
        "env_steps": float(sum(steps.sum() for steps in each.steps)),
    }
