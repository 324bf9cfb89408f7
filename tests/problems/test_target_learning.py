"""Learning target actions, where the best that can be had is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch

from metarl.data import Meta
from metarl.functional.trpo import TrustRegion
from metarl.outer import PPO, TRPO, Adam, Descent, Schedule
from metarl.seeding import Key, Stream, generator

T = 5
SIGMA = 0.5
# Tasks are uniform in ±1: without adaptation the best mean is 0, its expected return −T (σ² + 1/3).
BLIND = -T * (SIGMA**2 + 1 / 3)


def problem(**kwargs):
    return support.target_problem(horizon=T, hidden=(), std=SIGMA, **kwargs)


def held_out(count=40):
    return problem().sample_tasks(count, generator(1, Stream.EVALUATION_TASKS))


def start(mean=0.8):
    """A policy whose mean is off the mean task."""
    learner = problem()
    theta = learner.initial_meta(generator(1, Stream.INITIALISATION)).theta
    weight = {"layers.0.weight": torch.full((1, 1), mean), "layers.0.bias": torch.zeros(1)}
    return Meta(theta | weight, {})


def train(learner, outer, iterations, tasks=10):
    meta = start()
    for i in range(iterations):
        chosen = learner.sample_tasks(tasks, generator(1, Stream.TRAIN_TASKS, i))
        batch, _ = learner.collect(meta, chosen, Key(1, Stream.TRAIN_DATA, i))
        meta, _ = outer.step(
            meta,
            lambda variant, meta=meta, batch=batch: learner.objective(meta, batch, variant),
        )
    return meta


def curve(learner, meta, rates, episodes=40):
    key = Key(1, Stream.EVALUATION_DATA)
    return learner.adaptation_curve(meta, held_out(), rates, episodes, key).mean(1)


def test_the_return_of_a_fixed_policy_is_the_closed_forms():
    """Within five standard errors of a mean over 400 episodes of each task."""
    learner, tasks, mean = problem(), np.array([[0.4], [-0.9]]), 0.3
    found = learner.adaptation_curve(start(mean), tasks, (), 400, Key(1, Stream.EVALUATION_DATA))[0]
    expected = support.target_return([mean], [SIGMA], tasks, T)
    # Var (a − g)² = 2σ⁴ + 4σ²(μ − g)² for one Gaussian action.
    spread = np.sqrt(T * (2 * SIGMA**4 + 4 * SIGMA**2 * (mean - tasks[:, 0]) ** 2) / 400)
    assert (np.abs(found - expected) < 5 * spread).all()


def test_one_inner_step_moves_every_policy_towards_its_target():
    learner = problem(lr=0.1, episodes=40)
    tasks = np.array([[0.8], [-0.8], [0.5], [-0.5]])
    batch, _ = learner.collect(start(0.0), tasks, support.KEY)
    before, after = (wave.mean[:, 0, 0, 0].numpy() for wave in (batch.support[0], batch.query))
    assert (np.sign(after - before) == np.sign(tasks[:, 0])).all()
    assert (np.abs(after - tasks[:, 0]) < np.abs(before - tasks[:, 0])).all()


def test_a_few_iterations_of_trpo_improve_the_return_after_adaptation():
    learner = problem(lr=0.2, episodes=10)
    meta = train(learner, TRPO(TrustRegion(max_kl=0.05)), 10)
    before, after = (curve(learner, each, (0.2,))[1] for each in (start(), meta))
    assert after > before + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "iterations"),
    [
        pytest.param(lambda: TRPO(TrustRegion(max_kl=0.02)), 25, id="trpo"),
        pytest.param(lambda: Descent(Adam(Schedule(0.01))), 45, id="vpg"),
        pytest.param(lambda: PPO(Schedule(0.005), 0.3, 3, 0.01, 5e-4), 50, id="promp"),
    ],
)
def test_what_is_learned_beats_every_policy_that_cannot_adapt(make, iterations):
    """Not for longer: standardised advantages go on to shrink σ, and then a step of α/σ overshoots."""
    learner = problem(lr=0.2, episodes=20)
    meta = train(learner, make(), iterations, tasks=20)
    pre, post = curve(learner, meta, (0.2,))
    assert post > pre + 0.5
    assert post > BLIND + 1.0
