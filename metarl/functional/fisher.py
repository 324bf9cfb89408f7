"""Products with the Fisher matrix of a Gaussian MLP policy, written out.

F is the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old: Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t
for log σ; no block joins the two.
"""

from __future__ import annotations

from torch import Tensor

from metarl.functional.gaussian_mlp import Forward, backward, tangent_factors, tangent_forward
from metarl.functional.layered import Architecture, Layered, log_std


def fisher_product(
    arch: Architecture, passed: Forward, information: Layered, tangent: Layered
) -> Layered:
    """F · tangent.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` at φ, with rows.
        information: from :func:`fisher_information`.
        tangent: of C policies.

    Returns:
        The product, shaped as the tangent.
    """
    factors = tangent_factors(passed.prepared, tangent)
    mean_moved = tangent_forward(arch, passed, factors)[-1]
    _, products = backward(arch, passed, mean_moved.mul_(information.matrices[0]))
    return Layered(products, information.log_std * tangent.log_std)


def fisher_information(arch: Architecture, passed: Forward, step_weights: Tensor) -> Layered:
    """The Fisher matrices of the Gaussians alone: w_t/σ² of the means, ``[C, A, B]``; 2 Σ_t w_t of log σ, ``[C, A]``.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` at φ.
        step_weights: w_t, ``[C, 1, B]``.
    """
    precision = (-2.0 * log_std(arch, passed.params)).exp().unsqueeze(2)
    return Layered((precision * step_weights,), 2.0 * step_weights.sum(2) * passed.prepared.free)
