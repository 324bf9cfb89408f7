"""Any module in a supervised problem has the meta-gradient of a loop over tasks, torch's normalisation included."""

from __future__ import annotations

from functools import partial

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
KINDS = (nn.GRU, nn.LSTM, nn.RNN)


def between(*layers):
    """Two linear layers and what stands between them."""
    return lambda _: nn.Sequential(nn.Linear(1, 6), *layers, nn.Tanh(), nn.Linear(6, 1))


class Sequence(nn.Module):
    """A layer of torch's over the points as a sequence; vmap has no rule for it."""

    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = kind(1, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0])


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
    **{f"torch's {kind.__name__}": partial(lambda kind, _: Sequence(kind), kind) for kind in KINDS},
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


def test_parameters_that_need_no_gradient_are_neither_adapted_nor_trained():
    def make(generator):
        network = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
        nn.init.constant_(network[0].weight, 0.5).requires_grad_(False)
        return network

    made = SupervisedProblem(Sinusoid(4, 5), make, learner=Adaptation(2, InnerUpdate(LR)))
    meta = made.initial_meta(generator(0, Stream.INITIALISATION))
    tasks = made.sample_tasks(3, generator(0, Stream.TRAIN_TASKS))
    batch, _ = made.collect(meta, tasks, support.KEY)
    assert list(meta.theta) == ["0.bias", "2.weight", "2.bias"]
    (before,) = made.predictions(meta, batch.support[0], batch.query.x, [])
    (b, v, c), x = meta.theta.values(), batch.query.x
    expected = torch.tanh(0.5 * x + b) @ v.T + c
    torch.testing.assert_close(before, expected)
    start = made.objective(meta, batch, Variant()).linearise(flatten_meta(meta))
    assert len(start.gradient) == 3 + 3 + 1
