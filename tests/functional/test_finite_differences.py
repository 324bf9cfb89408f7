"""The meta-gradient and the curvature against differences of an independent implementation.

The estimators hold sg(θ), which would move with θ under finite differences. So the objective is written
anew here in its importance-ratio form, one task, one episode and one step at a time, with every constant
captured at the base point; its values alone make the difference quotients.
"""

from __future__ import annotations

import oracles
import pytest
import support
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from metarl.data import Episodes, Meta, MetaBatch
from metarl.functional import closed_form, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten
from metarl.functional.tasks import take

LR = 0.4
SIZES = (2, 3, 2)
TASKS = 2


class Frozen:
    """θ -> (loss, KL) of the post-update policies, with what sg() captures fixed at ``base``."""

    def __init__(self, policy, base: Tensor, batch: MetaBatch, estimator: str) -> None:
        self.shapes = [(name, value.shape) for name, value in policy.named_parameters()]
        self.bend = {"relu": torch.relu, "tanh": torch.tanh}[policy.activation]
        self.estimator, self.constants = estimator, {}
        self.tasks = [take(batch, index) for index in range(TASKS)]
        self(base)

    def distribution(self, vector: Tensor, obs: Tensor) -> Independent:
        pieces, values = vector.split([shape.numel() for _, shape in self.shapes]), {}
        for (name, shape), piece in zip(self.shapes, pieces, strict=True):
            values[name] = piece.reshape(shape)
        hidden = self.bend(obs @ values["layers.0.weight"].T + values["layers.0.bias"])
        mean = hidden @ values["layers.1.weight"].T + values["layers.1.bias"]
        return Independent(Normal(mean, values["log_std"].exp()), 1)

    def adapt(self, vector: Tensor, support_: tuple[Episodes, ...], task: int) -> Tensor:
        for step, episodes in enumerate(support_):
            leaf = vector if vector.requires_grad else vector.clone().requires_grad_()
            log_prob = self.distribution(leaf, episodes.obs).log_prob(episodes.actions)
            captured = self.constants.setdefault((task, step), log_prob.detach())
            loss = oracles.written_out_loss(self.estimator, log_prob, captured, episodes)
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
            vector = vector - LR * (gradient if vector.requires_grad else gradient.detach())
        return vector

    def __call__(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        loss = divergence = vector.new_zeros(())
        for index, (support_, query) in enumerate(self.tasks):
            new = self.distribution(self.adapt(vector, support_, index), query.obs)
            old = Independent(Normal(query.mean, query.log_std.exp()), 1)
            ratio = new.log_prob(query.actions).exp() / old.log_prob(query.actions).exp()
            weight = query.mask / query.mask.sum() / TASKS
            loss = loss - (ratio * query.advantages * weight).sum()
            divergence = divergence + (kl_divergence(old, new) * weight).sum()
        return loss, divergence


def setting(estimator: str, steps: int, activation: str):
    policy = support.make_policy(activation, SIZES)
    theta = support.theta_of(policy)
    batch = support.sample_batch(policy, theta, steps, LR, TASKS, episodes=2, horizon=3)
    chosen, inner = ESTIMATORS[estimator], InnerUpdate(LR)
    arch = support.architecture(policy)
    task_objective = objectives.surrogate(support.as_function(policy), chosen, inner)
    both = {
        "closed_form": closed_form.objective(arch, chosen, inner, batch, theta),
        "autograd": objectives.by_autograd(task_objective, batch, Meta(theta, {})),
    }
    base = flatten(theta)
    return Frozen(policy, base, batch, estimator), base, both


CASES = [
    pytest.param(estimator, steps, activation, id=f"{estimator}-{steps}-{activation}")
    for estimator in support.ESTIMATOR_NAMES
    for steps in (1, 2, 3)
    for activation in ("tanh", "relu")
]


@pytest.mark.parametrize(("estimator", "steps", "activation"), CASES)
def test_the_meta_gradient_equals_central_differences(estimator, steps, activation):
    frozen, base, both = setting(estimator, steps, activation)
    directions = support.normal(3, 5, len(base))
    expected = torch.stack(
        [(frozen(base + h)[0] - frozen(base - h)[0]) / 2e-5 for h in 1e-5 * directions]
    )
    assert expected.norm() > 0.01
    for objective in both.values():
        found = objective.linearise(base)
        support.close(found.outcome.loss, frozen(base)[0], 1e-13)
        support.close(directions @ found.gradient, expected, 1e-6)


@pytest.mark.parametrize("estimator", support.ESTIMATOR_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_curvature_equals_second_differences_of_the_kl(estimator, steps):
    """vᵀHw by the polarised second difference of values, with one Richardson step: error O(h⁴)."""
    frozen, base, both = setting(estimator, steps, "tanh")  # relu's kinks are as near as h
    v, w = support.normal(1, len(base)), support.normal(2, len(base))

    def difference(h):
        value = lambda a, b: frozen(base + h * (a * v + b * w))[1]  # noqa: E731
        return (value(1, 1) - value(1, -1) - value(-1, 1) + value(-1, -1)) / (4 * h * h)

    expected = (4 * difference(5e-4) - difference(1e-3)) / 3
    for objective in both.values():
        product = objective.linearise(base).curvature(v)
        support.close(w @ product, expected, 1e-6)


@pytest.mark.parametrize(
    ("estimator", "steps", "activation"), [c for c in CASES if c.id.endswith(("1-tanh", "2-relu"))]
)
def test_the_curvature_equals_the_dense_hessian_of_the_kl(estimator, steps, activation):
    frozen, base, both = setting(estimator, steps, activation)
    dense = torch.autograd.functional.hessian(lambda x: frozen(x)[1], base)
    support.close(dense, dense.T, 1e-11)
    assert dense.norm() > 0.1
    for objective in both.values():
        curvature = objective.linearise(base).curvature
        found = torch.stack([curvature(row) for row in torch.eye(len(base)).double()])
        support.close(found, dense, 1e-10)
        assert torch.linalg.eigvalsh(found).min() > -1e-10


def test_the_estimators_meta_gradients_differ():
    """Else the tests above would prove less than they seem to."""
    gradients = [
        setting(estimator, 1, "tanh")[2]["autograd"] for estimator in support.ESTIMATOR_NAMES
    ]
    base = setting("lvc", 1, "tanh")[1]
    found = [objective.linearise(base).gradient for objective in gradients]
    for i in range(4):
        for j in range(i):
            assert (found[i] - found[j]).norm() > 1e-3 * found[i].norm()
