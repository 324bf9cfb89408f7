"""The task axis: a vectorised map and a loop are the same function."""

from __future__ import annotations

import pytest
import support
import torch

from metarl.data import Meta, Outcome
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.objectives import surrogate
from metarl.functional.params import flatten, for_tasks
from metarl.functional.tasks import (
    chunks,
    count_kept,
    count_tasks,
    keep_first,
    over_tasks,
    take,
)


@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_vmap_equals_the_loop_in_value_and_meta_gradient(activation, estimator):
    policy = support.make_policy(activation)
    theta = support.theta_of(policy)
    batch = support.sample_batch(policy, theta, steps=2, lr=0.3)
    objective = surrogate(support.as_function(policy), ESTIMATORS[estimator], InnerUpdate(0.3))
    found = {}
    for strategy in ("vmap", "loop"):
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        outcome = over_tasks(
            lambda support_, query, leaves=leaves: objective(Meta(leaves, {}), support_, query),
            *batch,
            strategy=strategy,
        )
        assert isinstance(outcome, Outcome)
        gradient = torch.autograd.grad(outcome.loss.mean(), list(leaves.values()))
        found[strategy] = [outcome.loss, outcome.kl, *gradient]
    for by_vmap, by_loop in zip(found["vmap"], found["loop"], strict=True):
        support.close(by_vmap, by_loop, 1e-12)


def test_results_of_the_loop_come_in_task_order():
    values = torch.arange(5.0)
    for strategy in ("vmap", "loop"):
        found = over_tasks(lambda x: {"twice": 2 * x}, values, strategy=strategy)
        assert torch.equal(found["twice"], 2 * values)


def test_take_gives_views_of_one_task_or_of_several():
    theta = {
        name: value.contiguous() for name, value in for_tasks({"a": torch.ones(2, 2)}, 4).items()
    }
    theta["a"][2] = 5
    one, two = take(theta, 2), take(theta, slice(2, 4))
    assert one["a"].shape == (2, 2)
    assert flatten(one).tolist() == [5] * 4
    assert two["a"].data_ptr() == theta["a"][2].data_ptr()
    assert count_tasks(two) == 2


@pytest.mark.parametrize(("count", "size"), [(5, 1), (5, 2), (5, 5), (5, 9), (1, 3)])
def test_chunks_cover_every_task_once_in_order(count, size):
    covered = [index for part in chunks(count, size) for index in range(part.start, part.stop)]
    assert covered == list(range(count))
    assert max(part.stop - part.start for part in chunks(count, size)) <= size


@pytest.mark.parametrize(
    ("size", "tasks", "expected"),
    [(1, 3, 3), (1, 0, 0), (1, 9, 5), (2, 1, 0), (2, 4, 2), (2, 5, 3), (2, None, 3)],
)
def test_the_parts_that_are_kept_lie_within_the_first_tasks(size, tasks, expected):
    assert count_kept(chunks(5, size), tasks) == expected


def test_what_is_kept_is_made_once_and_the_rest_at_every_call():
    made = []
    get = keep_first(lambda index: made.append(index) or [index], 2)
    assert [get(index) for index in (0, 2, 1, 0, 2)] == [[0], [2], [1], [0], [2]]
    assert made == [0, 2, 1, 2]
    assert get(0) is get(0)
    assert get(2) is not get(2)
