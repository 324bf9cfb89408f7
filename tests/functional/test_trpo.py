"""Conjugate gradient against dense solvers, and every way a trust-region step can end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import support
import torch

from metarl.data import Outcome
from metarl.functional.objectives import Linearisation
from metarl.functional.trpo import TrustRegion, conjugate_gradient, trust_region_step

SIZE = 8
EXACT = TrustRegion(max_kl=0.01, cg_iterations=SIZE, cg_damping=0.0)


def positive_definite(seed=0, size=SIZE):
    root = support.normal(seed, size, size)
    return root @ root.T + 0.5 * torch.eye(size, dtype=support.DOUBLE)


def test_cg_solves_in_as_many_iterations_as_there_are_unknowns():
    matrix, b = positive_definite(), support.normal(1, SIZE)
    solved = conjugate_gradient(lambda v: matrix @ v, b, iterations=SIZE, tolerance=0.0)
    np.testing.assert_allclose(solved.solution, np.linalg.solve(matrix, b), rtol=1e-9)
    assert solved.iterations == SIZE
    assert solved.residual_norm < 1e-9
    assert not solved.negative_curvature


@pytest.mark.parametrize("iterations", range(1, 7))
def test_every_iterate_equals_scipys(iterations):
    matrix, b = positive_definite(), support.normal(1, SIZE)
    iterates = []
    scipy.sparse.linalg.cg(
        matrix.numpy(), b.numpy(), rtol=0.0, maxiter=6, callback=lambda x: iterates.append(x.copy())
    )
    solved = conjugate_gradient(lambda v: matrix @ v, b, iterations)
    x = solved.solution
    np.testing.assert_allclose(x, iterates[iterations - 1], rtol=1e-10)
    support.close(solved.residual_norm, (b - matrix @ x).norm() / b.norm(), 1e-12)
    support.close(solved.curvature, x @ matrix @ x, 1e-10)


def test_cg_stops_at_its_tolerance_and_counts_products():
    eigenvalues = torch.tensor(
        [1.0, 1, 1, 5, 5, 9], dtype=support.DOUBLE
    )  # three distinct: 3 steps
    calls = []

    def product(v):
        calls.append(v)
        return eigenvalues * v

    solved = conjugate_gradient(product, torch.ones(6).double(), 50)
    assert solved.iterations == len(calls) == 3
    np.testing.assert_allclose(solved.solution, 1 / eigenvalues, rtol=1e-12)


def test_cg_works_in_float64_on_products_of_float32():
    matrix, b = positive_definite(), support.normal(1, SIZE)
    solved = conjugate_gradient(lambda v: matrix.float() @ v.float(), b.float(), SIZE)
    assert solved.solution.dtype == torch.float64
    np.testing.assert_allclose(solved.solution, np.linalg.solve(matrix, b), rtol=1e-3)


def test_cg_of_zero_is_zero_without_a_product():
    solved = conjugate_gradient(lambda _: pytest.fail("a product"), torch.zeros(SIZE), 10)
    assert not solved.solution.any()
    assert (solved.iterations, solved.residual_norm, solved.curvature) == (0, 0.0, 0.0)


@pytest.mark.parametrize(("eigenvalues", "products"), [((-1.0, 2.0), 1), ((1.0, -0.5), 2)])
def test_negative_curvature_ends_cg_with_what_was_found_before(eigenvalues, products):
    values = torch.tensor(eigenvalues, dtype=support.DOUBLE)
    b = torch.tensor([1.0, 0.1], dtype=support.DOUBLE)
    solved = conjugate_gradient(lambda v: values * v, b, 10)
    assert solved.negative_curvature
    assert solved.iterations == products
    first = (b @ b) / (b @ (values * b)) * b
    support.close(solved.solution, torch.zeros(2) if products == 1 else first, 1e-14)


class Bowl:
    """Loss gᵀd + ½ dᵀBd and KL ½ dᵀHd of the step d from ``theta``; counts its evaluations."""

    def __init__(self, bend=0.0, scale=1.0):
        self.theta, self.gradient = support.normal(2, SIZE), scale * support.normal(3, SIZE)
        self.metric, self.bend = positive_definite(), bend * torch.eye(SIZE, dtype=support.DOUBLE)
        self.evaluated = []

    def evaluate(self, vector):
        self.evaluated.append(vector)
        d = vector - self.theta
        loss = self.gradient @ d + 0.5 * d @ self.bend @ d
        return Outcome(loss, 0.5 * d @ self.metric @ d)

    def step(self, region=EXACT, curvature=None, evaluate=None, gradient=None, preconditioner=None):
        zero = torch.zeros((), dtype=support.DOUBLE)
        return trust_region_step(
            self.theta,
            Linearisation(
                Outcome(zero, zero),
                self.gradient if gradient is None else gradient,
                curvature or (lambda v: self.metric @ v),
                preconditioner,
            ),
            evaluate or self.evaluate,
            region,
        )


def test_the_full_step_is_the_minimum_of_the_linear_model_on_the_ellipsoid():
    bowl = Bowl()
    # A KL bound a hair above: the full step lies on the boundary, on either side of it by rounding.
    bound = EXACT._replace(max_kl=0.01)
    found, info = bowl.step(bound)
    direction = torch.linalg.solve(bowl.metric, bowl.gradient)
    expected = -math.sqrt(2 * 0.01 / float(bowl.gradient @ direction)) * direction
    ratio = 0.8 ** (info.trials - 1)
    support.close(found - bowl.theta, ratio * expected, 1e-9)
    support.close(info.predicted_improvement, -bowl.gradient @ expected, 1e-9)
    assert info.accepted
    assert info.trials in {1, 2}


@pytest.mark.parametrize("bend", [0.0, 5.0, 100.0])
@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 1.0])
def test_an_accepted_step_improves_the_loss_within_the_bound_recomputed_from_scratch(max_kl, bend):
    bowl = Bowl(bend)
    found, info = bowl.step(EXACT._replace(max_kl=max_kl, max_backtracks=60))
    assert info.accepted
    d = found - bowl.theta
    loss, divergence = bowl.gradient @ d + 0.5 * bend * d @ d, 0.5 * d @ bowl.metric @ d
    assert loss < 0
    assert 0 < divergence <= max_kl
    support.close(info.outcome.loss, loss, 1e-14)
    support.close(info.outcome.kl, divergence, 1e-14)
    assert info.trials == len(bowl.evaluated)


def test_candidates_shrink_by_the_ratio_until_one_is_accepted():
    bowl = Bowl(bend=200.0)
    found, info = bowl.step(EXACT._replace(backtrack_ratio=0.5, max_backtracks=60))
    sizes = [float((candidate - bowl.theta).norm()) for candidate in bowl.evaluated]
    np.testing.assert_allclose(np.array(sizes[1:]) / sizes[:-1], 0.5, rtol=1e-9)
    assert info.trials > 1
    assert torch.equal(found, bowl.evaluated[-1])


def test_damping_adds_its_multiple_of_the_identity():
    bowl = Bowl()
    found, info = bowl.step(EXACT._replace(cg_damping=3.0))
    damped = bowl.metric + 3.0 * torch.eye(SIZE, dtype=support.DOUBLE)
    direction = torch.linalg.solve(damped, bowl.gradient)
    expected = -math.sqrt(0.02 / float(bowl.gradient @ direction)) * direction
    assert info.trials == 1  # the damped ellipsoid lies within the trust region
    support.close(found - bowl.theta, expected, 1e-9)


NAN = torch.tensor(math.nan)
GOOD, ZERO = torch.tensor(-1.0), torch.tensor(0.0)


@pytest.mark.parametrize(
    "bad",
    [
        Outcome(torch.tensor(1.0), ZERO),
        Outcome(ZERO, ZERO),
        Outcome(GOOD, torch.tensor(0.0101)),
        Outcome(NAN, ZERO),
        Outcome(GOOD, NAN),
        Outcome(GOOD, torch.tensor(math.inf)),
    ],
    ids=["worse", "equal", "kl too large", "nan loss", "nan kl", "inf kl"],
)
def test_a_rejected_search_returns_the_very_parameters_given(bad):
    bowl, calls = Bowl(), []

    def evaluate(vector):
        calls.append(vector)
        return bad

    found, info = bowl.step(EXACT._replace(max_backtracks=7), evaluate=evaluate)
    assert found is bowl.theta
    assert not info.accepted
    assert info.trials == len(calls) == 7
    assert (info.outcome.loss, info.outcome.kl) == (0.0, 0.0)
    assert info.predicted_improvement > 0


@pytest.mark.parametrize("accepted_at", [1, 4, 7])
def test_trials_count_the_candidates_evaluated(accepted_at):
    bowl, calls = Bowl(), []

    def evaluate(vector):
        calls.append(vector)
        return Outcome(GOOD, ZERO) if len(calls) == accepted_at else Outcome(NAN, NAN)

    found, info = bowl.step(EXACT._replace(max_backtracks=7), evaluate=evaluate)
    assert info.accepted
    assert info.trials == len(calls) == accepted_at
    assert found is calls[-1]


@pytest.mark.parametrize(
    ("gradient", "curvature"),
    [
        (torch.zeros(SIZE).double(), None),
        (torch.full((SIZE,), math.nan).double(), None),
        (torch.full((SIZE,), math.inf).double(), None),
        (None, lambda v: -v),
        (None, lambda v: 0 * v),
        (None, lambda v: math.nan * v),
        (None, lambda v: math.inf * v),
    ],
    ids=["zero g", "nan g", "inf g", "negative H", "zero H", "nan H", "inf H"],
)
def test_no_candidate_is_tried_without_a_direction(gradient, curvature):
    bowl = Bowl()
    found, info = bowl.step(gradient=gradient, curvature=curvature)
    assert found is bowl.theta
    assert not info.accepted
    assert info.trials == len(bowl.evaluated) == 0


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_curvature_that_is_not_finite_shows_in_the_residual(factor):
    _, info = Bowl().step(curvature=lambda v: factor * v)
    assert math.isnan(info.cg_residual)
    _, info = Bowl().step(curvature=lambda v: -v)
    assert info.cg_residual == 1.0


def test_float32_parameters_stay_float32():
    bowl = Bowl()
    bowl.theta, bowl.gradient = bowl.theta.float(), bowl.gradient.float()
    bowl.metric, bowl.bend = bowl.metric.float(), bowl.bend.float()
    found, info = bowl.step()
    assert info.accepted
    assert found.dtype == torch.float32


def test_preconditioned_cg_is_cg_in_the_preconditioners_square_root():
    """Its iterates are those of plain CG on LᵀHL y = Lᵀb with M⁻¹ = LLᵀ, mapped back by x = Ly."""
    matrix, b = positive_definite(), support.normal(1, SIZE)
    inverse = torch.linalg.inv(positive_definite() + torch.diag(torch.arange(1.0, SIZE + 1)))
    inverse = (inverse + inverse.mT) / 2
    root = torch.linalg.cholesky(inverse)
    for iterations in (1, 2, SIZE // 2):
        solved = conjugate_gradient(
            lambda v: matrix @ v, b, iterations, precondition=lambda r: inverse @ r
        )
        mapped = conjugate_gradient(lambda v: root.mT @ matrix @ root @ v, root.mT @ b, iterations)
        support.close(solved.solution, root @ mapped.solution, 1e-9)
        support.close(solved.curvature, solved.solution @ matrix @ solved.solution, 1e-9)


def test_an_exact_preconditioner_needs_one_product():
    matrix, b = positive_definite(), support.normal(1, SIZE)
    solved = conjugate_gradient(
        lambda v: matrix @ v, b, 10, precondition=lambda r: torch.linalg.solve(matrix, r)
    )
    assert solved.iterations <= 2
    support.close(solved.solution, torch.linalg.solve(matrix, b), 1e-9)


def test_the_trust_region_uses_the_preconditioner_it_is_told_to():
    bowl, asked = Bowl(), []

    def preconditioner(damping):
        asked.append(damping)
        return lambda residual: torch.linalg.solve(bowl.metric, residual)

    region = EXACT._replace(kfac_damping=0.25, cg_iterations=1)
    # The full step lies on the boundary: by rounding, either may be shortened once.
    found, full = (
        (vector - bowl.theta) / 0.8 ** (info.trials - 1)
        for vector, info in (bowl.step(region, preconditioner=preconditioner), bowl.step(EXACT))
    )
    assert asked == [0.25]
    support.close(found, full, 1e-6)
    with pytest.raises(ValueError, match="preconditioner"):
        bowl.step(region)
