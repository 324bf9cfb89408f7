"""What is kept from product to product: it changes no bit, and memory grows with it alone."""

from __future__ import annotations

import allocations
import pytest
import support
import torch
from pairs import make_pair, shared_by
from torch import Tensor

from metarl.functional import closed_form
from metarl.functional.objectives import Objective


def everything(objective: Objective, vector: Tensor) -> list[Tensor]:
    """All that a step asks for, the products twice: what is made anew must not change from one to the next."""
    start = objective.linearise(vector)
    found = [start.gradient, *start.outcome[:2]]
    for seed in (60, 61, 60):
        found.append(start.curvature(support.normal(seed, len(vector))))
    if start.preconditioner is not None:
        found.append(start.preconditioner(0.1)(start.gradient))
    return [*found, *objective.evaluate(vector + 0.1)[:2]]


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_how_many_tasks_are_kept_changes_no_bit(activation, together):
    for steps in (0, 2):
        given = {"steps": steps, "activation": activation, "tasks": 4}
        given["together"] = together, together
        whole = make_pair(**given)
        expected = [everything(each, whole.vector) for each in whole[:2]]
        with shared_by(2) as pool:
            for kept in (0, 1, 3, 4):
                pair = make_pair(**given, mapper=pool.map, kept=kept)
                for objective, bits in zip(pair[:2], expected, strict=True):
                    found = everything(objective, whole.vector)
                    assert all(map(torch.equal, found, bits))


@pytest.mark.parametrize("kept", [0, 1, 3, None])
def test_the_kept_tasks_are_passed_through_once_and_the_others_in_every_product(kept, monkeypatch):
    passes = []
    taped = closed_form.taped_policy_gradient
    monkeypatch.setattr(
        closed_form, "taped_policy_gradient", lambda *given: passes.append(given) or taped(*given)
    )
    pair = make_pair(steps=1, tasks=4, kept=kept)
    start = pair.closed.linearise(pair.vector)
    assert len(passes) == 4
    for product in (1, 2):
        start.curvature(pair.vector)
        assert len(passes) == 4 + product * (0 if kept is None else 4 - kept)


@pytest.mark.parametrize("which", ["closed", "autograd"])
def test_memory_grows_with_the_tasks_that_are_kept_alone(which):
    """Of a step's results the vectors [P] are left beside them, and of each task its loss and KL."""

    def held(kept: int) -> int:
        pair = make_pair(tasks=6, kept=kept, sizes=(3, 40, 40, 2))

        def products() -> object:
            start = getattr(pair, which).linearise(pair.vector)
            start.curvature(pair.vector)
            return start

        return allocations.held_by(products)

    none, one, three, six = (held(kept) for kept in (0, 1, 3, 6))
    assert none < 0.1 * (six - none)
    support.close(three - none, 3 * (one - none), 0.01)
    support.close(six - none, 6 * (one - none), 0.01)


def test_autograd_keeps_no_graph_before_the_first_product():
    """A step without curvature, such as ProMP's, needs the memory of one task's graph at a time."""
    pair = make_pair(tasks=6, sizes=(3, 40, 40, 2))
    held = allocations.held_by(lambda: pair.autograd.linearise(pair.vector))
    assert held <= 8 * (2 * len(pair.vector) + 100)
