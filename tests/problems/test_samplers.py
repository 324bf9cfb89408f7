"""The samplers of a problem: made once for each size, the least used closed."""

import support
import torch

from metarl.functional.params import for_tasks
from metarl.problems.samplers import KEPT


def test_the_sizes_used_last_are_kept_and_one_made_anew_samples_the_same(monkeypatch):
    problem = support.target_problem(horizon=3)
    meta = support.double_meta(problem)
    tasks = support.normal(0, 2, 1).numpy()
    wave = lambda: problem.samplers(2, 5).wave(for_tasks(meta.theta, 2), tasks, support.KEY, 0)  # noqa: E731
    first, expected = problem.samplers(2, 5), wave()
    closed = []
    monkeypatch.setattr(first, "close", lambda: closed.append(first))
    for episodes in range(6, 5 + KEPT):
        problem.samplers(2, episodes)
    assert problem.samplers(2, 5) is first
    problem.samplers(2, 100)
    assert problem.samplers(2, 5) is first
    assert not closed
    for episodes in range(101, 101 + KEPT):
        problem.samplers(2, episodes)
    assert closed == [first]
    assert problem.samplers(2, 5) is not first
    assert all(torch.equal(*each) for each in zip(wave(), expected, strict=True))
