"""The Kronecker-factored preconditioner against dense matrices of the same approximation."""

import math

import pytest
import support
import torch

from metarl.functional import kfac
from metarl.functional.gaussian_mlp import forward
from metarl.functional.layered import Architecture, layered
from metarl.functional.params import flatten, unflatten

TASKS, STATES, OBS, ACTIONS, HIDDEN = 2, 40, 3, 2, (5, 4)
ARCH = Architecture(3, "tanh", math.log(1e-6))


@pytest.fixture
def case():
    sizes = (OBS, *HIDDEN, ACTIONS)
    params = {}
    for i in range(3):
        params[f"layers.{i}.weight"] = support.normal(i, TASKS, sizes[i + 1], sizes[i])
        params[f"layers.{i}.bias"] = support.normal(10 + i, TASKS, sizes[i + 1])
    params["log_std"] = 0.3 * support.normal(20, TASKS, ACTIONS)
    obs = support.normal(30, TASKS, STATES, OBS)
    weights = torch.rand(TASKS, STATES, generator=torch.Generator().manual_seed(1)).double()
    return params, obs, weights


def dense_factors(params, obs, weights, task, layer):
    """A and S of one task and layer: a Jacobian by autograd at each of the states that are used."""
    one = {name: value[task] for name, value in params.items()}
    used = slice(None, None, kfac.STRIDE)
    share = weights[task, used] / weights[task, used].sum()
    a, s = 0.0, 0.0
    for state, w in zip(obs[task, used], share, strict=True):
        shift = torch.zeros_like(one[f"layers.{layer}.bias"]).requires_grad_()
        hidden, seen = state, []
        for i in range(3):
            seen.append(torch.cat([hidden, torch.ones(1).double()]))
            hidden = one[f"layers.{i}.weight"] @ hidden + one[f"layers.{i}.bias"]
            hidden = hidden + shift if i == layer else hidden
            hidden = hidden.tanh() if i < 2 else hidden
        jacobian = torch.stack(
            [torch.autograd.grad(mean, shift, retain_graph=True)[0] for mean in hidden]
        )
        jacobian = jacobian * (-one["log_std"]).exp().unsqueeze(1)
        a = a + w * torch.outer(seen[layer], seen[layer])
        s = s + w * jacobian.mT @ jacobian
    return a.detach(), s.detach()


def test_the_factors_are_second_moments_of_inputs_and_output_derivatives(case):
    params, obs, weights = case
    found = kfac.factors(ARCH, forward(ARCH, layered(ARCH, params), obs), weights)
    assert found.tasks == TASKS
    for layer in range(3):
        parts = [dense_factors(params, obs, weights, task, layer) for task in range(TASKS)]
        support.close(found.inputs[layer], sum(a for a, _ in parts), 1e-10)
        support.close(found.outputs[layer], sum(s for _, s in parts), 1e-10)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_the_preconditioner_inverts_the_damped_kronecker_products(case, damping):
    params, obs, weights = case
    like = {name: value[0] for name, value in params.items()}
    found = kfac.factors(ARCH, forward(ARCH, layered(ARCH, params), obs), weights)
    apply = kfac.preconditioner(ARCH, [found], like, damping)
    vector = support.normal(40, flatten(like).numel())
    solved, given = unflatten(apply(vector), like), unflatten(vector, like)
    for layer in range(3):
        a, s = found.inputs[layer] / TASKS, found.outputs[layer] / TASKS
        pi = math.sqrt((a.trace() / len(a)) / (s.trace() / len(s)))
        a = a + pi * math.sqrt(damping) * torch.eye(len(a)).double()
        s = s + math.sqrt(damping) / pi * torch.eye(len(s)).double()
        names = f"layers.{layer}.weight", f"layers.{layer}.bias"
        right, left = (
            torch.cat([tree[names[0]], tree[names[1]].unsqueeze(1)], 1).mT.flatten()
            for tree in (given, solved)
        )
        support.close(torch.kron(a, s) @ left, right, 1e-8)
    support.close(solved["log_std"], given["log_std"] / (2.0 + damping), 1e-14)


def test_the_factors_of_chunks_add_up_to_those_of_all_tasks(case):
    params, obs, weights = case
    like = {name: value[0] for name, value in params.items()}

    def part(chosen):
        own = {name: value[chosen] for name, value in params.items()}
        return kfac.factors(ARCH, forward(ARCH, layered(ARCH, own), obs[chosen]), weights[chosen])

    whole = kfac.preconditioner(ARCH, [part(slice(None))], like, 0.1)
    parts = kfac.preconditioner(ARCH, [part(slice(i, i + 1)) for i in range(TASKS)], like, 0.1)
    vector = support.normal(41, flatten(like).numel())
    support.close(parts(vector), whole(vector), 1e-12)


@pytest.mark.parametrize(("episodes", "horizon"), [(20, 200), (20, 100)])
def test_the_states_that_are_used_are_of_every_time_step(episodes, horizon):
    """Those of a task stand one episode after another."""
    used = torch.arange(episodes * horizon)[:: kfac.STRIDE] % horizon
    assert len(used.unique()) == horizon
