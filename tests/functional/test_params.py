"""Parameters as vectors: every round trip is exact, and in the documented order."""

from __future__ import annotations

import pytest
import support
import torch

from metarl.data import Meta
from metarl.functional import params as p

LIKE = {"b": torch.zeros(2, 3), "a": torch.zeros(4)}
SIZE = 10


def test_flatten_joins_in_the_dictionarys_order_row_by_row():
    values = {"b": torch.tensor([[1.0, 2], [3, 4]]), "a": torch.tensor([5.0])}
    assert p.flatten(values).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_unflatten_then_flatten_is_the_identity(batch):
    vector = support.normal(0, *batch, SIZE)
    found = p.unflatten(vector, LIKE)
    assert {name: value.shape for name, value in found.items()} == {
        name: (*batch, *value.shape) for name, value in LIKE.items()
    }
    assert torch.equal(p.flatten(found, len(batch)), vector)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_scalar_parameter_makes_the_round_trip(batch):
    like = {"scalar": torch.zeros(()), "row": torch.zeros(2)}
    vector = support.normal(0, *batch, 3)
    found = p.unflatten(vector, like)
    assert found["scalar"].shape == batch
    assert torch.equal(p.flatten(found, len(batch)), vector)


def test_flatten_then_unflatten_is_the_identity():
    theta = support.theta_of(support.make_policy())
    found = p.unflatten(p.flatten(theta), theta)
    assert list(found) == list(theta)
    assert all(torch.equal(found[name], theta[name]) for name in theta)


@pytest.mark.parametrize("learned", [False, True])
def test_meta_round_trip_keeps_theta_and_rates_apart(learned):
    theta = support.theta_of(support.make_policy())
    rates = {name: 7 + value.abs() for name, value in theta.items()} if learned else {}
    vector = p.flatten_meta(Meta(theta, rates))
    assert torch.equal(vector[: len(p.flatten(theta))], p.flatten(theta))
    found = p.unflatten_meta(vector, Meta(theta, rates))
    assert found.rates.keys() == rates.keys()
    for before, after in ((theta, found.theta), (rates, found.rates)):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_unflatten_is_differentiable():
    vector = support.normal(1, SIZE).requires_grad_()
    weights = support.normal(2, SIZE)
    (p.flatten(p.unflatten(vector, LIKE)) * weights).sum().backward()
    assert torch.equal(vector.grad, weights)


def test_for_tasks_repeats_without_copying():
    theta = support.theta_of(support.make_policy())
    for name, value in p.for_tasks(theta, 4).items():
        assert value.shape == (4, *theta[name].shape)
        assert value.data_ptr() == theta[name].data_ptr()
        assert torch.equal(value[3], theta[name])


def test_descend_takes_one_rate_or_one_per_parameter_and_writes_into_nothing():
    theta = support.theta_of(support.make_policy())
    before = {name: value.clone() for name, value in theta.items()}
    gradient = {name: torch.full_like(value, 2.0) for name, value in theta.items()}
    rates = {name: torch.full_like(value, 0.25) for name, value in theta.items()}
    for rate in (0.25, rates):
        found = p.descend(theta, gradient, rate)
        assert all(torch.equal(found[name], before[name] - 0.5) for name in theta)
    assert all(torch.equal(theta[name], before[name]) for name in theta)
