"""Learned rates and the order of the derivative in reinforcement learning, against a loop over tasks and steps."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from oracles import slow_surrogate

from metarl.functional.params import flatten_meta
from metarl.problems.protocol import Variant

TASKS = np.array([[0.5, -0.2], [-0.7, 0.1]])
LR, BEGINS = 0.2, 3


def setting(learn, steps=2, **settings):
    """A problem in float64, its meta-parameters, no two of whose rates are equal, and what they collect."""
    given = {"steps": steps, "lr": LR, "learn_rates": learn, "dtype": support.DOUBLE, **settings}
    problem = support.target_problem({"size": 2, "random_end": True}, 3, 3, **given)
    meta = support.double_meta(problem)
    for index, value in enumerate(meta.rates.values()):
        value.mul_(1 + torch.rand(value.shape, generator=support.random_generator(index)))
    return problem, meta, problem.collect(meta, TASKS, support.KEY)[0]


def slow_gradient(problem, meta, batch, **settings):
    """Loss and gradient in θ and the rates."""
    theta, rates = (
        {name: value.clone().requires_grad_() for name, value in part.items()} for part in meta
    )
    learn, steps = problem.adaptation.learn_rates, problem.adaptation.steps
    of_steps = [
        {name: value[step] if learn == "layer_step" else value for name, value in rates.items()}
        for step in range(steps)
    ]
    loss = slow_surrogate(
        *(problem.policy, theta, batch, of_steps if learn else [dict.fromkeys(theta, LR)] * steps),
        **{"estimator": problem.adaptation.estimator, **settings},
    )
    gradient = torch.autograd.grad(loss, [*theta.values(), *rates.values()])
    return loss.detach(), torch.cat([each.flatten() for each in gradient])


@pytest.mark.parametrize("estimator", ["reinforce", "lvc"])
@pytest.mark.parametrize("autograd", [False, True])
@pytest.mark.parametrize("learn", [False, True, "layer", "layer_step"])
def test_the_order_is_first_until_its_iteration_and_second_from_there_on(
    learn, autograd, estimator
):
    problem, meta, batch = setting(
        learn, second_order_from=BEGINS, autograd=autograd, estimator=estimator
    )
    assert (problem.arch is None) == (autograd or bool(learn))
    (loss, first), (_, second) = (
        slow_gradient(problem, meta, batch, first_order=order) for order in (True, False)
    )
    assert (first - second).norm() > 1e-2 * second.norm()
    for iteration in (0, BEGINS - 1, BEGINS, BEGINS + 1):
        objective = problem.objective(meta, batch, Variant(), iteration)
        found = objective.linearise(flatten_meta(meta))
        support.close(found.outcome.loss, loss, 1e-12)
        support.close(found.gradient, first if iteration < BEGINS else second, 1e-11)
        # The policies that the objective adapts are those that collected the query.
        support.close(found.outcome.kl, 0.0, 1e-13)


@pytest.mark.parametrize("learn", [True, "layer", "layer_step"])
@pytest.mark.parametrize("variant", [Variant(clip=0.3), Variant(exploration=0.4)])
def test_promp_and_e_maml_adapt_with_the_same_rates(variant, learn):
    """Where the data were collected no ratio is clipped: ProMP without its penalty is the surrogate."""
    problem, meta, batch = setting(learn, steps=3)
    loss, gradient = slow_gradient(problem, meta, batch, exploration=variant.exploration)
    found = problem.objective(meta, batch, variant).linearise(flatten_meta(meta))
    support.close(found.outcome.loss, loss, 1e-12)
    support.close(found.gradient, gradient, 1e-11)
