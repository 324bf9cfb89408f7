"""MAML++: every step's own rates and normalisation, no two of them equal, against a loop over tasks and steps."""

from __future__ import annotations

import pytest
import support
import torch
from oracles import slow_post_update

from metarl.data import Examples, MetaBatch
from metarl.evaluate import in_steps
from metarl.functional import few_shot, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.few_shot import Rule
from metarl.functional.losses import LOSSES
from metarl.functional.params import flatten_meta
from metarl.nets.conv import Conv
from metarl.nets.mlp import MLP
from metarl.problems.learners import Adaptation

M, K, SHOTS, QUERIES, LR = 2, 3, 4, 5, 0.1
NETWORKS = {
    "mlp": ((2,), lambda g: MLP((2,), 2, (4, 3), True, generator=g)),
    "conv": ((1, 4, 4), lambda g: Conv((1, 4, 4), 2, 3, 2, "pool", generator=g)),
}


def examples(seed, shape, count):
    return Examples(support.normal(seed, M, count, *shape), support.normal(seed + 1, M, count, 2))


def batch(shape, steps=K):
    """Support that differs from step to step."""
    each = (examples(10 + 2 * step, shape, SHOTS) for step in range(steps))
    return MetaBatch(tuple(each), examples(30, shape, QUERIES))


def setting(kind, learn):
    """A module, how C of it are called at once, its learner and meta-parameters."""
    shape, make = NETWORKS[kind]
    net = support.perturbed(make(support.random_generator(0)), 0.3)
    call = lambda own, x: torch.func.functional_call(net, own, (x,))  # noqa: E731
    theta = support.theta_of(net)
    per_step = frozenset(name for name in theta if name.startswith("norms."))
    update = InnerUpdate(LR, adapted=frozenset(theta) - per_step)
    learner = Adaptation(K, update, learn, fresh_support=True, per_step=per_step)
    meta = learner.initial_meta(theta, support.random_generator(0))
    for index, name in enumerate(sorted(per_step)):
        meta.theta[name].add_(0.3 * support.normal(50 + index, *meta.theta[name].shape))
    for index, value in enumerate(meta.rates.values()):
        value.mul_(1 + 0.5 * torch.rand(value.shape, generator=support.random_generator(index)))
    return shape, net, torch.func.vmap(call), learner, meta


def rows(meta, learn, per_step, steps=K):
    """What each step has: rates of inner steps, and normalisation before the first and after each."""
    at = lambda value, step: value[min(step, K - 1)] if learn == "layer_step" else value  # noqa: E731
    rates = [{name: at(value, step) for name, value in meta.rates.items()} for step in range(steps)]
    own = [{name: meta.theta[name][min(step, K)] for name in per_step} for step in range(steps + 1)]
    return rates, own


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
@pytest.mark.parametrize("learn", [True, "layer", "layer_step"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_loss_and_meta_gradient_are_those_of_the_loop(kind, learn, weights):
    shape, net, network, learner, meta = setting(kind, learn)
    data = batch(shape)
    rule = Rule(network, LOSSES["mse"], learner.update, learner.per_step)
    objective = objectives.by_parts(few_shot.post_update(rule, weights), data, meta, together=M)
    found = objective.linearise(flatten_meta(meta))

    leaves = [value.requires_grad_() for part in meta for value in part.values()]
    rates, own = rows(meta, learn, learner.per_step)
    expected = slow_post_update(net, meta.theta, data, weights, rates, own)
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(expected, leaves)])
    support.close(found.outcome.loss, expected, 1e-13)
    support.close(found.gradient, gradient, 1e-12)


@pytest.mark.parametrize("learn", [True, "layer", "layer_step"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_held_out_tasks_are_adapted_to_by_the_same_rows_and_the_last_ones_after_them(kind, learn):
    shape, net, network, learner, meta = setting(kind, learn)
    steps = K + 2
    data = batch(shape, 1)
    data = data._replace(support=data.support * steps)
    predictions = learner.predictions(
        *(network, LOSSES["mse"], meta, data.support[0], data.query.x),
        in_steps(meta, [None] * steps),
    )
    rates, own = rows(meta, learn, learner.per_step, steps)
    theta = {name: value.requires_grad_() for name, value in meta.theta.items()}
    for step, found in enumerate(predictions):
        weights = [float(step == each) for each in range(steps + 1)]
        expected = slow_post_update(net, theta, data, weights, rates, own)
        support.close((found - data.query.y).square().mean(), expected, 1e-13)
