"""Products with the Fisher matrix of a Gaussian MLP policy, written out.

F is the Hessian of Σ_t w_t KL(old ‖ π_φ) at φ = old: Σ_t w_t (∂μ_t)ᵀ σ⁻² ∂μ_t for the mean's parameters and 2 Σ_t w_t
for log σ; no block joins the two.
"""

from __future__ import annotations

from torch import Tensor

from metarl.functional.gaussian_mlp import Forward
from metarl.functional.layered import Architecture, Layered, free, log_std
from metarl.kernels import passes


def fisher_product(passed: Forward, information: Layered, tangent: Layered) -> Layered:
    """F · tangent.

    Args:
        passed: :func:`forward` at φ.
        information: from :func:`fisher_information`.
        tangent: of C policies.

    Returns:
        The product, shaped as the tangent.
    """
    mean_moved = passes.forward_moved(passed.network, tangent.matrices)[-1]
    products = passes.backward(passed.network, mean_moved.mul_(information.matrices[0]))
    return Layered(products, information.log_std * tangent.log_std)


def fisher_information(arch: Architecture, passed: Forward, step_weights: Tensor) -> Layered:
    """The Fisher matrices of the Gaussians alone: w_t/σ² of the means, ``[C, B, A]``; 2 Σ_t w_t of log σ, ``[C, A]``.

    Args:
        arch: the policy's architecture.
        passed: :func:`forward` at φ.
        step_weights: w_t, ``[C, B]``.
    """
    precision = (-2.0 * log_std(arch, passed.params)).exp().unsqueeze(1)
    free_weights = 2.0 * step_weights.sum(1, keepdim=True) * free(arch, passed.params)
    return Layered((precision * step_weights.unsqueeze(2),), free_weights)
