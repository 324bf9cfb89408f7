"""Trust-region policy optimisation on vectors: conjugate gradient and backtracking line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Outcome
from metarl.functional.objectives import Linearisation


class CGResult(NamedTuple):
    """Solution of H x = b.

    Attributes:
        solution: x, float64 ``[P]``.
        residual_norm: ‖b − H x‖ / ‖b‖, as the recursion carries it.
        iterations: products with H that were computed.
        curvature: xᵀ H x.
        negative_curvature: whether a direction with pᵀHp ≤ 0 ended the iteration.
    """

    solution: Tensor
    residual_norm: float
    iterations: int
    curvature: float
    negative_curvature: bool


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    iterations: int,
    tolerance: float = 1e-10,
    precondition: Callable[[Tensor], Tensor] = lambda residual: residual,
) -> CGResult:
    """Solve H x = b for a symmetric positive definite H known by its products.

    Source: Hestenes & Stiefel 1952; as TRPO uses it: Schulman et al. 2015 (arXiv:1502.05477), appendix C.
    The vectors are float64 whatever the precision of the products. xᵀHx needs no further product:
    it is xᵀ(b − r).

    Args:
        product: v ``[P]`` -> H v ``[P]``.
        b: right-hand side ``[P]``.
        iterations: most products to compute.
        tolerance: stop when ‖r‖² ≤ tolerance · ‖b‖².
        precondition: r ``[P]`` -> M⁻¹ r ``[P]``, M⁻¹ symmetric positive definite and close to H⁻¹.

    Returns:
        The solution and how it went.
    """
    b = b.double()
    x, residual = torch.zeros_like(b), b
    direction = better = precondition(residual)
    descent, target = residual @ better, tolerance * (b @ b)
    going, done = residual @ residual > target, torch.zeros_like(target)
    negative = torch.zeros_like(going)
    for _ in range(iterations):
        # On an accelerator nothing is read back: what comes after the end changes nothing.
        if b.device.type == "cpu" and not going:
            break
        curved = product(direction).double()
        curvature = direction @ curved
        positive = curvature > 0.0
        done, negative = done + going, negative | (going & ~positive)
        step = descent / curvature
        # Where the curvature is NaN, so is the residual.
        reduced = torch.where(positive, residual - step * curved, residual + 0.0 * curved)
        x = torch.where(going & positive, x + step * direction, x)
        residual = torch.where(going, reduced, residual)
        going = going & positive
        better = precondition(residual)
        previous, descent = descent, residual @ better
        direction = better + (descent / previous) * direction
        going = going & (residual @ residual > target)
    norm = b.norm()
    relative = torch.where(norm > 0.0, residual.norm() / norm, torch.zeros_like(norm))
    found = torch.stack([relative, done, x @ (b - residual), negative.double()]).cpu().tolist()
    return CGResult(x, found[0], int(found[1]), found[2], bool(found[3]))


class StepInfo(NamedTuple):
    """How a trust-region step went.

    Attributes:
        accepted: whether the parameters changed.
        trials: candidates that were evaluated.
        outcome: loss and KL of the accepted candidate, or of the parameters as they were.
        cg_residual: relative residual of the conjugate gradient.
        cg_iterations: Hessian-vector products computed.
        predicted_improvement: −gᵀs of the full step, by the linear model.
    """

    accepted: bool
    trials: int
    outcome: Outcome
    cg_residual: float
    cg_iterations: int
    predicted_improvement: float


class TrustRegion(NamedTuple):
    """Settings of :func:`trust_region_step`.

    Attributes:
        max_kl: δ, the bound on the KL divergence of an accepted step.
        cg_iterations: most conjugate-gradient iterations.
        cg_damping: multiple of the identity added to the curvature.
        kfac_damping: damping of the Kronecker-factored preconditioner; None: no preconditioner.
        backtrack_ratio: factor from one candidate to the next.
        max_backtracks: most candidates.
    """

    max_kl: float = 0.01
    cg_iterations: int = 10
    cg_damping: float = 1e-5
    kfac_damping: float | None = None
    backtrack_ratio: float = 0.8
    max_backtracks: int = 15


def _preconditioner(start: Linearisation, region: TrustRegion) -> Callable[[Tensor], Tensor]:
    if region.kfac_damping is None:
        return lambda residual: residual
    if start.preconditioner is None:
        raise ValueError("this objective has no Kronecker-factored preconditioner")
    return start.preconditioner(region.kfac_damping)


def trust_region_step(
    theta: Tensor,
    start: Linearisation,
    evaluate: Callable[[Tensor], Outcome],
    region: TrustRegion,
    gradient: Tensor | None = None,
) -> tuple[Tensor, StepInfo]:
    """Minimise the surrogate within KL ≤ δ: s = −√(2δ / xᵀHx) x with H x = g, then backtrack.

    A candidate θ + ratioʲ s is accepted when its surrogate is less than at θ and its KL at most δ.

    Source: Schulman et al. 2015 (arXiv:1502.05477), appendix C.

    Args:
        theta: current parameters ``[P]``.
        start: surrogate, its gradient and the KL's curvature at ``theta``.
        evaluate: surrogate and KL at other parameters.
        region: settings.
        gradient: g, where it is not the one at ``start``, such as an average over iterations ``[P]``; its length
            does not matter.

    Returns:
        The new parameters, or the very tensor ``theta`` when no candidate was accepted, and how it went.

    Raises:
        ValueError: the settings want a preconditioner, or the step a curvature, that the objective has not.
    """

    def damped(vector: Tensor) -> Tensor:
        return start.curvature(vector.to(theta.dtype)).double() + region.cg_damping * vector

    sought = start.gradient if gradient is None else gradient
    solved = conjugate_gradient(
        damped, sought, region.cg_iterations, precondition=_preconditioner(start, region)
    )
    rejected = StepInfo(False, 0, start.outcome, solved.residual_norm, solved.iterations, 0.0)
    if not (solved.curvature > 0.0 and math.isfinite(solved.curvature)):
        return theta, rejected
    step = math.sqrt(2.0 * region.max_kl / solved.curvature) * solved.solution
    predicted = float(start.gradient.double() @ step)
    for trial in range(region.max_backtracks):
        candidate = theta - (region.backtrack_ratio**trial * step).to(theta.dtype)
        found = evaluate(candidate)
        # Written so that a NaN is never accepted.
        if (found.loss < start.outcome.loss) & (found.kl <= region.max_kl):
            return candidate, rejected._replace(
                accepted=True, trials=trial + 1, outcome=found, predicted_improvement=predicted
            )
    return theta, rejected._replace(trials=region.max_backtracks, predicted_improvement=predicted)
