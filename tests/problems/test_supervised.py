"""The supervised problem: what is collected, adapted and measured, recomputed task by task from scratch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import support
import torch
from torch import nn

from metarl.data import Examples
from metarl.functional.adapt import InnerUpdate
from metarl.functional.params import flatten_meta
from metarl.nets.mlp import MLP
from metarl.nets.recurrent import GRU
from metarl.outer import SGD, Adam, Descent, Schedule
from metarl.problems.protocol import Variant
from metarl.problems.sinusoid import Sinusoid
from metarl.problems.supervised import Adaptation, SupervisedProblem
from metarl.seeding import Key, Stream, generator

KEY, LR = support.KEY, 0.05


def problem(steps=2, network=None, loss="mse", update=None, source=None, **settings):
    """A sinusoid's problem; what is not of the inner loop goes to the problem."""
    inner = {name: settings.pop(name) for name in list(settings) if name in Adaptation._fields}
    make = network or (lambda g: MLP((1,), 1, (6, 5), generator=g))
    adaptation = Adaptation(steps, update or InnerUpdate(LR), **inner)
    return SupervisedProblem(source or Sinusoid(4, 5), make, loss, adaptation, **settings)


def drawn(made, count=3, seed=0):
    """Meta-parameters, tasks and their batch."""
    meta = made.initial_meta(generator(seed, Stream.INITIALISATION))
    tasks = made.sample_tasks(count, generator(seed, Stream.TRAIN_TASKS))
    return meta, tasks, made.collect(meta, tasks, KEY)[0]


def slow_curve(network, theta, support_, query, rates):
    """Mean squared error of one task after every step, by plain autograd on the module itself."""
    params, values = theta, []
    for step in range(len(rates) + 1):
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        call = lambda x, own=leaves: torch.func.functional_call(network, own, (x,))  # noqa: E731
        values.append(float(((call(query.x) - query.y) ** 2).mean().detach()))
        if step < len(rates):
            loss = ((call(support_.x) - support_.y) ** 2).mean()
            gradient = torch.autograd.grad(loss, list(leaves.values()))
            params = {
                name: value - rates[step] * slope
                for (name, value), slope in zip(leaves.items(), gradient, strict=True)
            }
    return values


@pytest.mark.parametrize("tasks_at_once", [None, 1, 2])
def test_the_adaptation_curve_is_that_of_every_task_by_itself(tasks_at_once):
    made = problem(tasks_at_once=tasks_at_once, threads=2)
    meta, tasks, _ = drawn(made)
    rates = (LR, 0.02, 0.03)
    told: list[int] = []
    found = made.adaptation_curve(meta, tasks, rates, 7, KEY, None, told.append)
    assert found.shape == (4, 3)
    assert told == [4 * count for count in {None: [3], 1: [1, 1, 1], 2: [2, 1]}[tasks_at_once]]
    both = made.source.examples(tasks, 7, KEY)
    for task in range(3):
        own = [type(part)(part.x[task], part.y[task]) for part in both]
        expected = slow_curve(made.network, meta.theta, *own, rates)
        np.testing.assert_allclose(found[:, task], expected, rtol=2e-5)
    made.close()


def test_support_is_the_same_at_every_step_unless_it_is_to_be_fresh():
    meta, tasks, batch = drawn(problem(steps=3))
    assert all(torch.equal(each.x, batch.support[0].x) for each in batch.support)
    fresh = problem(steps=3, fresh_support=True)
    batch = fresh.collect(meta, tasks, KEY)[0]
    xs = [each.x for each in batch.support]
    assert len(xs) == 3
    assert not any(torch.equal(xs[a], xs[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_no_step_is_pretraining_on_all_tasks():
    made = problem(steps=0)
    meta, _, batch = drawn(made)
    found = made.objective(meta, batch, Variant()).linearise(flatten_meta(meta))
    leaves = {name: value.clone().requires_grad_() for name, value in meta.theta.items()}
    predictions = torch.func.functional_call(made.network, leaves, (batch.query.x,))
    expected = torch.autograd.grad(
        ((predictions - batch.query.y) ** 2).mean(), list(leaves.values())
    )
    assert batch.support == ()
    support.close(found.gradient, torch.cat([each.flatten() for each in expected]), 1e-5)
    measures = found.outcome.measures
    assert measures["loss/pre"] == measures["loss/post"] == found.outcome.loss


def test_annealing_follows_the_iteration():
    made = problem(steps=2, multi_step_until=10, update=InnerUpdate(LR, second_order_from=5))
    meta, _, batch = drawn(made)
    vector = flatten_meta(meta)
    plain = {
        first: problem(steps=2, update=InnerUpdate(LR, first_order=first))
        for first in (True, False)
    }
    at = lambda iteration: made.objective(meta, batch, Variant(), iteration).linearise(vector)  # noqa: E731
    exact, early = (
        plain[first].objective(meta, batch, Variant()).linearise(vector) for first in (False, True)
    )
    support.close(at(10).gradient, exact.gradient, 1e-6)
    support.close(at(10).outcome.loss, exact.outcome.loss, 1e-6)
    # At iteration 0 both steps count alike: K = 1 and K = 2 in the mean, without second derivatives.
    one = problem(steps=1, update=InnerUpdate(LR, first_order=True))
    short = one.objective(meta, batch._replace(support=batch.support[:1]), Variant())
    mean = 0.5 * (short.linearise(vector).gradient + early.gradient)
    support.close(at(0).gradient, mean, 1e-6)
    assert (at(4).gradient - at(5).gradient).norm() > 1e-4


def test_each_step_has_its_own_normalisation_and_rates_from_equal_starts():
    names = frozenset({"norms.0.scale", "norms.0.shift"})
    make = lambda g: MLP((1,), 1, (6,), normalised=True, generator=g)  # noqa: E731
    adapted = frozenset({"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"})
    made = problem(
        *(2, make),
        update=InnerUpdate(LR, adapted=adapted),
        per_step=names,
        learn_rates="layer_step",
    )
    meta, _, batch = drawn(made)
    assert meta.theta["norms.0.scale"].shape == (3, 6)
    assert {name: tuple(value.shape) for name, value in meta.rates.items()} == {
        "layers.0.weight": (2, 1, 1),
        "layers.0.bias": (2, 1),
        "layers.1.weight": (2, 1, 1),
        "layers.1.bias": (2, 1),
    }
    plain = problem(2, make, update=InnerUpdate(LR, adapted=adapted))
    start = plain.initial_meta(generator(0, Stream.INITIALISATION))
    found, expected = (
        each.objective(its, batch, Variant()).linearise(flatten_meta(its)).outcome.loss
        for each, its in ((made, meta), (plain, start))
    )
    support.close(found, expected, 1e-6)
    moved, _ = Descent(SGD(Schedule(0.1))).step(
        meta, lambda variant: made.objective(meta, batch, variant)
    )
    rows = moved.theta["norms.0.shift"]
    assert not torch.equal(rows[0], rows[2])


def test_reptile_moves_towards_the_adapted_parameters():
    made = problem(steps=4, fresh_support=True)
    meta, tasks, batch = drawn(made)
    reptile = Descent(SGD(Schedule(0.5)), Variant(reptile=True))
    moved, metrics = reptile.step(meta, lambda variant: made.objective(meta, batch, variant))
    adapted = []
    for task in range(3):
        params = meta.theta
        for step in range(4):
            own = made.source.examples(tasks, 0 if step else 5, KEY, step)[0]
            leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
            predictions = torch.func.functional_call(made.network, leaves, (own.x[task],))
            gradient = torch.autograd.grad(
                ((predictions - own.y[task]) ** 2).mean(), list(leaves.values())
            )
            params = {
                name: value - LR * slope
                for (name, value), slope in zip(leaves.items(), gradient, strict=True)
            }
        adapted.append(params)
    for name, value in meta.theta.items():
        mean = torch.stack([each[name] for each in adapted]).mean(0)
        support.close(moved.theta[name], value + 0.5 * (mean - value), 1e-6)
    assert {"loss/pre", "loss/post"} <= metrics.keys()


class Lines:
    """y = a x, with the slope as the task; three classes by its sign instead, where asked."""

    queries = 6

    def sample_tasks(self, count, rng, split="train"):
        return rng.uniform(0.5, 2.0, (count, 1))

    def examples(self, tasks, queries, key, draw=0):
        x = torch.as_tensor(key.generator(draw).normal(size=(len(tasks), 4 + queries, 1))).float()
        both = x, x * torch.as_tensor(tasks[:, None]).float()
        return Examples(*(each[:, :4] for each in both)), Examples(*(each[:, 4:] for each in both))


@pytest.mark.parametrize(
    "network",
    [
        lambda g: nn.Linear(1, 1),
        lambda g: nn.Sequential(nn.Linear(1, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1)),
        lambda g: GRU((1,), 1, 5, g),
    ],
    ids=["linear", "torch's normalisation", "recurrent"],
)
def test_any_module_on_any_data_learns_and_threads_change_no_bit(network):
    start = problem(1, network, source=Lines()).initial_meta(np.random.default_rng(0))

    def learn(threads):
        made, meta, losses = problem(1, network, source=Lines(), threads=threads), start, []
        outer = Descent(Adam(Schedule(0.02)))
        for i in range(30):
            tasks = made.sample_tasks(8, generator(0, Stream.TRAIN_TASKS, i))
            batch, _ = made.collect(meta, tasks, Key(0, Stream.TRAIN_DATA, i))
            make = partial(made.objective, meta, batch)
            meta, metrics = outer.step(meta, make)
            losses.append(metrics["loss/post"])
        made.close()
        return meta.theta, losses

    (theta, losses), (other, repeated) = learn(1), learn(3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert losses == repeated
    assert all(torch.equal(value, other[name]) for name, value in theta.items())


def test_a_network_that_keeps_state_is_refused():
    with pytest.raises(ValueError, match="track_running_stats=False"):
        problem(network=lambda g: nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)))


def test_the_picture_shows_truth_support_and_predictions():
    made = problem()
    meta, tasks, _ = drawn(made, 6)
    figure = made.examples_figure(meta, tasks, (LR,) * 3, KEY)
    axes = [each for each in figure.axes if each.get_visible()]
    assert len(axes) == 4
    both = made.source.examples(tasks[:4], 0, KEY)[0]
    for index, each in enumerate(axes):
        lines = {line.get_label(): line.get_xydata() for line in each.lines}
        amplitude, phase = tasks[index]
        x, y = lines["truth"].T
        np.testing.assert_allclose(y, amplitude * np.sin(x - phase), atol=1e-12)
        points = np.stack([both.x[index, :, 0].numpy(), both.y[index, :, 0].numpy()], axis=1)
        np.testing.assert_array_equal(lines["support"], points)
        assert set(lines) == {
            *("truth", "support", "before adaptation"),
            *("after 1 gradient step", "after 3 gradient steps"),
        }
        at = torch.tensor(x).float()[:, None]
        before = torch.func.functional_call(made.network, meta.theta, (at,)).detach()
        np.testing.assert_allclose(lines["before adaptation"][:, 1], before[:, 0], atol=1e-5)


def test_the_picture_of_the_oracle_is_of_what_it_is_told():
    """Of all lines A x, one that reads A·x off its inputs (x, A, φ) is drawn where A·x is."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, inputs):
            return self.scale * inputs[..., :1] * inputs[..., 1:2]

    source = Sinusoid(4, 5, observe_task=True)
    made = problem(steps=0, network=lambda _: Product(), source=source)
    meta, tasks, _ = drawn(made, 2)
    figure = made.examples_figure(meta, tasks, (), KEY)
    for task, axes in zip(tasks, figure.axes, strict=True):
        lines = {line.get_label(): line.get_xydata() for line in axes.lines}
        assert set(lines) == {"truth", "support", "before adaptation"}
        x, y = lines["before adaptation"].T
        np.testing.assert_allclose(y, task[0] * x, rtol=1e-6)
        x, y = lines["support"].T
        np.testing.assert_allclose(y, task[0] * np.sin(x - task[1]), atol=1e-5)


def test_what_is_no_curve_has_no_picture():
    made = problem(source=Lines())
    meta, tasks, _ = drawn(made)
    assert made.examples_figure(meta, tasks, (LR,), KEY) is None
