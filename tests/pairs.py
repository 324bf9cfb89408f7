"""MAML's outer objective twice, in closed form and by autograd, on the same small batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import support
import torch
from torch import Tensor

from metarl.data import Meta, MetaBatch, Params
from metarl.functional import closed_form, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.objectives import Objective
from metarl.functional.params import flatten
from metarl.functional.pool import Pool

LR = 0.3
TOLERANCE = 1e-10


class Pair(NamedTuple):
    closed: Objective
    autograd: Objective
    vector: Tensor
    theta: Params
    batch: MetaBatch


def make_pair(
    estimator: str = "lvc",
    steps: int = 2,
    activation: str = "tanh",
    first_order: bool = False,
    together: tuple[int, int] = (1, 1),
    sizes: tuple[int, ...] = (3, 5, 4, 2),
    min_std: float = 1e-6,
    log_std: list[float] | None = None,
    mapper=map,
    tasks: int = 2,
    kept: int | None = None,
) -> Pair:
    policy = support.make_policy(activation, sizes, min_std)
    theta = support.theta_of(policy)
    if log_std is not None:
        theta["log_std"] = torch.tensor(log_std, dtype=support.DOUBLE)
    batch = support.sample_batch(policy, theta, steps, LR, tasks)
    inner, chosen = InnerUpdate(LR, first_order), ESTIMATORS[estimator]
    task_objective = objectives.surrogate(support.pure(policy), chosen, inner)
    arch = support.architecture(policy)
    return Pair(
        closed_form.objective(arch, chosen, inner, batch, theta, mapper, together[0], kept),
        objectives.by_autograd(task_objective, batch, Meta(theta, {}), mapper, together[1], kept),
        flatten(theta),
        theta,
        batch,
    )


@contextlib.contextmanager
def shared_by(threads: int) -> Iterator[Pool]:
    pool = Pool(threads)
    yield pool
    pool.shutdown()
