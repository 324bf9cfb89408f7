"""Sinusoids: their distribution, and that a task's points depend on nothing but key and place."""

import numpy as np
import pytest
import torch
from scipy import stats

from metarl.problems.sinusoid import Sinusoid
from metarl.seeding import Key, Stream

KEY = Key(3, Stream.TRAIN_DATA, 5)


def test_tasks_are_uniform_in_amplitude_and_phase():
    tasks = Sinusoid(5, 5).sample_tasks(4000, np.random.default_rng(0))
    for column, (low, high) in zip(tasks.T, [(0.1, 5.0), (0.0, np.pi)], strict=True):
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_points_are_on_the_curve_and_uniform_in_x():
    source = Sinusoid(4, 6)
    tasks = source.sample_tasks(300, np.random.default_rng(1))
    support, query = source.examples(tasks, 6, KEY)
    assert support.x.shape == (300, 4, 1)
    assert query.y.shape == (300, 6, 1)
    for part in (support, query):
        for task, x, y in zip(tasks, part.x.numpy(), part.y.numpy(), strict=True):
            np.testing.assert_allclose(y, task[0] * np.sin(x - task[1]), atol=1e-5)
    xs = np.concatenate([support.x.numpy().ravel(), query.x.numpy().ravel()])
    assert len(np.unique(xs)) == len(xs)
    assert stats.kstest(xs, stats.uniform(-5, 10).cdf).pvalue > 0.01


def test_what_a_task_gets_depends_on_its_place_the_key_and_the_draw():
    source = Sinusoid(4, 6)
    tasks = source.sample_tasks(3, np.random.default_rng(1))
    whole, part = source.examples(tasks, 6, KEY)[0].x, source.examples(tasks[:2], 6, KEY)[0].x
    assert (whole[:2] == part).all()
    others = [
        source.examples(tasks, 6, KEY._replace(iteration=6))[0].x,
        source.examples(tasks, 6, KEY, draw=1)[0].x,
        whole[[1, 2, 0]],
    ]
    assert all((whole != other).all() for other in others)


def test_the_oracle_reads_amplitude_and_phase_beside_the_same_points():
    plain, told = Sinusoid(4, 6), Sinusoid(4, 6, observe_task=True)
    assert (plain.input_shape, told.input_shape) == ((1,), (3,))
    tasks = plain.sample_tasks(3, np.random.default_rng(1))
    for one, other in zip(plain.examples(tasks, 6, KEY), told.examples(tasks, 6, KEY), strict=True):
        assert torch.equal(other.x[..., :1], one.x)
        assert torch.equal(other.y, one.y)
        expected = torch.from_numpy(tasks).float()[:, None].expand(-1, one.x.shape[1], 2)
        assert torch.equal(other.x[..., 1:], expected)


@pytest.mark.parametrize("queries", [0, 1, 100])
def test_any_number_of_queries(queries):
    source = Sinusoid(2, 3)
    assert source.examples(np.ones((2, 2)), queries, KEY)[1].x.shape == (2, queries, 1)
