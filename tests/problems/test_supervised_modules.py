"""Any module in a supervised problem has the meta-gradient of a loop over tasks, torch's normalisation included."""

from __future__ import annotations

import pytest
import support
import torch
from oracles import slow_post_update
from torch import nn

from metarl.functional.adapt import InnerUpdate
from metarl.functional.params import flatten_meta
from metarl.nets.recurrent import GRU
from metarl.problems.learners import Adaptation
from metarl.problems.protocol import Variant
from metarl.problems.sinusoid import Sinusoid
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Stream, generator

TASKS, K, LR = 3, 2, 0.05


def between(*layers):
    """Two linear layers and what stands between them."""
    return lambda _: nn.Sequential(nn.Linear(1, 6), *layers, nn.Tanh(), nn.Linear(6, 1))


MODULES = {
    "none": between(),
    "layer": between(nn.LayerNorm(6)),
    "batch": between(nn.BatchNorm1d(6, track_running_stats=False)),
    "group": between(nn.GroupNorm(2, 6)),
    "instance": between(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, affine=True), nn.Flatten(1)),
    "images": between(
        nn.Unflatten(1, (2, 3, 1)), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(1)
    ),
    "recurrent": lambda g: GRU((1,), 1, 4, g),
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("tasks_at_once", [None, 1])
@pytest.mark.parametrize("name", MODULES)
def test_the_meta_gradient_is_that_of_a_loop_over_tasks(name, tasks_at_once, first_order):
    learner = Adaptation(K, InnerUpdate(LR, first_order), fresh_support=True)
    problem = SupervisedProblem(
        *(Sinusoid(5, 6), MODULES[name], "mse", learner, tasks_at_once), dtype=support.DOUBLE
    )
    meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
    for index, value in enumerate(meta.theta.values()):
        value.copy_(support.normal(index, *value.shape))
    tasks = problem.sample_tasks(TASKS, generator(0, Stream.TRAIN_TASKS))
    batch, _ = problem.collect(meta, tasks, support.KEY)
    found = problem.objective(meta, batch, Variant()).linearise(flatten_meta(meta))

    leaves = {name: value.clone().requires_grad_() for name, value in meta.theta.items()}
    rates = [dict.fromkeys(leaves, LR)] * K
    loss = slow_post_update(
        *(problem.network, leaves, batch, [0.0] * K + [1.0], rates), first_order=first_order
    )
    expected = torch.autograd.grad(loss, list(leaves.values()))
    support.close(found.outcome.loss, loss, 1e-12)
    support.close(found.gradient, torch.cat([each.flatten() for each in expected]), 1e-11)
