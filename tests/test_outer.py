"""Outer steps: Adam is torch's, a rejected TRPO step changes nothing, saved state goes on alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import support
import torch

from metarl.data import Meta, Outcome
from metarl.functional.objectives import Linearisation, Objective
from metarl.functional.params import flatten_meta
from metarl.functional.trpo import TrustRegion
from metarl.outer import PPO, SGD, TRPO, Adam, Descent, Schedule
from metarl.problems.protocol import Variant

GOAL = support.normal(1, 6)


def start() -> Meta:
    return Meta({"a": support.normal(2, 2, 2), "b": support.normal(3, 2)}, {})


def bowl(vector):
    return ((vector - GOAL) ** 4).sum()


class Recorder:
    """Makes objectives of a known function and keeps the variants that were asked for."""

    def __init__(self, kl=0.0):
        self.kl, self.variants, self.points = kl, [], []

    def __call__(self, variant):
        self.variants.append(variant)
        return Objective(self.evaluate, self.linearise)

    def evaluate(self, vector):
        return Outcome(bowl(vector), torch.tensor(self.kl))

    def linearise(self, vector):
        self.points.append(vector.clone())
        return Linearisation(self.evaluate(vector), 4 * (vector - GOAL) ** 3, lambda v: v)


def torchs_adam(lr, steps):
    leaf = flatten_meta(start()).clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        bowl(leaf).backward()
        optimiser.step()
    return leaf.detach()


def run(outer, meta, steps):
    for _ in range(steps):
        meta, _ = outer.step(meta, Recorder())
    return meta


def test_vpg_is_torchs_adam():
    found = run(Descent(Adam(Schedule(0.05))), start(), 7)
    support.close(flatten_meta(found), torchs_adam(0.05, 7), 1e-13)


def test_ppo_takes_that_many_steps_of_torchs_adam_on_one_objective():
    recorder = Recorder()
    outer = PPO(Schedule(0.05), 0.2, epochs=4, kl_target=0.01, kl_coefficient=0.5)
    meta, metrics = outer.step(start(), recorder)
    support.close(flatten_meta(meta), torchs_adam(0.05, 4), 1e-13)
    assert recorder.variants == [Variant(clip=0.2, kl_coefficient=0.5)]
    assert len(recorder.points) == 4
    support.close(metrics["outer/loss"], bowl(flatten_meta(meta)), 1e-12)
    meta, _ = outer.step(meta, recorder)  # the moments outlive the iteration
    support.close(flatten_meta(meta), torchs_adam(0.05, 8), 1e-13)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.0, 0.5),
        (0.0066, 0.5),
        (0.0067, 1.0),
        (0.01, 1.0),
        (0.0149, 1.0),
        (0.0151, 2.0),
        (1.0, 2.0),
    ],
)
def test_ppos_penalty_follows_the_inner_kl(kl, factor):
    outer, recorder = PPO(Schedule(0.0), 0.2, 1, kl_target=0.01, kl_coefficient=0.8), Recorder(kl)
    _, metrics = outer.step(start(), recorder)
    assert metrics["outer/kl_coefficient"] == 0.8  # the one that was used
    support.close(outer.kl_coefficient, 0.8 * factor, 1e-15)
    outer.step(start(), recorder)
    support.close(recorder.variants[-1].kl_coefficient, 0.8 * factor, 1e-15)


def test_which_objective_each_method_asks_for():
    for outer, variant in (
        (TRPO(TrustRegion()), Variant()),
        (Descent(Adam(Schedule(0.1))), Variant()),
        (Descent(Adam(Schedule(0.1)), Variant(exploration=0.3)), Variant(exploration=0.3)),
    ):
        recorder = Recorder()
        outer.step(start(), recorder)
        assert recorder.variants == [variant]


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1.0 - t),
        ("cosine", lambda t: math.cos(math.pi * t / 2.0) ** 2),
    ],
)
def test_a_schedule_goes_from_its_first_rate_to_its_last(kind, share):
    """(1 + cos πt) / 2 = cos² (πt / 2); from the last step on the rate stays."""
    schedule = Schedule(0.5, kind, final=0.1, total=8)
    for step in range(9):
        assert schedule.at(step) == pytest.approx(0.1 + 0.4 * share(step / 8), abs=1e-15)
    assert schedule.at(8) == schedule.at(800) == (0.5 if kind == "constant" else 0.1)
    rates = [schedule.at(step) for step in range(9)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("make", [SGD, Adam])
def test_an_optimiser_takes_the_rate_of_each_of_its_steps(make):
    """Along a constant gradient Adam's step has the length of its rate in every component, as sign descent's has."""
    schedule = Schedule(0.5, "linear", total=4)
    optimiser, vector, gradient = make(schedule), torch.zeros(2).double(), torch.ones(2).double()
    for done in range(5):
        moved = optimiser.step(vector, gradient)
        support.close(vector - moved, schedule.at(done) * gradient, 1e-7)
        vector = moved


@pytest.mark.parametrize("clip", [None, 0.5, 5.0, 1e9])
def test_every_component_of_the_gradient_is_clipped_and_its_norm_is_logged_as_it_was(clip):
    found, metrics = Descent(SGD(Schedule(0.1)), clip=clip).step(start(), Recorder())
    gradient = 4 * (flatten_meta(start()) - GOAL) ** 3
    bound = np.inf if clip is None else clip
    expected = [float(np.sign(g) * min(abs(g), bound)) for g in gradient.tolist()]
    support.close(flatten_meta(start()) - flatten_meta(found), 0.1 * torch.tensor(expected), 1e-6)
    support.close(metrics["outer/grad_norm"], gradient.norm(), 1e-12)
    largest = float(gradient.abs().max())
    assert 5.0 < largest < 1e9, "one bound that clips, and one that does not"


@pytest.mark.parametrize("done", [0, 1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Descent(Adam(Schedule(0.05))),
        lambda: PPO(Schedule(0.05), 0.2, 2, 0.01, 0.5),
        lambda: TRPO(TrustRegion()),
        lambda: TRPO(TrustRegion(), momentum=0.8, warmup=2),
    ],
)
def test_what_was_saved_goes_on_identically(make, done):
    whole = make()
    meta = run(whole, start(), done)
    tensors, values = whole.state()
    kept = {name: value.clone() for name, value in tensors.items()}, dict(values)
    resumed = make()
    expected = run(whole, meta, 3)
    for name, value in tensors.items():
        assert torch.equal(value, kept[0][name]), "going on changed what was saved"
    resumed.restore(*kept)
    found = run(resumed, meta, 3)
    assert torch.equal(flatten_meta(found), flatten_meta(expected))
    assert resumed.state()[1] == whole.state()[1]


@pytest.mark.parametrize(
    "outer",
    [Descent(Adam(Schedule(0.05))), PPO(Schedule(0.05), 0.2, 2, 0.01, 0.5), TRPO(TrustRegion())],
    ids=["vpg", "ppo", "trpo"],
)
def test_the_meta_that_was_given_is_not_written_into(outer):
    meta = start()
    before = flatten_meta(meta).clone()
    found, _ = outer.step(meta, Recorder())
    assert torch.equal(flatten_meta(meta), before)
    assert not torch.equal(flatten_meta(found), before)
    assert {name: value.shape for name, value in found.theta.items()} == {
        name: value.shape for name, value in meta.theta.items()
    }


def test_a_rejected_trpo_step_returns_the_very_meta_given():
    meta, recorder = start(), Recorder(kl=1.0)
    found, metrics = TRPO(TrustRegion(max_backtracks=6)).step(meta, recorder)
    assert found is meta
    assert metrics["outer/accepted"] == 0.0
    assert metrics["outer/line_search_trials"] == 6.0
    assert metrics["outer/improvement"] == 0.0


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_trpos_momentum_descends_the_weighted_sum_of_all_gradients(momentum, warmup):
    """With the identity for curvature a step of length sqrt(2 max_kl) goes along the sum, written out."""
    outer, recorder, meta = TRPO(TrustRegion(1e-4), momentum, warmup), Recorder(), start()
    for done in range(6):
        meta, metrics = outer.step(meta, recorder)
        gradients = [4 * (point - GOAL) ** 3 for point in recorder.points]
        weights = [
            np.prod([momentum * i / (i + warmup) for i in range(j + 1, done + 1)])
            for j in range(done + 1)
        ]
        total = sum(w * g for w, g in zip(weights, gradients, strict=True))
        moved = flatten_meta(meta) - recorder.points[-1]
        support.close(moved, -(2e-4**0.5) * total / total.norm(), 1e-6)
        assert metrics["outer/accepted"] == 1.0
        # What the linear model promises is of this iteration's gradient, whatever was descended.
        support.close(metrics["outer/predicted_improvement"], -(gradients[-1] @ moved), 1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_gradient_that_is_not_finite_is_rejected_and_forgotten(momentum):
    """The steps after it are those of a training that never met it."""

    class Broken(Recorder):
        def linearise(self, vector):
            found = super().linearise(vector)
            return found._replace(gradient=found.gradient * torch.nan)

    outers = [TRPO(TrustRegion(1e-4), momentum) for _ in range(2)]
    metas = [run(outer, start(), 2) for outer in outers]
    untouched, metrics = outers[0].step(metas[0], Broken())
    assert untouched is metas[0]
    assert metrics["outer/accepted"] == 0.0
    found, expected = (run(outer, meta, 3) for outer, meta in zip(outers, metas, strict=True))
    assert torch.equal(flatten_meta(found), flatten_meta(expected))


MEMORIES = {
    "vpg": lambda: Descent(Adam(Schedule(0.05))),
    "sgd": lambda: Descent(SGD(Schedule(0.05))),
    "ppo": lambda: PPO(Schedule(0.05), 0.2, 2, 0.01, 0.5),
    "trpo": lambda: TRPO(TrustRegion(), momentum=0.8),
}


@pytest.mark.parametrize(
    ("of", "into"),
    [
        (of, into)
        for of in MEMORIES
        for into in MEMORIES
        if of != into and {of, into} != {"vpg", "ppo"}
    ],
)
def test_the_memory_of_another_method_is_refused_and_changes_nothing(of, into):
    trained, other = MEMORIES[of](), MEMORIES[into]()
    run(trained, start(), 2)
    before = other.state()
    tensors, values = trained.state()
    with pytest.raises(KeyError):
        other.restore(tensors, values | {"kl_coefficient": 0.5})
    assert other.state() == before


TASKS = np.array([[0.5, -0.2], [-0.7, 0.1], [0.0, 0.9]])


@pytest.mark.parametrize("learn_rates", [False, True])
@pytest.mark.parametrize("max_kl", [1e-3, 1e-2])
def test_an_accepted_trpo_step_is_what_it_says_recomputed_by_another_implementation(
    max_kl, learn_rates
):
    problem, oracle = (
        support.target_problem(
            {"size": 2, "random_end": True}, steps=2, lr=0.2, autograd=flag, learn_rates=learn_rates
        )
        for flag in (False, True)
    )
    meta = support.double_meta(problem)
    batch, _ = problem.collect(meta, TASKS, support.KEY)
    # So few data that the KL is far from quadratic: a damped step, and many trials.
    region = TrustRegion(max_kl, cg_damping=1e-2, max_backtracks=40)
    found, metrics = TRPO(region).step(
        meta, lambda variant: problem.objective(meta, batch, variant)
    )
    assert metrics["outer/accepted"] == 1.0
    evaluate = oracle.objective(meta, batch, Variant()).evaluate
    before, after = (evaluate(flatten_meta(each)) for each in (meta, found))
    assert after.loss < before.loss
    assert 0 < after.kl <= max_kl * (1 + 1e-9)
    support.close(metrics["outer/loss"], after.loss, 1e-10)
    support.close(metrics["outer/kl"], after.kl, 1e-10)
    support.close(metrics["outer/improvement"], before.loss - after.loss, 1e-10)
    moved = [not torch.equal(value, meta.rates[name]) for name, value in found.rates.items()]
    assert any(moved) == learn_rates
