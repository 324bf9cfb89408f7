"""The closed form equals autograd, to rounding error, in everything an outer step asks for."""

from __future__ import annotations

import math

import pytest
import support
import torch
from pairs import LR, TOLERANCE, Pair, make_pair, shared_by

from metarl.data import Episodes, Meta, MetaBatch
from metarl.functional import closed_form, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.layered import order
from metarl.functional.objectives import Linearisation
from metarl.functional.params import flatten_meta
from metarl.kernels import compiled


def assert_equal(pair: Pair) -> None:
    """At the parameters that collected the data; elsewhere too, but for the KL's Hessian."""
    for at in (pair.vector + 0.1 * support.normal(50, len(pair.vector)), pair.vector):
        closed, autograd = pair.closed.linearise(at), pair.autograd.linearise(at)
        support.close(closed.gradient, autograd.gradient, TOLERANCE)
        for one, other in zip(closed.outcome[:2], autograd.outcome[:2], strict=True):
            support.close(one, other, TOLERANCE)
        for one, other in zip(pair.closed.evaluate(at)[:2], closed.outcome[:2], strict=True):
            support.close(one, other, TOLERANCE)
    for seed in range(2):
        tangent = support.normal(60 + seed, len(pair.vector))
        support.close(closed.curvature(tangent), autograd.curvature(tangent), TOLERANCE)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("steps", "activation"),
    [(0, "relu"), (0, "tanh"), (1, "relu"), (1, "tanh"), (2, "relu"), (2, "tanh"), (3, "tanh")],
)
@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
def test_closed_form_equals_autograd(estimator, steps, activation, first_order):
    assert_equal(make_pair(estimator, steps, activation, first_order))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
def test_it_does_where_nothing_is_compiled(estimator, steps, activation, monkeypatch):
    monkeypatch.setattr(compiled, "LIBRARY", None)
    assert_equal(make_pair(estimator, steps, activation, together=(2, 1)))


@pytest.mark.parametrize("sizes", [(3, 2), (1, 4, 1), (2, 3, 3, 3, 1)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_does_for_any_depth(activation, sizes):
    assert_equal(make_pair("loaded_dice", 2, activation, sizes=sizes))


@pytest.mark.parametrize("together", [(2, 1), (3, 2), (5, 5), (1, 3)])
@pytest.mark.parametrize("estimator", ["lvc", "dice"])
def test_it_does_however_the_tasks_are_cut(together, estimator):
    assert_equal(make_pair(estimator, 2, "tanh", together=together, tasks=4))


@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_it_does_below_the_floor_of_the_deviation_where_its_derivative_is_zero(steps, estimator):
    pair = make_pair(estimator, steps, "tanh", min_std=0.5, log_std=[-5.0, 0.25])
    assert_equal(pair)
    frozen = list(pair.theta).index("log_std") == 0  # its first entry is the vector's first
    assert frozen
    assert pair.closed.linearise(pair.vector).gradient[0] == 0.0


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_it_does_at_the_floor_itself(steps):
    """As `initial_std` equal to `min_std` would have it: both must agree whether it can move."""
    assert_equal(make_pair("lvc", steps, "tanh", min_std=0.5, log_std=[math.log(0.5), 0.25]))


def test_it_does_where_an_inner_step_takes_some_tasks_below_the_floor_that_share_products():
    given = {"tasks": 4, "min_std": 0.5, "log_std": [math.log(0.5) + 1e-6, 0.25]}
    assert_equal(make_pair("lvc", 2, "tanh", together=(4, 1), **given))
    pair = make_pair("lvc", 2, "tanh", **given)
    arch = support.architecture(support.make_policy("tanh", (3, 5, 4, 2), 0.5))
    surrogate = closed_form.Surrogate(arch, ESTIMATORS["lvc"], InnerUpdate(LR))
    at = surrogate.activations(order(arch, pair.theta).layers(pair.vector), pair.batch)
    assert {0.0, 1.0} == {float(free[0]) for free in at.tapes[1].free}


@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
def test_threads_change_no_bit(estimator):
    with shared_by(3) as pool:
        plain = make_pair(estimator, tasks=4)
        threaded = make_pair(estimator, tasks=4, mapper=pool.map)
        tangent = support.normal(60, len(plain.vector))
        for one, other in ((plain.closed, threaded.closed), (plain.autograd, threaded.autograd)):
            found, expected = one.linearise(plain.vector), other.linearise(plain.vector)
            assert torch.equal(found.gradient, expected.gradient)
            assert torch.equal(found.outcome.loss, expected.outcome.loss)
            assert torch.equal(found.curvature(tangent), expected.curvature(tangent))
            moved = plain.vector + 0.1
            assert torch.equal(one.evaluate(moved).kl, other.evaluate(moved).kl)


def first_half(episodes: Episodes) -> Episodes:
    *by_episode, log_std = episodes
    return Episodes._make([*(each[:, : (each.shape[1] + 1) // 2] for each in by_episode), log_std])


def twice(episodes: Episodes) -> Episodes:
    *by_episode, log_std = episodes
    return Episodes._make([*(torch.cat([each, each], dim=1) for each in by_episode), log_std])


def of_each(change, batch: MetaBatch) -> MetaBatch:
    return MetaBatch(tuple(change(each) for each in batch.support), change(batch.query))


def with_share(
    pair: Pair, batch: MetaBatch, share: float, first_order: bool = False, **settings
) -> Linearisation:
    policy = support.make_policy("tanh", (3, 5, 4, 2), 1e-6)
    inner = InnerUpdate(LR, first_order)
    given = support.architecture(policy), ESTIMATORS["dice"], inner, batch, pair.theta
    return closed_form.objective(*given, share=share, **settings).linearise(pair.vector)


def test_curvature_on_a_share_of_the_episodes_is_that_of_those_episodes():
    pair = make_pair("dice", steps=0)
    found = with_share(pair, pair.batch, 0.5)
    expected = with_share(pair, of_each(first_half, pair.batch), 1.0)
    tangent = support.normal(60, len(pair.vector))
    assert torch.equal(found.curvature(tangent), expected.curvature(tangent))
    assert torch.equal(found.preconditioner(0.1)(tangent), expected.preconditioner(0.1)(tangent))


@pytest.mark.parametrize("kept", [None, 1])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_share_of_the_episodes_bends_what_all_of_them_adapt(steps, kept):
    """Where every episode stands there twice, half of them say all; alone they say something else."""
    pair = make_pair("dice", steps)
    doubled = of_each(twice, pair.batch)
    exact, half = (with_share(pair, doubled, share, kept=kept) for share in (1.0, 0.5))
    tangent = support.normal(60, len(pair.vector))
    support.close(half.curvature(tangent), exact.curvature(tangent), TOLERANCE)
    other = with_share(pair, pair.batch, 0.5).curvature(tangent)
    assert (other - exact.curvature(tangent)).norm() > 0.01 * other.norm()


def test_all_episodes_adapt_whatever_share_of_them_bends():
    """Without second derivatives what is left of the support is where it leads to: φ."""
    pair = make_pair("dice", 2)
    found = with_share(pair, pair.batch, 0.5, first_order=True)
    half = pair.batch._replace(query=first_half(pair.batch.query))
    expected = with_share(pair, half, 1.0, first_order=True)
    tangent = support.normal(60, len(pair.vector))
    assert torch.equal(found.curvature(tangent), expected.curvature(tangent))


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_loss_and_gradient_are_of_all_episodes_whatever_the_share(share):
    pair = make_pair("dice")
    exact, found = (with_share(pair, pair.batch, each) for each in (1.0, share))
    assert torch.equal(found.gradient, exact.gradient)
    assert all(map(torch.equal, found.outcome[:2], exact.outcome[:2]))


def test_at_the_behaviour_policy_the_ratio_is_one_and_the_kl_zero():
    pair = make_pair()
    query = pair.batch.query
    expected = -((query.advantages * query.mask).sum((1, 2)) / query.mask.sum((1, 2))).mean()
    for objective in (pair.closed, pair.autograd):
        outcome = objective.evaluate(pair.vector)
        support.close(outcome.loss, expected, 1e-12)
        assert 0.0 <= outcome.kl < 1e-20


def test_the_gradient_of_meta_sgds_vector_holds_mamls_and_is_exact_in_the_rates():
    """With equal rates the first half is MAML's gradient; the second against central differences."""
    policy = support.make_policy()
    theta = support.theta_of(policy)
    batch = support.sample_batch(policy, theta, 1, LR, tasks=2)
    rates = {name: torch.full_like(value, LR) for name, value in theta.items()}
    task_objective = objectives.surrogate(
        support.as_function(policy), ESTIMATORS["lvc"], InnerUpdate(LR)
    )
    meta = Meta(theta, rates)
    learned = objectives.by_autograd(task_objective, batch, meta)
    vector = flatten_meta(meta)
    found, size = learned.linearise(vector), len(vector) // 2
    plain = make_pair(steps=1).closed.linearise(vector[:size])
    support.close(found.gradient[:size], plain.gradient, TOLERANCE)
    support.close(found.outcome.loss, plain.outcome.loss, TOLERANCE)
    for seed in range(3):
        h = 1e-5 * torch.cat([torch.zeros(size), support.normal(70 + seed, size)])
        slope = (learned.evaluate(vector + h).loss - learned.evaluate(vector - h).loss) / 2
        support.close(found.gradient @ h / 1e-5, slope / 1e-5, 1e-7)
