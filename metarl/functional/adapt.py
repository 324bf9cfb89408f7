"""The inner update, for any loss: differentiable, by autograd, of one task or of a stack of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.data import Meta, Params
from metarl.functional.params import descend, rates_at

Loss = Callable[[Params, Any], Tensor]
"""The loss of one task, ``(parameters, its data) -> scalar``; or of a stack of tasks, ``-> [C]``."""


class InnerUpdate(NamedTuple):
    """The inner update rule: MAML and its variants are rows of this table.

    ============== ====================================================================
    MAML           the defaults
    FOMAML         ``first_order``
    ANIL           ``adapted`` holds the names of the last layer's parameters alone
    Meta-SGD       ``Meta.rates`` holds a rate for every number that is adapted
    MAML++         ``Meta.rates`` holds a rate for every tensor and step; ``second_order_from``
    ============== ====================================================================

    Sources: MAML and FOMAML: Finn et al. 2017 (arXiv:1703.03400), sections 2.2 and 5.2; ANIL: Raghu et al. 2020
    (arXiv:1909.09157); Meta-SGD: Li et al. 2017 (arXiv:1707.09835); MAML++: Antoniou et al. 2019 (arXiv:1810.09502).

    Attributes:
        lr: α, used where no rates are learned.
        first_order: leave the inner gradient out of the derivative (FOMAML).
        adapted: names of the parameters that are adapted; None: all of them.
        second_order_from: the first iteration whose derivative has second order (derivative-order annealing).
    """

    lr: float
    first_order: bool = False
    adapted: frozenset[str] | None = None
    second_order_from: int = 0

    def at(self, iteration: int) -> InnerUpdate:
        """The rule of one meta-iteration."""
        early = iteration < self.second_order_from
        return self._replace(first_order=self.first_order or early)

    def rates(self, meta: Meta, step: int = 0) -> float | Params:
        """The learned rates of an inner step if there are any, else α."""
        return rates_at(meta, step) or self.lr

    def names(self, params: Params) -> list[str]:
        """The adapted ones of these parameters, in their order."""
        return [name for name in params if self.adapted is None or name in self.adapted]

    def step(self, meta: Meta, params: Params, index: int, data: Any, loss: Loss) -> Params:
        """Inner step ``index`` of one task, from ``params``."""
        return inner_step(params, data, loss, self.rates(meta, index), self.first_order, self.names)

    def adapt(self, meta: Meta, support: Sequence[Any], loss: Loss) -> Params:
        """K inner steps of one task from θ, one for each entry of ``support``; no entry: θ itself."""
        params = meta.theta
        for index, data in enumerate(support):
            params = self.step(meta, params, index, data, loss)
        return params


def inner_step(
    params: Params,
    data: Any,
    loss: Loss,
    rates: float | Params,
    first_order: bool = False,
    names: Callable[[Params], list[str]] = list,
) -> Params:
    """φ = θ − α ∇L(θ; data), by ``torch.func``, so that it may stand inside ``vmap``.

    Source: Finn et al. 2017 (arXiv:1703.03400), equation 1.

    Args:
        params: θ of one task.
        data: support data of one task.
        loss: L.
        rates: α, or one rate tensor per adapted parameter (Meta-SGD).
        first_order: treat ∇L as a constant (FOMAML): the derivative of φ in θ is then the identity.
        names: chooses the parameters that are adapted; the others stay as they are.

    Returns:
        φ, differentiable in θ (and in ``rates``).
    """
    chosen = {name: params[name] for name in names(params)}
    gradient = torch.func.grad(lambda part, its: loss(params | part, its))(chosen, data)
    if first_order:
        gradient = {name: value.detach() for name, value in gradient.items()}
    return params | descend(chosen, gradient, rates)


def stacked_step(
    params: Params,
    data: Any,
    losses: Loss,
    rates: float | Params,
    first_order: bool = False,
    names: Callable[[Params], list[str]] = list,
) -> Params:
    """φ_c = θ_c − α ∇L_c of C tasks at once, by plain autograd: one graph, faster than ``vmap`` of `inner_step`.

    Args:
        params: ``[C, *shape]``.
        data: of C tasks.
        losses: of each task, ``[C]``, which must depend on that task's parameters alone.
        rates: as for `inner_step`.
        first_order: as for `inner_step`; nothing then records a graph.
        names: as for `inner_step`.

    Returns:
        ``[C, *shape]``, differentiable in ``params`` and ``rates``.
    """
    # Where θ is a constant, as under no_grad, the inner derivative needs leaves of its own.
    varies = torch.is_grad_enabled() and any(value.requires_grad for value in params.values())
    first_order = first_order or not varies
    within = {name: value.detach() for name, value in params.items()} if first_order else params
    chosen = {name: within[name] for name in names(params)}
    with torch.enable_grad():
        if first_order:
            chosen = {name: value.requires_grad_() for name, value in chosen.items()}
        total = losses(within | chosen, data).sum()
        found = torch.autograd.grad(
            *(total, list(chosen.values())),
            create_graph=not first_order,
            allow_unused=True,
            materialize_grads=True,
        )
    before = {name: params[name] for name in chosen}
    return params | descend(before, dict(zip(chosen, found, strict=True)), rates)
