"""The learned inner update: coordinate by coordinate with torch's own cell, its derivative, a limit that is FOMAML."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support
import torch

from metarl.data import Examples, Meta, MetaBatch
from metarl.functional import few_shot, meta_lstm, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.losses import LOSSES
from metarl.functional.meta_lstm import PREFIX, Cell
from metarl.functional.params import flatten, flatten_meta, unflatten_meta
from metarl.nets.mlp import MLP

M, K, HIDDEN, LOSS = 2, 3, 3, LOSSES["mse"]


def network():
    return support.perturbed(MLP((2,), 2, (3,), generator=support.random_generator(0)), 0.3)


def meta_of(net, scale=0.7):
    theta = support.theta_of(net)
    for index, (name, shape) in enumerate(meta_lstm.shapes(HIDDEN).items()):
        theta[PREFIX + name] = scale * support.normal(50 + index, *shape)
    return Meta(theta, {})


def batch():
    examples = [
        Examples(support.normal(seed, M, 4, 2), support.normal(seed + 1, M, 4, 2))
        for seed in (10, 20)
    ]
    return MetaBatch((examples[0],) * K, examples[1])


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (1.0, (0.0, 1.0)),
        (-0.01, (math.log(0.01) / 10, -1.0)),
        (1e-6, (-1.0, 1e-6 * math.exp(10))),
        (-1e-6, (-1.0, -1e-6 * math.exp(10))),
        (0.0, (-1.0, 0.0)),
    ],
)
def test_small_and_large_gradients_are_told_by_size_and_sign(x, expected):
    found = meta_lstm.preprocessed(torch.tensor(x, dtype=support.DOUBLE))
    support.close(found, torch.tensor(expected), 1e-7)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_path(net, meta, data, task):
    """All parameters of one task after every step: a loop over coordinates with torch's own cell."""
    theta, own = meta_lstm.split(meta.theta)
    cell = torch.nn.LSTMCell(4, HIDDEN).double()
    with torch.no_grad():
        cell.weight_ih.copy_(own["inputs.weight"])
        cell.weight_hh.copy_(own["state.weight"])
        cell.bias_ih.copy_(own["state.bias"])
        cell.bias_hh.zero_()
    path = [flatten(theta).tolist()]
    states = [None] * len(path[0])
    gates = [[0.0, 0.0] for _ in path[0]]
    for examples in data.support:
        net.load_state_dict(
            unflatten_meta(torch.tensor(path[-1], dtype=support.DOUBLE), Meta(theta, {})).theta
        )
        net.requires_grad_(True)
        loss = ((net(examples.x[task]) - examples.y[task]) ** 2).mean()
        gradient = torch.cat(
            [each.flatten() for each in torch.autograd.grad(loss, net.parameters())]
        )
        net.requires_grad_(False)
        after = []
        for j, (value, slope) in enumerate(zip(path[-1], gradient.tolist(), strict=True)):
            seen = torch.stack([meta_lstm.preprocessed(each) for each in (gradient[j], loss)])
            states[j] = cell(seen.detach().reshape(1, 4), states[j])
            hidden = states[j][0][0].tolist()
            for index, name in enumerate(("forget", "rate")):
                weight = own[f"{name}.weight"].tolist()
                inputs = [*hidden, value, gates[j][index]]
                total = sum(w * x for w, x in zip(weight, inputs, strict=True))
                gates[j][index] = sigmoid(total + float(own[f"{name}.bias"]))
            after.append(gates[j][0] * value - gates[j][1] * slope)
        path.append(after)
    return path


def test_every_coordinate_is_stepped_by_the_same_cell():
    meta, data = meta_of(network()), batch()
    found = list(Cell(network().stacked, LOSS).trajectory(meta, data))
    assert len(found) == K + 1
    for task in range(M):
        expected = slow_path(network(), meta, data, task)
        for params, values in zip(found, expected, strict=True):
            np.testing.assert_allclose(flatten(params, 1)[task], values, rtol=1e-11, atol=1e-12)


def recorded(cell, meta, data):
    """Loss and gradient of every step, which the outer derivative takes for constants."""
    theta, _ = meta_lstm.split(meta.theta)
    path = list(cell.trajectory(meta, data))
    return [
        cell._slope(theta, flatten(params, 1), examples)
        for params, examples in zip(path, data.support, strict=False)
    ]


def replayed_loss(cell, meta, data, slopes):
    theta, own = meta_lstm.split(meta.theta)
    values = flatten({name: value.expand(M, *value.shape) for name, value in theta.items()}, 1)
    state = meta_lstm.first_state(own, values)
    for loss, gradient in slopes:
        values, state = meta_lstm.step(own, values, gradient, loss, state)
    params = {
        name: piece.reshape(M, *value.shape)
        for (name, value), piece in zip(
            theta.items(), values.split([v.numel() for v in theta.values()], 1), strict=True
        )
    }
    return LOSS.loss(cell.network(params, data.query.x), data.query.y).mean()


def objective_of(cell, meta, data):
    stacked = few_shot.post_update(cell, few_shot.step_weights(K, 1.0))
    return objectives.by_parts(stacked, data, meta, together=M)


def test_the_derivative_is_that_of_the_steps_with_their_gradients_held():
    cell, data = Cell(network().stacked, LOSS), batch()
    meta = meta_of(network())
    vector, slopes = flatten_meta(meta), recorded(cell, meta, data)
    found = objective_of(cell, meta, data).linearise(vector)
    at = lambda vector: replayed_loss(cell, unflatten_meta(vector, meta), data, slopes)  # noqa: E731
    support.close(found.outcome.loss, at(vector), 1e-13)
    directions = [support.normal(seed, len(vector)) for seed in range(4)]
    directions += list(torch.eye(len(vector), dtype=support.DOUBLE)[-12:])
    for direction in directions:
        near, far = (
            at(vector + size * direction) - at(vector - size * direction) for size in (2e-5, 4e-5)
        )
        support.close(found.gradient @ direction, (8 * near - far) / 24e-5, 1e-9)
    assert (found.gradient != 0).all()


def test_gates_that_see_nothing_are_fomaml():
    rate = 0.1
    meta, data, cell = meta_of(network(), scale=0.0), batch(), Cell(network().stacked, LOSS)
    meta.theta[PREFIX + "forget.bias"] += 60.0
    meta.theta[PREFIX + "rate.bias"] += math.log(rate / (1 - rate))
    found = objective_of(cell, meta, data).linearise(flatten_meta(meta))
    theta, _ = meta_lstm.split(meta.theta)
    rule = few_shot.Rule(cell.network, LOSS, InnerUpdate(rate, first_order=True))
    expected = objective_of(rule, Meta(theta, {}), data).linearise(flatten_meta(Meta(theta, {})))
    support.close(found.outcome.loss, expected.outcome.loss, 1e-13)
    support.close(found.gradient[: len(expected.gradient)], expected.gradient, 1e-13)
