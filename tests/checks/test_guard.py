"""What is not finite is named in the iteration it comes up in, and nothing is learned from it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import support
import torch

from metarl.checks.guard import Guard, validated
from metarl.checks.nonfinite import NonFiniteError
from metarl.data import Examples, Meta, MetaBatch, Outcome
from metarl.functional.objectives import Linearisation, Objective
from metarl.functional.params import flatten_meta, for_tasks
from metarl.functional.trpo import TrustRegion
from metarl.outer import PPO, TRPO, Adam, Descent, Schedule
from metarl.problems.environments import EnvironmentFamily
from metarl.sampler import LoopVectorEnv, Sampler

TASKS = np.array([[0.1], [0.9], [-0.3], [0.2]])  # the environment fails in the second task
LEFT = [0, 2, 3]


def problem_with(fault, **kwargs):
    return support.target_problem({"fault": fault}, **kwargs)


def guarded(problem, skip=False):
    return Guard(problem, TASKS, skip)


def assert_same_bits(one, other):
    leaves = [torch.utils._pytree.tree_leaves(tree) for tree in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*leaves, strict=True))


FAULTS = {
    "nan_reward": "rewards not finite in task 1 [0.9], episode 0, step 2",
    "inf_reward": "rewards not finite in task 1 [0.9], episode 0, step 2",
    "nan_obs": "obs not finite in task 1 [0.9], episode 0, step 3",
    "inf_obs": "obs not finite in task 1 [0.9], episode 0, step 3",
    "huge_reward": "spread of the advantages not finite in task 1 [0.9]",
    "broken": "slot 5, step 2: FloatingPointError: the motor is at infinity (task 1 [0.9], episode 0)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_raising_names_environment_task_step_and_quantity(fault):
    with pytest.raises(NonFiniteError) as caught:
        guarded(problem_with(fault)).collect(float_meta(problem_with(fault)), support.KEY)
    assert "Target-v0" in str(caught.value)
    assert FAULTS[fault] in str(caught.value)
    assert caught.value.tasks == (1,)


def float_meta(problem):
    meta = support.double_meta(problem)
    return Meta({name: value.float() for name, value in meta.theta.items()}, {})


@pytest.mark.parametrize("fault", FAULTS)
def test_skipping_gives_what_the_other_tasks_alone_give(fault, caplog):
    problem = problem_with(fault)
    meta, guard = float_meta(problem), guarded(problem, skip=True)
    with caplog.at_level(logging.WARNING):
        batch, metrics = guard.collect(meta, support.KEY)
    expected, expected_metrics = problem.collect(meta, TASKS[LEFT], support.KEY)
    assert_same_bits(batch, expected)
    assert metrics == expected_metrics
    np.testing.assert_array_equal(guard.tasks, TASKS[LEFT])
    assert FAULTS[fault] in caplog.text
    found, info = guard.step(Descent(Adam(Schedule(0.01))), meta, batch)
    alone, _ = Descent(Adam(Schedule(0.01))).step(
        meta, lambda variant: problem.objective(meta, expected, variant)
    )
    assert_same_bits(found, alone)
    assert info["outer/skipped_tasks"] == 1.0


def test_no_task_left_is_an_error_though_it_may_be_skipped():
    problem = problem_with("nan_reward")
    guard = Guard(problem, np.full((2, 1), 0.9), skip=True)
    with pytest.raises(NonFiniteError, match="rewards not finite"):
        guard.collect(support.double_meta(problem), support.KEY)


def test_returns_that_overflow_are_named_before_the_baseline_is_fitted():
    problem = problem_with("", horizon=2)
    meta = float_meta(problem)
    # Rewards of −(1.7e19)² = −2.9e38 each: float32 holds one of them, but not the sum of two.
    with pytest.raises(NonFiniteError, match=r"returns to go not finite in task 0 .*, step 0"):
        Guard(problem, np.array([[1.7e19]]), False).collect(meta, support.KEY)


def test_an_inner_rate_that_throws_the_parameters_away_is_named_with_its_gradient_step():
    problem = support.target_problem({"bound": 1e38}, lr=1e30)
    with pytest.raises(NonFiniteError, match=r"gradient step 1: (rewards|actions) not finite"):
        guarded(problem).collect(float_meta(problem), support.KEY)


@pytest.mark.parametrize("single", [False, True])
def test_a_silent_reset_of_mujoco_is_put_down_to_its_task(single):
    policy = support.make_policy("tanh", (20, 3, 6))
    family = EnvironmentFamily("envs:HalfCheetahVel-v0", {}, 3)
    make = (lambda n: LoopVectorEnv([family.single() for _ in range(n)])) if single else family
    sampler = Sampler(make, 2, 2, 3, policy.stacked)
    if single:
        env = sampler.envs[0].envs[3].unwrapped
        env.data.qvel[0] = 0.0
        begin = env._begin
        env._begin = lambda: (begin(), env.data.qvel.__setitem__(0, 1e12))[0]
    else:
        env = sampler.envs[0].unwrapped
        begin = env._begin
        env._begin = lambda slots: (begin(slots), env._qvel.__setitem__((3, 0), 1e12))[0]
    params = for_tasks(support.theta_of(policy), 2)
    with pytest.raises(
        NonFiniteError, match=r"HalfCheetahVel-v0, slot 3, step 0: .*qvel"
    ) as caught:
        sampler.wave(params, np.array([[0.5], [1.5]]), support.KEY, 0)
    assert "(task 1 [1.5], episode 1)" in str(caught.value)
    assert caught.value.tasks == (1,)


class Bowls:
    """One bowl ½‖θ − x‖² per task, the mean of them the loss; a task of NaN has no gradient."""

    name, measure = "bowls", "loss"

    def collect(self, meta, tasks, key, share=None):
        data = Examples(torch.from_numpy(tasks), torch.zeros(len(tasks)))
        return MetaBatch((data,), data), {}

    def objective(self, meta, batch, variant, iteration=0, join=None):
        centres = batch.query.x

        def evaluate(theta):
            loss = 0.5 * (theta - centres).square().sum(-1).mean()
            return Outcome(loss, torch.zeros(()))

        def linearise(theta):
            return Linearisation(evaluate(theta), (theta - centres).mean(0), lambda v: v)

        return Objective(evaluate, linearise)


META = Meta({"w": torch.tensor([1.0, -2.0]).double()}, {})
GOOD = np.array([[0.0, 1.0], [2.0, 2.0], [3.0, -1.0]])
BAD = np.insert(GOOD, 1, [[np.nan, 0.0], [0.0, np.inf]], axis=0)
OUTERS = {
    "trpo": lambda: TRPO(TrustRegion(max_kl=0.5)),
    "vpg": lambda: Descent(Adam(Schedule(0.1))),
    "ppo": lambda: PPO(Schedule(0.1), 0.2, 2, 0.01, 0.1),
}


@pytest.mark.parametrize("method", OUTERS)
def test_a_gradient_that_is_not_finite_is_put_down_to_its_tasks(method):
    outer = OUTERS[method]()
    guard = Guard(Bowls(), BAD, skip=False)
    batch, _ = guard.collect(META, support.KEY)
    with pytest.raises(NonFiniteError) as caught:
        guard.step(outer, META, batch)
    assert caught.value.tasks == (1, 2)
    assert "bowls, outer step: " in str(caught.value)
    advice = "lower inner.lr, or leave such tasks out by on_nonfinite=skip_task."
    assert f"not finite in task 1 [nan, 0.0]: {advice}" in str(caught.value)
    assert outer.state()[0] == {}, "Adam must not have learned from it"


class Slopes(Bowls):
    """One plane x · θ per task, whose value is not looked at: the gradient x may be long where nothing else is."""

    def objective(self, meta, batch, variant, iteration=0, join=None):
        whole = super().objective(meta, batch, variant, iteration, join)
        evaluate = lambda theta: Outcome(torch.zeros(()), torch.zeros(()))  # noqa: E731
        linearise = lambda theta: Linearisation(  # noqa: E731
            evaluate(theta), whole.linearise(theta).gradient, lambda v: v
        )
        return Objective(evaluate, linearise)


def test_a_gradient_whose_norm_overflows_is_put_down_to_its_task():
    """Each of its entries is finite, and so is every other number."""
    slopes = np.insert(GOOD, 1, [[1e200, 1e200]], axis=0)
    for skip in (False, True):
        guard = Guard(Slopes(), slopes, skip)
        batch, _ = guard.collect(META, support.KEY)
        if skip:
            found, info = guard.step(OUTERS["vpg"](), META, batch)
            assert flatten_meta(found).isfinite().all()
            assert info["outer/skipped_tasks"] == 1.0
            np.testing.assert_array_equal(guard.tasks, GOOD)
        else:
            with pytest.raises(NonFiniteError, match="norm not finite in task 1") as caught:
                guard.step(OUTERS["vpg"](), META, batch)
            assert caught.value.tasks == (1,)


@pytest.mark.parametrize("method", OUTERS)
def test_skipping_steps_as_if_those_tasks_had_not_been(method):
    guard = Guard(Bowls(), BAD, skip=True)
    found, info = guard.step(OUTERS[method](), META, guard.collect(META, support.KEY)[0])
    other = Guard(Bowls(), GOOD, skip=False)
    expected, _ = other.step(OUTERS[method](), META, other.collect(META, support.KEY)[0])
    assert_same_bits(found, expected)
    assert not torch.equal(flatten_meta(found), flatten_meta(META))
    assert info["outer/skipped_tasks"] == 2.0


def test_where_tasks_are_skipped_already_skipping_is_no_advice():
    guard = Guard(Bowls(), BAD[1:3], skip=True)
    with pytest.raises(NonFiniteError, match=r"lower inner\.lr\.$"):
        guard.step(OUTERS["vpg"](), META, guard.collect(META, support.KEY)[0])


def test_a_step_that_overflows_though_every_gradient_is_finite_blames_no_task():
    guard = Guard(Bowls(), GOOD, skip=True)
    with pytest.raises(NonFiniteError, match="every task's loss and gradient is") as caught:
        guard.step(Descent(Adam(Schedule(float("inf")))), META, guard.collect(META, support.KEY)[0])
    assert caught.value.tasks == ()


def test_nothing_is_logged_of_skipping_where_it_is_not_asked_for():
    guard = Guard(Bowls(), GOOD, skip=False)
    _, info = guard.step(Descent(Adam(Schedule(0.1))), META, guard.collect(META, support.KEY)[0])
    assert "outer/skipped_tasks" not in info


def test_an_evaluation_is_left_out_only_where_tasks_may_be(caplog):
    def diverge():
        raise NonFiniteError("X-v0: rewards not finite.", 1)

    said = "evaluation on validation tasks: X-v0: rewards not finite."
    assert validated(diverge, skip=True) == (None, None)
    assert f"{said} This evaluation is left out." in caplog.text
    score, error = validated(diverge, skip=False)
    assert (score, str(error), error.tasks) == (None, said, (1,))
    assert validated(lambda: 3.0, skip=False) == (3.0, None)
