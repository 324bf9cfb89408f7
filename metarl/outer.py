"""The outer step: stateful shells around the pure core. One method, ``step``: meta in, a new meta out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from metarl.data import Meta
from metarl.functional.objectives import Objective
from metarl.functional.params import flatten_meta, unflatten_meta
from metarl.functional.trpo import TrustRegion, trust_region_step
from metarl.problems.protocol import Variant

MakeObjective = Callable[[Variant], Objective]


class Outer(Protocol):
    """An outer update rule."""

    def step(self, meta: Meta, objective: MakeObjective) -> tuple[Meta, dict[str, float]]:
        """A new meta, or the very one given; and what to log."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint must hold of it: tensors and plain values."""
        ...

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        ...


class TRPO:
    """Trust-region policy optimisation with exact Hessian-vector products through the inner update.

    With a momentum β the step descends m ← β_i m + g instead of the gradient g of one meta-batch, within the same trust
    region: consecutive gradients agree in little but the signal, so that their average has less noise. At the i-th
    step, from 0, β_i = β i / (i + w): the signal changes fast in the beginning, and needs long averages later.

    Args:
        region: settings of the step.
        momentum: β.
        warmup: w, steps after which half of β is reached; 0 begins with all of it.
    """

    def __init__(self, region: TrustRegion, momentum: float = 0.0, warmup: int = 0) -> None:
        self.region, self.momentum, self.warmup = region, momentum, warmup
        self.average: Tensor | None = None
        self.steps = 0

    def step(self, meta: Meta, objective: MakeObjective) -> tuple[Meta, dict[str, float]]:
        """One step within the trust region; a rejected one returns the very ``meta`` given."""
        chosen = objective(Variant())
        vector = flatten_meta(meta)
        start = chosen.linearise(vector)
        gradient = self._averaged(start.gradient)
        found, info = trust_region_step(vector, start, chosen.evaluate, self.region, gradient)
        metrics = {
            "outer/loss": float(info.outcome.loss),
            "outer/improvement": float(start.outcome.loss - info.outcome.loss),
            "outer/predicted_improvement": info.predicted_improvement,
            "outer/kl": float(info.outcome.kl),
            "outer/accepted": float(info.accepted),
            "outer/line_search_trials": float(info.trials),
            "outer/cg_residual": info.cg_residual,
            "outer/cg_iterations": float(info.cg_iterations),
            "outer/grad_norm": float(start.gradient.norm()),
        }
        return (unflatten_meta(found, meta) if info.accepted else meta), metrics

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The gradients' running sum, with a momentum, and the steps taken."""
        tensors = {} if self.average is None else {"average": self.average}
        return tensors, {"steps": self.steps}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The gradients' running sum, if training had a momentum, and the steps taken."""
        self.average = tensors.get("average")
        self.steps = int(values.get("steps", 0))

    def _averaged(self, gradient: Tensor) -> Tensor:
        if self.momentum and self.average is not None:
            share = self.momentum * self.steps / (self.steps + self.warmup)
            gradient = share * self.average + gradient
        self.average = gradient if self.momentum else None
        self.steps += 1
        return gradient


class _Adam:
    """Adam on one vector, whose state can be saved.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; torch.optim.Adam's default settings.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.moments: dict[str, Tensor] = {}

    def step(self, vector: Tensor, gradient: Tensor) -> Tensor:
        leaf = vector.clone().requires_grad_()
        optimiser = torch.optim.Adam([leaf], lr=self.lr)
        if self.moments:
            optimiser.state[leaf] = {name: value.clone() for name, value in self.moments.items()}
        leaf.grad = gradient
        optimiser.step()
        self.moments = dict(optimiser.state[leaf])
        return leaf.detach()


class VPG:
    """Vanilla policy gradient with Adam, and E-MAML's exploration term if it has a weight."""

    def __init__(self, lr: float, exploration: float = 0.0) -> None:
        self.adam = _Adam(lr)
        self.variant = Variant(exploration=exploration)

    def step(self, meta: Meta, objective: MakeObjective) -> tuple[Meta, dict[str, float]]:
        """One step of Adam along the meta-gradient."""
        vector = flatten_meta(meta)
        start = objective(self.variant).linearise(vector)
        metrics = {
            "outer/loss": float(start.outcome.loss),
            "outer/grad_norm": float(start.gradient.norm()),
        }
        return unflatten_meta(self.adam.step(vector, start.gradient), meta), metrics

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adam's moments."""
        return dict(self.adam.moments), {}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Adam's moments."""
        self.adam.moments = dict(tensors)


class PPO:
    """ProMP: several Adam steps on the clipped surrogate, with an adaptive penalty on the inner KL.

    After each iteration η is halved when the inner KL is below target/1.5 and doubled when above 1.5 · target.

    Source: Rothfuss et al. 2019 (arXiv:1810.06784), section 6; the rule for η: Schulman et al. 2017
    (arXiv:1707.06347), section 4.
    """

    def __init__(
        self, lr: float, clip: float, epochs: int, kl_target: float, kl_coefficient: float
    ) -> None:
        self.adam = _Adam(lr)
        self.clip, self.epochs, self.kl_target = clip, epochs, kl_target
        self.kl_coefficient = kl_coefficient

    def step(self, meta: Meta, objective: MakeObjective) -> tuple[Meta, dict[str, float]]:
        """``epochs`` Adam steps on the same data, then the new η."""
        chosen = objective(Variant(clip=self.clip, kl_coefficient=self.kl_coefficient))
        vector = flatten_meta(meta)
        for _ in range(self.epochs):
            start = chosen.linearise(vector)
            vector = self.adam.step(vector, start.gradient)
        outcome = chosen.evaluate(vector)
        metrics = {
            "outer/loss": float(outcome.loss),
            "outer/kl": float(outcome.kl),
            "outer/kl_coefficient": self.kl_coefficient,
            "outer/grad_norm": float(start.gradient.norm()),
        }
        if outcome.kl < self.kl_target / 1.5:
            self.kl_coefficient /= 2.0
        elif outcome.kl > self.kl_target * 1.5:
            self.kl_coefficient *= 2.0
        return unflatten_meta(vector, meta), metrics

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adam's moments and η."""
        return dict(self.adam.moments), {"kl_coefficient": self.kl_coefficient}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Adam's moments and η."""
        self.adam.moments = dict(tensors)
        self.kl_coefficient = float(values["kl_coefficient"])
