"""What the Gaussians of a policy add to the layers: their log-density, its gradient, and how that moves.

Actions, means and what is made of them are ``[C, B, A]``, weights of the states ``[C, B]``, what belongs to σ
``[C, A]``. With e = (a − μ)/σ the log-density has the gradients e/σ in μ and e² − 1 in log σ.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metarl.kernels.compiled import require_shapes, room_like, serving


class Score(NamedTuple):
    """The gradient of log π at every state, and what its derivative needs.

    Attributes:
        score: ∂log π/∂μ = e/σ, ``[C, B, A]``.
        excess: ∂log π/∂log σ = e² − 1, ``[C, B, A]``.
        precision: w/σ², ``[C, B, A]``.
        spread: 2 Σ_b w e², ``[C, A]``.
    """

    score: Tensor
    excess: Tensor
    precision: Tensor
    spread: Tensor


def likelihood(
    actions: Tensor, mean: Tensor, inverse_std: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of Σ_b w_b log π_b in the means, w ⊙ e/σ ``[C, B, A]``, and in log σ, Σ_b w (e² − 1) ``[C, A]``."""
    _require("likelihood", (actions, mean), (weights,), (inverse_std,))
    if library := serving(mean):
        given = actions, mean, inverse_std, weights
        made = room_like(mean), room_like(inverse_std)
        library.call("likelihood", mean.shape[1:], given, (*made, None, None, None, None))
        return made
    return _likelihood(actions, mean, inverse_std, weights)[:2]


def taped_likelihood(
    actions: Tensor, mean: Tensor, inverse_std: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Score]:
    """:func:`likelihood`, to the same bits, and the score for its derivative."""
    _require("taped_likelihood", (actions, mean), (weights,), (inverse_std,))
    if library := serving(mean):
        made = room_like(mean), room_like(inverse_std)
        score = Score(*(room_like(each) for each in (mean, mean, mean, inverse_std)))
        given = actions, mean, inverse_std, weights
        library.call("likelihood", mean.shape[1:], given, (*made, *score))
        return *made, score
    return _likelihood(actions, mean, inverse_std, weights)


def _likelihood(
    actions: Tensor, mean: Tensor, inverse_std: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Score]:
    inverse_std, weights = inverse_std.unsqueeze(1), weights.unsqueeze(2)
    e = (actions - mean).mul_(inverse_std)
    score, squares = e * inverse_std, e.square()
    excess, spread = squares - 1.0, 2.0 * (weights * squares).sum(1)
    precision = weights * inverse_std.square()
    return weights * score, (weights * excess).sum(1), Score(score, excess, precision, spread)


def log_prob_moved(at: Score, mean_moved: Tensor, log_std_moved: Tensor) -> Tensor:
    """How log π moves with μ and log σ: Σ_a (e/σ) μ̇ + (e² − 1) s, ``[C, B]``."""
    _require("log_prob_moved", (at.score, at.excess, mean_moved), (), (log_std_moved,))
    if library := serving(mean_moved):
        result = mean_moved.new_empty(mean_moved.shape[:2])
        given = at.score, at.excess, mean_moved, log_std_moved
        library.call("log_prob_moved", mean_moved.shape[1:], given, (result,))
        return result
    moved = at.score * mean_moved
    return moved.addcmul_(at.excess, log_std_moved.unsqueeze(1)).sum(2)


def likelihood_moved(
    at: Score, delta: Tensor, weights_moved: Tensor, mean_moved: Tensor, log_std_moved: Tensor
) -> tuple[Tensor, Tensor]:
    """How both results of :func:`likelihood` move with w, μ and log σ: ẇ e/σ − 2 δ s − w/σ² μ̇, and its sum for log σ.

    Args:
        at: where.
        delta: δ = w ⊙ e/σ.
        weights_moved: ẇ, ``[C, B]``.
        mean_moved: μ̇.
        log_std_moved: s, ``[C, A]``.

    Returns:
        ``[C, B, A]``; and Σ_b (ẇ (e² − 1) − 2 δ μ̇) − s ⊙ 2 Σ_b w e², ``[C, A]``.
    """
    by_component = at.score, at.excess, at.precision, delta, mean_moved
    _require("likelihood_moved", by_component, (weights_moved,), (at.spread, log_std_moved))
    if library := serving(delta):
        made = room_like(delta), room_like(log_std_moved)
        given = *at, delta, weights_moved, mean_moved, log_std_moved
        library.call("likelihood_moved", delta.shape[1:], given, made)
        return made
    weights_moved, along = weights_moved.unsqueeze(2), log_std_moved.unsqueeze(1)
    by_state = (at.excess * weights_moved).addcmul_(delta, mean_moved, value=-2.0)
    delta_moved = (at.score * weights_moved).addcmul_(delta, along, value=-2.0)
    delta_moved.addcmul_(at.precision, mean_moved, value=-1.0)
    return delta_moved, by_state.sum(1) - at.spread * log_std_moved


def compared(
    actions: Tensor, old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor
) -> tuple[Tensor, Tensor]:
    """log π_new − log π_old of the actions, and KL(old ‖ new), of two policies at every state.

    Args:
        actions: that were taken.
        old_mean: of the one policy.
        old_log_std: ``[C, A]``.
        mean: of the other.
        log_std: ``[C, A]``.

    Returns:
        Both ``[C, B]``.
    """
    _require("compared", (actions, old_mean, mean), (), (old_log_std, log_std))
    old_inverse_std, inverse_std = (-old_log_std).exp(), (-log_std).exp()
    log_spread = old_log_std - log_std
    if library := serving(mean):
        log_ratio, shift = (mean.new_empty(mean.shape[:2]) for _ in range(2))
        given = actions, old_mean, old_inverse_std, mean, inverse_std, log_spread
        library.call("compared", mean.shape[1:], given, (log_ratio, shift))
    else:
        e = (actions - mean).mul_(inverse_std.unsqueeze(1))
        old = (actions - old_mean).mul_(old_inverse_std.unsqueeze(1))
        log_ratio = (0.5 * (old - e) * (old + e) + log_spread.unsqueeze(1)).sum(2)
        shift = 0.5 * ((old_mean - mean) * inverse_std.unsqueeze(1)).square().sum(2)
    return log_ratio, kl_of_deviations(log_spread).sum(1, keepdim=True) + shift


def kl_of_deviations(log_spread: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ, σ'²)) of each component, of log σ − log σ'."""
    # expm1 keeps the digits that 1 - 1 would lose: near the old policy the KL is a tiny difference.
    return 0.5 * ((2.0 * log_spread).expm1() - 2.0 * log_spread)


def _require(
    name: str,
    by_component: tuple[Tensor, ...],
    by_state: tuple[Tensor, ...],
    by_task: tuple[Tensor, ...],
) -> None:
    """Refuse tensors that are not ``[C, B, A]``, ``[C, B]`` and ``[C, A]`` of the first one's C, B and A."""
    count, states, size = by_component[0].shape
    for axes, tensors, shape in (
        ("[C, B, A]", by_component, (count, states, size)),
        ("[C, B]", by_state, (count, states)),
        ("[C, A]", by_task, (count, size)),
    ):
        require_shapes(name, axes, tensors, [shape] * len(tensors))
