"""The outer step: stateful shells around the pure core. One method, ``step``: meta in, a new meta out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.data import Meta
from metarl.functional.objectives import Objective
from metarl.functional.params import flatten_meta, unflatten_meta
from metarl.functional.trpo import TrustRegion, trust_region_step
from metarl.problems.protocol import Variant

COUNTER = "step"
"""The one tensor of an optimiser's memory that is a number; the others are as long as the parameters."""

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
        if unknown := tensors.keys() - {"average"}:
            raise KeyError(", ".join(sorted(unknown)))
        # Checkpoints from before there was a momentum say nothing of steps.
        self.steps = int(values.get("steps", 0))
        self.average = tensors.get("average")

    def _averaged(self, gradient: Tensor) -> Tensor:
        if not gradient.isfinite().all():
            return gradient  # the step is rejected; the average must outlive it
        if self.momentum and self.average is not None:
            share = self.momentum * self.steps / (self.steps + self.warmup)
            gradient = share * self.average + gradient
        self.average = gradient if self.momentum else None
        self.steps += 1
        return gradient


class Schedule(NamedTuple):
    """How a rate changes over the iterations.

    Attributes:
        first: the rate at the start.
        kind: ``constant``, ``linear`` or ``cosine``.
        final: the rate after ``total`` steps, unless it is constant.
        total: steps.
    """

    first: float
    kind: str = "constant"
    final: float = 0.0
    total: int = 1

    def at(self, step: int) -> float:
        """The rate of a step, counted from 0: final + (first − final) · f(t), t = step / total.

        f = 1 − t, or (1 + cos πt) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts).
        """
        if self.kind == "constant":
            return self.first
        t = min(step / self.total, 1.0)
        factor = 1.0 - t if self.kind == "linear" else (1.0 + math.cos(math.pi * t)) / 2.0
        return self.final + (self.first - self.final) * factor


class Optimiser(Protocol):
    """A first-order step on one vector, whose state can be saved: tensors of these names, once it has taken one."""

    NAMES: ClassVar[frozenset[str]]
    state: dict[str, Tensor]

    def step(self, vector: Tensor, gradient: Tensor) -> Tensor:
        """The new vector."""
        ...


class Adam:
    """Adam on one vector.

    Source: Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1; torch.optim.Adam's default settings.
    """

    NAMES: ClassVar[frozenset[str]] = frozenset({COUNTER, "exp_avg", "exp_avg_sq"})

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.state: dict[str, Tensor] = {}

    def step(self, vector: Tensor, gradient: Tensor) -> Tensor:
        """One step against the gradient, both ``[P]``."""
        leaf = vector.clone().requires_grad_()
        done = int(self.state[COUNTER]) if self.state else 0
        optimiser = torch.optim.Adam([leaf], lr=self.schedule.at(done))
        if self.state:
            optimiser.state[leaf] = {name: value.clone() for name, value in self.state.items()}
        leaf.grad = gradient
        optimiser.step()
        self.state = dict(optimiser.state[leaf])
        return leaf.detach()


class SGD:
    """Plain gradient descent on one vector."""

    NAMES: ClassVar[frozenset[str]] = frozenset({COUNTER})

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.state: dict[str, Tensor] = {}

    def step(self, vector: Tensor, gradient: Tensor) -> Tensor:
        """One step against the gradient, both ``[P]``."""
        done = self.state.get(COUNTER, torch.zeros(()))
        self.state = {COUNTER: done + 1}
        return vector - self.schedule.at(int(done)) * gradient


class Descent:
    """One step of an optimiser along the meta-gradient: vanilla policy gradient, MAML's Adam, Reptile.

    Args:
        optimiser: takes the step.
        variant: which outer objective: with E-MAML's exploration term, or Reptile's.
        clip: bound on every component of the gradient; None: none.
    """

    def __init__(
        self, optimiser: Optimiser, variant: Variant | None = None, clip: float | None = None
    ) -> None:
        self.optimiser, self.variant, self.clip = optimiser, variant or Variant(), clip

    def step(self, meta: Meta, objective: MakeObjective) -> tuple[Meta, dict[str, float]]:
        """One step along the meta-gradient."""
        vector = flatten_meta(meta)
        start = objective(self.variant).linearise(vector)
        metrics = {
            **{name: float(value) for name, value in start.outcome.measures.items()},
            "outer/loss": float(start.outcome.loss),
            "outer/grad_norm": float(start.gradient.norm()),
        }
        gradient = start.gradient
        if self.clip is not None:
            gradient = gradient.clamp(-self.clip, self.clip)
        return unflatten_meta(self.optimiser.step(vector, gradient), meta), metrics

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimiser's."""
        return dict(self.optimiser.state), {}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """The optimiser's."""
        self.optimiser.state = _memory(tensors, self.optimiser.NAMES)


class PPO:
    """ProMP: several Adam steps on the clipped surrogate, with an adaptive penalty on the inner KL.

    After each iteration η is halved when the inner KL is below target/1.5 and doubled when above 1.5 · target.

    Source: Rothfuss et al. 2019 (arXiv:1810.06784), section 6; the rule for η: Schulman et al. 2017
    (arXiv:1707.06347), section 4.

    Args:
        schedule: of Adam's rate, over ``epochs`` steps for each meta-batch.
        clip: ε, how far the likelihood ratio may be from 1.
        epochs: Adam steps on each meta-batch.
        kl_target: of the inner steps' KL, in nats.
        kl_coefficient: η of the first iteration.
    """

    def __init__(
        self, schedule: Schedule, clip: float, epochs: int, kl_target: float, kl_coefficient: float
    ) -> None:
        self.adam = Adam(schedule)
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
        return dict(self.adam.state), {"kl_coefficient": self.kl_coefficient}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Adam's moments and η."""
        kl_coefficient = float(values["kl_coefficient"])
        self.adam.state = _memory(tensors, Adam.NAMES)
        self.kl_coefficient = kl_coefficient


def _memory(tensors: dict[str, Tensor], names: frozenset[str]) -> dict[str, Tensor]:
    """An optimiser's: all of it, or nothing before its first step."""
    if tensors and tensors.keys() != names:
        raise KeyError(", ".join(sorted(tensors.keys() ^ names)))
    # Every step reads the count, which belongs on the CPU wherever the vectors are.
    return {name: each.cpu() if name == "step" else each for name, each in tensors.items()}
