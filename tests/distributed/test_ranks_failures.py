"""What goes wrong in one rank: all leave the same tasks out, or raise the same error, as one process would."""

from __future__ import annotations

import logging

import launching
import numpy as np
import pytest
import support
import torch

from metarl.checks.guard import Guard
from metarl.checks.nonfinite import NonFiniteError
from metarl.data import Meta
from metarl.distributed.ranks import ALONE
from metarl.functional.params import flatten_meta
from metarl.outer import Adam, Descent, Schedule

TASKS = np.array([[0.1], [0.9], [-0.3], [0.4], [0.8], [-0.7]])  # fails in the tasks above 0.5


def skipping(fault, ranks):
    problem = support.target_problem({"fault": fault})
    found = support.double_meta(problem)
    meta = Meta({name: value.float() for name, value in found.theta.items()}, {})
    guard = Guard(problem, TASKS, skip=True, ranks=ranks)
    batch, metrics = guard.collect(meta, support.KEY)
    stepped, info = guard.step(Descent(Adam(Schedule(0.01))), meta, batch)
    problem.close()
    return guard.tasks, metrics, flatten_meta(stepped), info


@pytest.mark.parametrize("fault", ["nan_reward", "huge_reward", "broken"])
def test_all_ranks_leave_the_same_tasks_out_as_one_process_does(fault, caplog):
    with caplog.at_level(logging.CRITICAL, logger="metarl"):
        tasks, metrics, vector, info = skipping(fault, ALONE)
        assert len(tasks) == 4
        for each in launching.in_ranks(3, lambda ranks: skipping(fault, ranks)):
            np.testing.assert_array_equal(each[0], tasks)
            assert each[1] == metrics
            assert torch.equal(each[2], vector)
            assert each[3] == info


class Spoilt:
    """A problem whose data are sound, and whose gradient is NaN for some of the tasks."""

    def __init__(self, bad):
        self.problem, self.bad = support.target_problem(), bad
        self.name = self.problem.name

    def collect(self, meta, tasks, key, share):
        batch, metrics = self.problem.collect(meta, tasks, key, share)
        advantages = batch.query.advantages.clone()
        for row, task in enumerate(range(share.first, share.first + share.count)):
            if task in self.bad:
                advantages[row, 0, 0] = torch.nan
        return batch._replace(query=batch.query._replace(advantages=advantages)), metrics

    def objective(self, *arguments):
        return self.problem.objective(*arguments)


@pytest.mark.parametrize("bad", [[1], [0, 1], [2, 5], [0, 1, 2, 3, 5]])
def test_a_gradient_that_is_not_finite_is_left_out_by_all_as_by_one(bad, caplog):
    """Also where it was all that a rank had."""

    def work(ranks):
        problem = Spoilt(bad)
        meta = support.double_meta(problem.problem)
        guard = Guard(problem, TASKS, skip=True, ranks=ranks)
        batch, _ = guard.collect(meta, support.KEY)
        found, info = guard.step(Descent(Adam(Schedule(0.01))), meta, batch)
        problem.problem.close()
        return guard.tasks, flatten_meta(found), info

    with caplog.at_level(logging.CRITICAL, logger="metarl"):
        tasks, vector, info = work(ALONE)
        assert info["outer/skipped_tasks"] == len(bad)
        for each in launching.in_ranks(3, work):
            np.testing.assert_array_equal(each[0], tasks)
            assert torch.equal(each[1], vector)
            assert each[2] == info


def test_an_error_in_one_rank_is_raised_in_all_with_the_task_of_the_whole_meta_batch():
    def work(ranks):
        guard = Guard(support.target_problem({"fault": "nan_reward"}), TASKS, False, ranks=ranks)
        with pytest.raises(NonFiniteError) as caught:
            guard.collect(support.double_meta(guard.problem), support.KEY)
        guard.problem.close()
        return str(caught.value), caught.value.tasks

    for said, tasks in launching.in_ranks(3, work):
        assert "rewards not finite in task 1 [0.9], episode 0, step 2" in said
        assert tasks == (1, 4)
