"""Every library that the closed forms may use gives the same numbers, to the rounding of their type."""

from __future__ import annotations

import pytest
import support
import torch
from torch.utils import _pytree as pytree

from metarl import kernels
from metarl.functional import closed_form
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten
from metarl.functional.pool import make_pool

LIBRARIES = [
    False,
    pytest.param(
        True, marks=pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
    ),
]


@pytest.fixture(params=LIBRARIES, ids=["as torch has it", "oneDNN"])
def library(request, monkeypatch):
    monkeypatch.setattr(kernels, "ONE_DNN", request.param)
    monkeypatch.setattr(kernels, "FEW", 0)
    return request.param


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(7, 5, 33), (64, 129, 200), (6, 200, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_that_of_its_definition(library, dtype, size, count):
    n, k, m = size
    a, b = (
        support.normal(seed, count, *size).to(dtype) for seed, size in ((0, (n, k)), (1, (k, m)))
    )
    expected = (a.double().unsqueeze(3) * b.double().unsqueeze(1)).sum(2)
    bound = 2 * k * torch.finfo(dtype).eps
    for right in (b, b.mT.contiguous().mT, torch.cat([b, b], dim=1)[:, :k]):
        found = kernels.matmul(a, kernels.factor(right))
        assert found.dtype is dtype
        assert float((found - expected).abs().max()) <= bound * float(expected.abs().max())


def test_rows_are_the_columns_turned(library):
    columns = support.normal(0, 2, 3, 4).float()
    turned = kernels.rows(columns).matrix
    assert torch.equal(turned, columns.mT)
    assert turned.is_contiguous() is not library


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_activations_are_right_to_the_last_places_wherever_they_are_written(activation, dtype):
    z = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([0.0, -1e-8, 1e-30])]).to(dtype)
    expected = getattr(torch, activation)(z.double())
    room = torch.full((2, len(z)), 7.0, dtype=dtype)[:1]
    found = kernels.activate(activation, z[None], room)
    assert found is room
    written = z.clone()
    assert kernels.IN_PLACE[activation](written) is written
    for each in (found[0], written):
        error = (each.double() - expected).abs()
        assert bool((error <= 4 * torch.finfo(dtype).eps * expected.abs()).all())


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_products_with_the_curvature_in_float32_are_those_in_float64(library, activation):
    policy = support.make_policy(activation, (5, 32, 24, 3))
    theta = {name: value.detach() for name, value in support.theta_of(policy).items()}
    batch = support.sample_batch(policy, theta, 2, 0.1, 2, 5, 20)
    direction = support.normal(9, len(flatten(theta)))
    found = []
    for dtype in (torch.float32, torch.float64):
        params, data, vector = pytree.tree_map(
            lambda leaf, dtype=dtype: leaf.detach().to(dtype), (theta, batch, direction)
        )
        chosen = ESTIMATORS["lvc"], InnerUpdate(0.1)
        arch = support.architecture(policy)
        objective = closed_form.objective(arch, *chosen, data, params)
        start = objective.linearise(flatten(params))
        found.append((start.gradient, start.curvature(vector)))
    for single, double in zip(*found, strict=True):
        assert single.dtype is torch.float32
        assert float((single - double).norm() / double.norm()) < 1e-5


def test_one_task_in_single_precision_is_what_one_dnn_multiplies(library):
    of = lambda dtype, count: kernels.factor(torch.ones(count, 3, 4, dtype=dtype)).turned  # noqa: E731
    assert (of(torch.float32, 1) is not None) is library
    assert of(torch.float32, 3) is of(torch.float64, 1) is None


@pytest.mark.parametrize(
    ("vendor", "operation", "expected"),
    [
        ("AuthenticAMD", kernels.multiply_by_one_dnn, True),
        ("GenuineIntel", kernels.multiply_by_one_dnn, False),
        ("AuthenticAMD", lambda a, turned: a @ turned.mT + 1.0, False),
        ("AuthenticAMD", lambda a, turned, more: None, False),
    ],
)
def test_one_dnn_is_taken_where_mkl_is_slower_and_only_while_it_does_what_it_did(
    vendor, operation, expected, monkeypatch
):
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("needs MKL and oneDNN")
    monkeypatch.setattr(kernels, "described", lambda key: vendor)
    monkeypatch.setattr(kernels, "multiply_by_one_dnn", operation)
    assert kernels._one_dnn() is expected


@pytest.mark.parametrize("kept", [0, None])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_threads_and_what_is_kept_change_no_bit_at_the_size_of_a_half_cheetah(
    library, activation, kept
):
    """In threads that have done nothing before, which take over torch's number of threads inside a product."""
    policy = support.make_policy(activation, (20, 100, 100, 6))
    theta = {name: value.detach() for name, value in support.theta_of(policy).items()}
    batch = support.sample_batch(policy, theta, 1, 0.1, 2, 5, 100)
    params, data = pytree.tree_map(lambda leaf: leaf.detach().float(), (theta, batch))
    direction = support.normal(9, len(flatten(params))).float()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = make_pool(2)
    try:
        found = []
        for mapper, number in ((map, None), (pool.map, kept)):
            objective = closed_form.objective(
                *(support.architecture(policy), ESTIMATORS["lvc"], InnerUpdate(0.1)),
                *(data, params, mapper, 1, number),
            )
            start = objective.linearise(flatten(params))
            outcome = objective.evaluate(flatten(params) + 0.01)
            found.append((start.gradient, start.curvature(direction), outcome.loss, outcome.kl))
    finally:
        torch.set_num_threads(before)
        pool.shutdown()
    assert all(map(torch.equal, *found))
