"""What a meta-iteration takes on any number of processes: a model of six numbers.

Of M tasks the busiest of W processes has m = ⌈M / W⌉. With TRPO in closed form an iteration takes

    T = f + m · (s + u) + E · (W − 1) · α + B · (W − 1) / (W · β) + B / γ

s, u: sampling and update of one task; f: what every process does alike (conjugate gradient, the preconditioner's
inverses). Exchanges are all-gathers on a ring: each of E has W − 1 hops of α seconds, and every process
receives the (W − 1) / W that it does not have of the B bytes that all of them gather, at β bytes per second. All of
them it puts in order and sums, at γ bytes per second; a single process exchanges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

FLOAT, DOUBLE = 4, 8


class Model(NamedTuple):
    """Seconds and bytes per second.

    Attributes:
        fixed: f.
        sampling: s.
        update: u.
        latency: α.
        bandwidth: β.
        summing: γ.
    """

    fixed: float
    sampling: float
    update: float
    latency: float
    bandwidth: float
    summing: float


class Traffic(NamedTuple):
    """What an iteration exchanges: how often, and how many bytes are gathered in all."""

    exchanges: int
    bytes: int


def parameters(sizes: Sequence[int]) -> int:
    """P of a Gaussian MLP policy with layers of these sizes: weights, biases, log σ."""
    return sum(below * above + above for below, above in pairwise(sizes)) + sizes[-1]


def product_bytes(sizes: Sequence[int], tasks: int) -> int:
    """What one Hessian-vector product gathers: a row of P float32 for each task. A gradient is as large."""
    return FLOAT * tasks * parameters(sizes)


def preconditioner_bytes(sizes: Sequence[int], tasks: int) -> int:
    """What the Kronecker factors gather: two float64 matrices for each layer and task."""
    return DOUBLE * tasks * sum((below + 1) ** 2 + above**2 for below, above in pairwise(sizes))


def fit(whole: tuple[int, float, float], half: tuple[int, float, float]) -> Model:
    """f, s and u from single processes with two numbers of tasks: each ``(tasks, collect, outer seconds)``."""
    (many, collect, outer), (few, less_collect, less_outer) = whole, half
    sampling = max((collect - less_collect) / (many - few), 0.0)
    update = max((outer - less_outer) / (many - few), 0.0)
    fixed = max(collect + outer - many * (sampling + update), 0.0)
    return Model(fixed, sampling, update, 0.0, math.inf, math.inf)


def seconds(model: Model, processes: int, tasks: int, traffic: Traffic) -> float:
    """T."""
    busiest, hops = -(-tasks // processes), processes - 1
    work = model.fixed + busiest * (model.sampling + model.update)
    if processes == 1:
        return work
    moved = traffic.bytes * (hops / processes / model.bandwidth + 1.0 / model.summing)
    return work + traffic.exchanges * hops * model.latency + moved


class Cluster(NamedTuple):
    """Machines that are assumed, not measured.

    Attributes:
        name: in words.
        processes: W.
        sampling: how many times as fast as one core here it samples a task, each process.
        update: how many times as fast as one core here it updates one.
        latency: of one hop, in seconds.
        bandwidth: in bytes per second.
    """

    name: str
    processes: int
    sampling: float
    update: float
    latency: float
    bandwidth: float

    def applied(self, model: Model) -> Model:
        """The model there; what every process does alike takes as long as on one core here."""
        return model._replace(
            sampling=model.sampling / self.sampling,
            update=model.update / self.update,
            latency=self.latency,
            bandwidth=self.bandwidth,
        )
