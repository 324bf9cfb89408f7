"""Four estimators of the inner policy-gradient loss.

All four have the same first derivative, the policy gradient −(1/n) Σ_t ∇log π(a_t|s_t) A_t over the n valid steps;
MAML differentiates that derivative once more, and there they differ:

=============== ================================================== ============================================
``reinforce``   −(1/n) Σ log π_t · A_t                             drops terms of the Hessian: biased
``lvc``         −(1/n) Σ (π_t / sg π_t) · A_t                      low variance, a small bias
``dice``        rewards weighted by □_t = Π_{t'≤t} π_t' / sg π_t'  unbiased, high variance
``loaded_dice`` advantages weighted by □_t − □_{t−1}               unbiased, lower variance than ``dice``
=============== ================================================== ============================================

sg is the stop-gradient. An estimator is a function of the log-probabilities of one or more tasks, ``[..., N, T]``; the
Hessian in those log-probabilities, which the closed-form products need, stands beside it.

Sources: ``reinforce``: Finn et al. 2017 (arXiv:1703.03400); ``lvc``: Rothfuss et al. 2019 (arXiv:1810.06784),
equation 7; ``dice``: Foerster et al. 2018 (arXiv:1802.05098), equation 9; ``loaded_dice``: Farquhar et al. 2019
(arXiv:1909.10549), equation 9, with λ = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Episodes

Coefficients = tuple[Tensor, ...]


class Estimator(NamedTuple):
    """An inner loss as a function of log-probabilities.

    Attributes:
        loss: ``(log_prob [..., N, T], episodes) -> [...]``, for any number of leading task axes.
        coefficients: what of the episodes all products with the Hessian need, each ``[..., N, T]``.
        hessian_product: ``(tangent [..., N, T], coefficients) -> [..., N, T]``, the Hessian of ``loss`` in
            ``log_prob`` times a tangent.
    """

    loss: Callable[[Tensor, Episodes], Tensor]
    coefficients: Callable[[Episodes], Coefficients]
    hessian_product: Callable[[Tensor, Coefficients], Tensor]


def weights(episodes: Episodes) -> Tensor:
    """∂loss/∂log π_t = −A_t / n, the same for every estimator: ``[..., N, T]``."""
    count = episodes.mask.sum((-2, -1), keepdim=True)
    return -episodes.advantages * episodes.mask / count


def _mean(terms: Tensor, episodes: Episodes) -> Tensor:
    return -(terms * episodes.mask).sum((-2, -1)) / episodes.mask.sum((-2, -1))


def _sums_to_go(terms: Tensor) -> Tensor:
    return terms.flip(-1).cumsum(-1).flip(-1)


def _reward_steps(episodes: Episodes) -> Tensor:
    """Per-step rewards r̂_t = Ĝ_t − Ĝ_{t+1} whose plain sum to go is the standardised return Ĝ = A + V."""
    to_go = (episodes.advantages + episodes.values) * episodes.mask
    following = torch.cat([to_go[..., 1:], torch.zeros_like(to_go[..., :1])], dim=-1)
    return to_go - following


def _reinforce(log_prob: Tensor, episodes: Episodes) -> Tensor:
    return _mean(log_prob * episodes.advantages, episodes)


def _nothing(episodes: Episodes) -> Coefficients:
    return ()


def _reinforce_hessian(tangent: Tensor, coefficients: Coefficients) -> Tensor:
    return torch.zeros_like(tangent)


def _lvc(log_prob: Tensor, episodes: Episodes) -> Tensor:
    return _mean((log_prob - log_prob.detach()).exp() * episodes.advantages, episodes)


def _weights_alone(episodes: Episodes) -> Coefficients:
    return (weights(episodes),)


def _lvc_hessian(tangent: Tensor, coefficients: Coefficients) -> Tensor:
    return coefficients[0] * tangent


def _dice(log_prob: Tensor, episodes: Episodes) -> Tensor:
    # The baseline enters by the single action's factor: 0 in expectation, and the variance of the gradient is less.
    past = log_prob.cumsum(-1)
    box = (past - past.detach()).exp()
    single = (log_prob - log_prob.detach()).exp()
    return _mean(box * _reward_steps(episodes) - single * episodes.values, episodes)


def _reward_steps_and_values(episodes: Episodes) -> Coefficients:
    share = episodes.mask / episodes.mask.sum((-2, -1), keepdim=True)
    return _reward_steps(episodes) * share, episodes.values * share


def _dice_hessian(tangent: Tensor, coefficients: Coefficients) -> Tensor:
    reward_steps, values = coefficients
    return values * tangent - _sums_to_go(reward_steps * tangent.cumsum(-1))


def _loaded_dice(log_prob: Tensor, episodes: Episodes) -> Tensor:
    past = log_prob.cumsum(-1)
    before = past - log_prob
    difference = (past - past.detach()).exp() - (before - before.detach()).exp()
    return _mean(difference * episodes.advantages, episodes)


def _loaded_dice_hessian(tangent: Tensor, coefficients: Coefficients) -> Tensor:
    past, weighted = tangent.cumsum(-1), coefficients[0]
    through_before = weighted * (past - tangent)
    # Σ_{t>t'}: the sum to go without the step itself.
    return _sums_to_go(weighted * past) - (_sums_to_go(through_before) - through_before)


ESTIMATORS: dict[str, Estimator] = {
    "reinforce": Estimator(_reinforce, _nothing, _reinforce_hessian),
    "lvc": Estimator(_lvc, _weights_alone, _lvc_hessian),
    "dice": Estimator(_dice, _reward_steps_and_values, _dice_hessian),
    "loaded_dice": Estimator(_loaded_dice, _weights_alone, _loaded_dice_hessian),
}
