"""Learners that compare: an independent slow loop of each in float64, finite differences, symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support
import torch

from metarl.data import Examples, Meta, MetaBatch
from metarl.functional import comparison, objectives
from metarl.functional.comparison import BIAS, METRICS, WEIGHT
from metarl.functional.losses import LOSSES
from metarl.functional.params import flatten_meta
from metarl.nets.mlp import MLP

M, WAYS, SHOTS, QUERIES, INPUTS, FEATURES, JOINT = 3, 4, 2, 3, 5, 6, 11
LOSS = LOSSES["cross_entropy"]


def network(normalised=False):
    """A float64 embedding none of whose parameters is zero."""
    net = MLP((INPUTS,), None, (7, FEATURES), normalised, generator=support.random_generator(0))
    net = support.perturbed(net, 0.3)
    # No example may lose all its features to the ReLU: a cosine with nothing is a tie of all classes.
    (net.norms[1].shift if normalised else net.layers[1].bias).add_(0.7)
    return net


def meta_of(net, outputs=0):
    theta = support.theta_of(net)
    if outputs:
        theta[WEIGHT] = support.normal(70, outputs, FEATURES)
        theta[BIAS] = support.normal(71, outputs)
    return Meta(theta, {})


def batch(seed=0):
    """Examples that scatter around their class, in an order of their own for every task."""
    centres = 1.5 * support.normal(seed, M, WAYS, INPUTS)

    def examples(number, count):
        y = torch.stack([torch.arange(WAYS * count).roll(task) % WAYS for task in range(M)])
        noise = support.normal(seed + number, M, WAYS * count, INPUTS)
        return Examples(centres.gather(1, y.unsqueeze(-1).expand(-1, -1, INPUTS)) + noise, y)

    return MetaBatch((examples(1, SHOTS),), examples(2, QUERIES))


def embedded(net, meta, part, normalised=False):
    """Features and classes of one task's support and query, as NumPy: layer by layer, from the definition."""
    x = torch.cat([part.support[0].x[0], part.query.x[0]]).numpy()
    for index in range(2):
        weight, bias = (meta.theta[f"layers.{index}.{name}"].numpy() for name in ("weight", "bias"))
        x = x @ weight.T + bias
        if normalised:
            scale, shift = (
                meta.theta[f"norms.{index}.{name}"].numpy() for name in ("scale", "shift")
            )
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * scale + shift
        x = np.maximum(x, 0.0)
    shots = part.support[0].y.shape[1]
    return (x[:shots], part.support[0].y[0].tolist()), (x[shots:], part.query.y[0].tolist())


def slow_prototypical(theta, known, asked):
    loss, right = [], []
    for x, y in zip(*asked, strict=True):
        distances = []
        for k in range(WAYS):
            prototype = np.mean([z for z, c in zip(*known, strict=True) if c == k], axis=0)
            distances.append(sum((x[j] - prototype[j]) ** 2 for j in range(FEATURES)))
        total = sum(math.exp(-d) for d in distances)
        loss.append(distances[y] + math.log(total))
        right.append(distances[y] == min(distances))
    return np.mean(loss), np.mean(right)


def cosine(a, b):
    assert a.any()
    assert b.any()
    return sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b))


def slow_matching(theta, known, asked):
    loss, right = [], []
    for x, y in zip(*asked, strict=True):
        shares = [math.exp(cosine(x, z)) for z in known[0]]
        votes = [0.0] * WAYS
        for share, c in zip(shares, known[1], strict=True):
            votes[c] += share / sum(shares)
        loss.append(-math.log(votes[y]))
        right.append(votes[y] == max(votes))
    return np.mean(loss), np.mean(right)


def slow_siamese(theta, known, asked):
    costs, right = {True: [], False: []}, []
    weight, bias = theta[WEIGHT][0].numpy(), float(theta[BIAS])
    for x, y in zip(*asked, strict=True):
        probabilities = []
        for z, c in zip(*known, strict=True):
            total = sum(weight[j] * abs(x[j] - z[j]) for j in range(FEATURES)) + bias
            p = 1 / (1 + math.exp(-total))
            costs[y == c].append(-math.log(p if y == c else 1 - p))
            probabilities.append(p)
        right.append(known[1][int(np.argmax(probabilities))] == y)
    return (np.mean(costs[True]) + np.mean(costs[False])) / 2, np.mean(right)


def slow_nearest_neighbour(theta, known, asked):
    right = [
        known[1][int(np.argmax([cosine(x, z) for z in known[0]]))] == y
        for x, y in zip(*asked, strict=True)
    ]
    return None, np.mean(right)


SLOW = {
    "prototypical": slow_prototypical,
    "matching": slow_matching,
    "siamese": slow_siamese,
    "nearest_neighbour": slow_nearest_neighbour,
}
OWN = {"siamese": 1}
"""Outputs of a learner's own layer."""
TRAINED = [name for name in SLOW if name != "nearest_neighbour"]


def single(data, task):
    rows = slice(task, task + 1)
    (known,) = data.support
    return MetaBatch(
        (Examples(known.x[rows], known.y[rows]),), Examples(data.query.x[rows], data.query.y[rows])
    )


def objective_of(name, net, meta, data):
    stacked = comparison.episodes(net.stacked, METRICS[name], LOSS)
    return objectives.by_parts(stacked, data, meta, together=M)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", SLOW)
def test_loss_and_accuracy_are_those_of_the_loop_over_queries_and_support(name, normalised):
    net, data = network(normalised), batch()
    meta = meta_of(net, OWN.get(name, 0))
    expected = [
        SLOW[name](meta.theta, *embedded(net, meta, single(data, task), normalised))
        for task in range(M)
    ]
    accuracies = [accuracy for _, accuracy in expected]
    assert 1 / WAYS < np.mean(accuracies) < 1
    (known,) = data.support
    logits = comparison.class_logits(net.stacked, METRICS[name], meta, known, data.query.x)
    np.testing.assert_allclose(LOSS.score(logits, data.query.y), accuracies, rtol=1e-12)
    if name in TRAINED:
        outcome = objective_of(name, net, meta, data).evaluate(flatten_meta(meta))
        support.close(outcome.loss, np.mean([loss for loss, _ in expected]), 1e-12)
        support.close(outcome.measures["loss/post"], outcome.loss, 1e-14)
        support.close(outcome.measures["accuracy/post"], np.mean(accuracies), 1e-12)


def joint(net, meta):
    query = batch().query
    data = MetaBatch((), query._replace(y=(5 * query.y + torch.arange(M).unsqueeze(1)) % JOINT))
    stacked = comparison.joint_classes(net.stacked, LOSS)
    return objectives.by_parts(stacked, data, meta, together=M), data


def test_the_joint_classifier_is_a_linear_layer_on_the_features():
    net = network()
    meta = meta_of(net, JOINT)
    objective, data = joint(net, meta)
    losses, right = [], []
    for x, y in zip(data.query.x.flatten(0, 1), data.query.y.flatten().tolist(), strict=True):
        scores = (meta.theta[WEIGHT] @ net(x.unsqueeze(0))[0] + meta.theta[BIAS]).tolist()
        losses.append(math.log(sum(map(math.exp, scores))) - scores[y])
        right.append(max(scores) == scores[y])
    outcome = objective.evaluate(flatten_meta(meta))
    support.close(outcome.loss, np.mean(losses), 1e-12)
    support.close(outcome.measures["accuracy/post"], np.mean(right), 1e-12)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", [*TRAINED, "joint classes"])
def test_every_gradient_equals_finite_differences(name, normalised):
    net, data = network(normalised), batch()
    if name == "joint classes":
        meta = meta_of(net, JOINT)
        objective, _ = joint(net, meta)
    else:
        meta = meta_of(net, OWN.get(name, 0))
        objective = objective_of(name, net, meta, data)
    vector = flatten_meta(meta)
    gradient = objective.linearise(vector).gradient
    # Each of the last components is of the learner's own layer, where there is one.
    directions = [support.normal(seed, len(vector)) for seed in range(4)]
    directions += list(torch.eye(len(vector), dtype=support.DOUBLE)[-3:])
    for direction in directions:
        near, far = (
            objective.evaluate(vector + size * direction).loss
            - objective.evaluate(vector - size * direction).loss
            for size in (2e-6, 4e-6)
        )
        support.close(gradient @ direction, (8 * near - far) / 24e-6, 3e-8)
    assert (gradient != 0).double().mean() > 0.8


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", SLOW)
def test_names_of_classes_and_the_order_of_the_support_say_nothing(name, normalised):
    net, data = network(normalised), batch()
    meta, (known,) = meta_of(net, OWN.get(name, 0)), data.support
    before = comparison.class_logits(net.stacked, METRICS[name], meta, known, data.query.x)
    renamed = torch.tensor([2, 0, 3, 1])
    order = torch.randperm(WAYS * SHOTS, generator=support.random_generator(9))
    other = Examples(known.x[:, order], renamed[known.y[:, order]])
    after = comparison.class_logits(net.stacked, METRICS[name], meta, other, data.query.x)
    support.close(after[..., renamed], before, 1e-12)


@pytest.mark.parametrize("name", SLOW)
def test_a_query_depends_on_the_others_only_where_the_network_normalises_by_its_batch(name):
    alone = {}
    for normalised in (False, True):
        net, data = network(normalised), batch()
        meta, (known,) = meta_of(net, OWN.get(name, 0)), data.support
        together, single_query = (
            comparison.class_logits(net.stacked, METRICS[name], meta, known, x)[:, :1]
            for x in (data.query.x, data.query.x[:, :1])
        )
        alone[normalised] = float((together - single_query).abs().max())
    assert alone[False] < 1e-12
    assert alone[True] > 1e-4


@pytest.mark.parametrize("name", SLOW)
def test_tasks_are_compared_by_themselves(name):
    net, data = network(), batch()
    meta, (known,) = meta_of(net, OWN.get(name, 0)), data.support
    whole = comparison.class_logits(net.stacked, METRICS[name], meta, known, data.query.x)
    for task in range(M):
        part = single(data, task)
        found = comparison.class_logits(
            net.stacked, METRICS[name], meta, part.support[0], part.query.x
        )
        support.close(found, whole[task : task + 1], 1e-13)
