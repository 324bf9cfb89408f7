"""The inner update, on quadratics whose meta-gradient is known in closed form."""

from __future__ import annotations

import pytest
import support
import torch

from metarl.data import Meta
from metarl.functional.adapt import InnerUpdate, inner_step

ALPHA = 0.1
CURVATURE = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=support.DOUBLE)) + 0.3
THETA = {"w": support.normal(0, 3)}
CENTRES = [support.normal(seed, 3) for seed in (1, 2, 3)]
GOAL = support.normal(4, 3)


def quadratic(params, centre):
    """½ (w − c)ᵀ B (w − c), B constant: gradient B (w − c), Hessian B."""
    gap = params["w"] - centre
    return 0.5 * gap @ CURVATURE @ gap


def meta_gradient(steps, first_order, rates=()):
    leaf = THETA["w"].clone().requires_grad_()
    meta, update = Meta({"w": leaf}, dict(rates)), InnerUpdate(ALPHA, first_order)
    adapted = update.adapt(meta, CENTRES[:steps], quadratic)
    (gradient,) = torch.autograd.grad(quadratic(adapted, GOAL), leaf)
    return gradient, adapted["w"].detach()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_mamls_gradient_on_a_quadratic_equals_the_closed_form(steps):
    factor = torch.eye(3, dtype=support.DOUBLE) - ALPHA * CURVATURE
    adapted = THETA["w"]
    for centre in CENTRES[:steps]:
        adapted = adapted - ALPHA * CURVATURE @ (adapted - centre)
    outer = CURVATURE @ (adapted - GOAL)
    gradient, found = meta_gradient(steps, first_order=False)
    support.close(found, adapted, 1e-14)
    support.close(gradient, torch.linalg.matrix_power(factor, steps) @ outer, 1e-13)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fomamls_gradient_lacks_exactly_the_factor_of_the_inner_derivative(steps):
    factor = torch.linalg.matrix_power(
        torch.eye(3, dtype=support.DOUBLE) - ALPHA * CURVATURE, steps
    )
    first, adapted_first = meta_gradient(steps, first_order=True)
    exact, adapted = meta_gradient(steps, first_order=False)
    assert torch.equal(adapted_first, adapted)
    support.close(factor @ first, exact, 1e-13)
    assert (first - exact).norm() > 0.1 * exact.norm()


def test_no_step_is_the_untouched_parameters():
    assert InnerUpdate(ALPHA).adapt(Meta(THETA, {}), [], quadratic) is THETA


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_sgd_with_equal_rates_is_maml(first_order):
    rates = {"w": torch.full((3,), ALPHA, dtype=support.DOUBLE)}
    for one, other in zip(
        meta_gradient(2, first_order), meta_gradient(2, first_order, rates), strict=True
    ):
        support.close(one, other, 1e-15)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_in_the_learned_rates_is_minus_outer_times_inner_gradient(first_order):
    rates = {"w": torch.full((3,), ALPHA, dtype=support.DOUBLE, requires_grad=True)}
    adapted = inner_step(THETA, CENTRES[0], quadratic, rates, first_order)
    (gradient,) = torch.autograd.grad(quadratic(adapted, GOAL), rates["w"])
    inner = CURVATURE @ (THETA["w"] - CENTRES[0])
    outer = CURVATURE @ (adapted["w"].detach() - GOAL)
    support.close(gradient, -outer * inner, 1e-13)


def test_adapting_writes_into_nothing():
    before = THETA["w"].clone()
    InnerUpdate(ALPHA).adapt(Meta(THETA, {}), CENTRES, quadratic)
    assert torch.equal(THETA["w"], before)


def test_second_derivative_through_a_loss_that_is_not_quadratic():
    """cos has a third derivative: the meta-gradient is (1 − α L''(θ)) S'(φ)."""
    theta = torch.tensor(0.7, dtype=support.DOUBLE, requires_grad=True)
    adapted = inner_step({"w": theta}, None, lambda params, _: params["w"].cos(), ALPHA)
    (gradient,) = torch.autograd.grad(adapted["w"] ** 3, theta)
    start = theta.detach()
    phi = start + ALPHA * start.sin()
    support.close(gradient, (1 + ALPHA * start.cos()) * 3 * phi**2, 1e-14)
