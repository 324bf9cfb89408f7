"""The linear value baseline, fitted per task and wave in float64."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_RIDGE_TRIALS = 5


def features(obs: Tensor) -> Tensor:
    """[o, o², τ, τ², τ³, 1] with τ = t/100 and o clipped to ±10, in float64.

    Source: Duan et al. 2016 (arXiv:1604.06778), appendix; the clip is that of rllab's code.

    Args:
        obs: ``[..., T, O]``.

    Returns:
        ``[..., T, 2·O + 4]``.
    """
    clipped = obs.double().clamp(-10.0, 10.0)
    time = torch.arange(obs.shape[-2], dtype=torch.float64, device=obs.device)[:, None] / 100.0
    time = torch.cat([time, time**2, time**3, torch.ones_like(time)], dim=-1)
    return torch.cat([clipped, clipped.square(), time.expand(*obs.shape[:-1], 4)], dim=-1)


def fit(inputs: Tensor, targets: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Weights w of the ridge regression (XᵀX + λI) w = Xᵀy over the valid steps of each task.

    Source: Duan et al. 2016 (arXiv:1604.06778), appendix; λ and how it grows are those of rllab's code.

    Args:
        inputs: features, float64 ``[M, N, T, F]``.
        targets: discounted returns to go, ``[M, N, T]``.
        mask: ``[M, N, T]``.
        ridge: λ. Where a solution is not finite, that task's λ grows tenfold, at most five times.

    Returns:
        ``[M, F]``, float64.

    Raises:
        FloatingPointError: no ridge gave finite weights: the observations or rewards are not finite.
    """
    valid = mask.double().flatten(1).unsqueeze(-1)
    matrix = inputs.flatten(1, 2) * valid
    gram = matrix.mT @ matrix
    moment = matrix.mT @ (targets.double().flatten(1).unsqueeze(-1) * valid)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = torch.full_like(moment, torch.nan)
    for trial in range(MAX_RIDGE_TRIALS + 1):
        solution, _ = torch.linalg.solve_ex(gram + ridge * 10.0**trial * identity, moment)
        weights = torch.where(weights.isfinite().all(1, keepdim=True), weights, solution)
        if bool(weights.isfinite().all()):
            return weights.squeeze(-1)
    bad = int((~weights.isfinite().all(1)).squeeze(-1).nonzero()[0])
    raise FloatingPointError(
        f"the baseline of task {bad} has no finite solution: its observations or returns "
        "are too large or not finite"
    )


def predict(weights: Tensor, inputs: Tensor) -> Tensor:
    """V = X w: ``[M, F]``, ``[M, N, T, F] -> [M, N, T]``, float64."""
    return (inputs.flatten(1, 2) @ weights.unsqueeze(-1)).reshape(inputs.shape[:-1])


def explained_variance(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(y − V) / Var(y) over the valid steps of each task, ``[M, N, T] -> [M]``."""
    count = mask.sum((-2, -1))

    def variance(x: Tensor) -> Tensor:
        mean = ((x * mask).sum((-2, -1)) / count)[:, None, None]
        return ((x - mean).square() * mask).sum((-2, -1)) / count

    total = variance(targets)
    return torch.where(total > 0, 1.0 - variance(targets - values) / total, torch.zeros_like(total))
