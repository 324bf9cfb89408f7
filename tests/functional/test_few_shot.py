"""Supervised objectives: a slow implementation, finite differences in float64, the variants' definitions."""

from __future__ import annotations

import pytest
import support
import torch
from oracles import slow_post_update
from torch import nn

from metarl.data import Examples, Meta, MetaBatch
from metarl.functional import few_shot, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.few_shot import Rule, step_weights
from metarl.functional.losses import LOSSES
from metarl.functional.params import flatten, flatten_meta
from metarl.functional.pool import Pool
from metarl.nets.mlp import MLP
from metarl.problems.protocol import initial_rates

M, K, SHOTS, QUERIES, LR = 3, 3, 4, 5, 0.1


def network(normalised=False, head=2):
    net = MLP((2,), head, (4, 3), normalised, generator=support.random_generator(0))
    return support.perturbed(net, 0.3)


def batch(classes=False, steps=K):
    def examples(seed, count):
        y = torch.arange(M * count).reshape(M, count) % 2
        return Examples(
            support.normal(seed, M, count, 2),
            y if classes else support.normal(seed + 1, M, count, 2),
        )

    return MetaBatch((examples(10, SHOTS),) * steps, examples(20, QUERIES))


def rule(net, loss="mse", per_step=(), **update):
    return Rule(net.stacked, LOSSES[loss], InnerUpdate(LR, **update), frozenset(per_step))


def derivative(stacked, data, meta):
    """Loss and gradient by the path that training takes."""
    objective = objectives.by_parts(stacked, data, meta, together=M)
    found = objective.linearise(flatten_meta(meta))
    return found.outcome.loss, found.gradient, objective.evaluate


def along(function, vector, direction, step=2e-6):
    """The fourth-order central difference of a scalar function along a direction.

    Normalising four examples bends the loss so much that the second-order difference is off by 1e-7.
    """
    near, far = (
        function(vector + size * direction) - function(vector - size * direction)
        for size in (step, 2 * step)
    )
    return (8 * near - far) / (12 * step)


LAST = [0.0] * K + [1.0]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("weights", [LAST, [0.0, 0.2, 0.3, 0.5]], ids=["maml", "multi-step"])
def test_the_meta_gradient_is_that_of_the_loop_over_tasks_and_steps(normalised, weights):
    net, data = network(normalised), batch()
    meta = Meta(support.theta_of(net), {})
    loss, gradient, _ = derivative(few_shot.post_update(rule(net), weights), data, meta)
    leaves = {name: value.requires_grad_() for name, value in support.theta_of(net).items()}
    expected = slow_post_update(net, leaves, data, weights, [dict.fromkeys(leaves, LR)] * K)
    support.close(loss, expected, 1e-13)
    grads = dict(zip(leaves, torch.autograd.grad(expected, list(leaves.values())), strict=True))
    support.close(gradient, flatten(grads), 1e-12)


ROWS = {
    "maml": {},
    "anil": {"adapted": frozenset({"layers.2.weight", "layers.2.bias"})},
    "meta-sgd": {"learn": True},
    "layer rates": {"learn": "layer"},
    "layer and step rates": {"learn": "layer_step"},
    "multi-step": {"weights": [0.0, 0.2, 0.3, 0.5]},
    "per-step normalisation": {"normalised": True, "per_step": True},
    "maml++": {
        "learn": "layer_step",
        "weights": [0.0, 0.3, 0.3, 0.4],
        "normalised": True,
        "per_step": True,
    },
}


def row(name, loss="mse"):
    """Objective and meta-parameters of a row of the table of variants, nothing in them equal or zero."""
    chosen = ROWS[name]
    net = network(chosen.get("normalised", False))
    theta = support.theta_of(net)
    per_step = [each for each in theta if "norms" in each and chosen.get("per_step")]
    for index, each in enumerate(per_step):
        theta[each] = theta[each] + 0.2 * support.normal(50 + index, K + 1, *theta[each].shape)
    made = rule(net, loss, per_step, adapted=chosen.get("adapted"))
    own = {name: theta[name] for name in made.update.names(theta) if name not in per_step}
    rates = initial_rates(own, chosen.get("learn", False), LR, K)
    rates = {
        name: value * (1 + 0.3 * support.normal(90 + index, *value.shape))
        for index, (name, value) in enumerate(rates.items())
    }
    return few_shot.post_update(made, chosen.get("weights", LAST)), Meta(theta, rates)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", ROWS)
def test_every_variants_gradient_equals_finite_differences(name, loss):
    objective, meta = row(name, loss)
    data = batch(classes=loss == "cross_entropy")
    _, gradient, evaluate = derivative(objective, data, meta)
    vector = flatten_meta(meta)
    # Along random directions, and along each of the last few components, which are learned rates where there are any.
    directions = [support.normal(seed, len(vector)) for seed in range(4)]
    directions += list(torch.eye(len(vector), dtype=support.DOUBLE)[-3:])
    for direction in directions:
        expected = along(lambda at: evaluate(at).loss, vector, direction)
        assert expected.abs() > 1e-7
        support.close(gradient @ direction, expected, 3e-8)


def test_anils_body_is_learned_through_the_adapted_head_but_not_adapted():
    objective, meta = row("anil")
    net, data = network(), batch()
    head = ROWS["anil"]["adapted"]
    path = list(rule(net, adapted=head).trajectory(meta, data))
    for name, value in meta.theta.items():
        moved = (path[-1][name] - value).abs().max() > 0
        assert moved == (name in head)
    leaves = {name: value.requires_grad_() for name, value in support.theta_of(net).items()}
    loss = slow_post_update(net, leaves, data, LAST, [dict.fromkeys(head, LR)] * K)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    gradient = derivative(objective, data, meta)[1]
    support.close(gradient, torch.cat([each.flatten() for each in expected]), 1e-12)


def test_fomaml_is_the_mean_query_gradient_at_the_adapted_parameters():
    net, data = network(), batch()
    meta = Meta(support.theta_of(net), {})
    found = derivative(few_shot.post_update(rule(net, first_order=True), LAST), data, meta)
    exact = derivative(few_shot.post_update(rule(net), LAST), data, meta)
    phi = list(rule(net).trajectory(meta, data))[-1]
    leaves = {name: value.detach().requires_grad_() for name, value in phi.items()}
    losses = rule(net).losses(leaves, data.query, K)
    gradient = torch.autograd.grad(losses.sum(), list(leaves.values()))
    expected = torch.cat([each.mean(0).flatten() for each in gradient])
    support.close(found[0], exact[0], 1e-14)
    support.close(found[1], expected, 1e-13)
    assert (found[1] - exact[1]).norm() > 0.01 * exact[1].norm()


def test_reptiles_gradient_is_theta_minus_the_mean_of_phi():
    net, data = network(), batch()
    meta = Meta(support.theta_of(net), {})
    loss, gradient, _ = derivative(few_shot.reptile(rule(net)), data, meta)
    phi = flatten(
        {
            name: value.detach()
            for name, value in list(rule(net).trajectory(meta, data))[-1].items()
        },
        1,
    )
    gap = flatten(meta.theta) - phi
    support.close(gradient, gap.mean(0), 1e-14)
    support.close(loss, 0.5 * gap.square().sum(1).mean(), 1e-14)
    assert gap.abs().max() > 1e-2


@pytest.mark.parametrize("learn", [True, "layer", "layer_step"])
def test_equal_learned_rates_are_maml(learn):
    net, data = network(), batch()
    theta = support.theta_of(net)
    stacked = few_shot.post_update(rule(net), LAST)
    plain = derivative(stacked, data, Meta(theta, {}))
    meta = Meta(theta, initial_rates(theta, learn, LR, K))
    found = derivative(stacked, data, meta)
    support.close(found[0], plain[0], 1e-14)
    support.close(found[1][: len(plain[1])], plain[1], 1e-13)


def test_steps_beyond_the_last_take_the_last_rates_and_normalisation():
    _, meta = row("maml++")
    made = rule(network(normalised=True), per_step=[n for n in meta.theta if "norms" in n])
    last = made.update.rates(meta, K - 1)
    for name, value in made.update.rates(meta, K + 5).items():
        assert torch.equal(value, last[name])
    params = {name: value.expand(M, *value.shape) for name, value in meta.theta.items()}
    x = batch().query.x
    assert torch.equal(made.predict(params, x, K), made.predict(params, x, K + 4))
    assert not torch.allclose(made.predict(params, x, 0), made.predict(params, x, 1))


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_step_weights_are_moved_to_the_last_step_little_by_little(steps):
    """All equal at first; each of 50 epochs takes the same from every early step, down to a floor, for the last."""
    epochs, weights = 50, [1.0 / steps] * steps
    for epoch in range(epochs):
        found = step_weights(steps, epoch / epochs)
        assert found == pytest.approx([0.0, *weights])
        for early in range(steps - 1):
            taken = min(1.0 / (steps * epochs), weights[early] - 0.03 / steps)
            weights[early] -= taken
            weights[-1] += taken
    assert weights[:-1] == pytest.approx([0.03 / steps] * (steps - 1))


@pytest.mark.parametrize(("steps", "progress"), [(0, 0.0), (1, 0.0), (1, 0.5), (5, 1.0), (5, 2.0)])
def test_the_last_step_has_all_the_weight_of_a_single_one_and_in_the_end(steps, progress):
    assert step_weights(steps, progress) == [0.0] * steps + [1.0]


def test_second_order_begins_at_its_iteration():
    update = InnerUpdate(LR, second_order_from=10)
    assert [update.at(i).first_order for i in (0, 9, 10, 11)] == [True, True, False, False]
    assert all(InnerUpdate(LR, first_order=True).at(i).first_order for i in (0, 10**6))


def test_what_is_measured_is_the_query_before_and_after():
    net, data = network(), batch(classes=True)
    made, meta = rule(net, "cross_entropy"), Meta(support.theta_of(net), {})
    objective = objectives.by_parts(few_shot.post_update(made, LAST), data, meta, together=M)
    measures = objective.evaluate(flatten_meta(meta)).measures
    path = list(made.trajectory(meta, data))
    for when, step in (("pre", 0), ("post", K)):
        predictions = net.stacked(path[step], data.query.x)
        loss = nn.functional.cross_entropy(predictions.flatten(0, 1), data.query.y.flatten())
        support.close(measures[f"loss/{when}"], loss, 1e-13)
        right = (predictions.argmax(-1) == data.query.y).double().mean()
        support.close(measures[f"accuracy/{when}"], right, 1e-15)


def test_chunks_and_threads_change_nothing():
    objective, meta = row("maml++")
    data, vector = batch(), flatten_meta(meta)
    whole = objectives.by_parts(objective, data, meta, together=M).linearise(vector)
    pool = Pool(2)
    single = objectives.by_parts(objective, data, meta, pool.map)
    found = single.linearise(vector)
    with pytest.raises(ValueError, match="no curvature"):
        found.curvature(vector)
    pool.shutdown()
    support.close(found.gradient, whole.gradient, 1e-13)
    support.close(found.outcome.loss, whole.outcome.loss, 1e-14)
