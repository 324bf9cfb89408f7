"""The Gaussian policy: three ways to run it agree, and it starts as it should."""

from __future__ import annotations

import math

import pytest
import support
import torch
from torch.func import functional_call, vmap

from metarl.functional.params import for_tasks
from metarl.nets.gaussian_mlp import GaussianMLP

M, B = 4, 7


def policies(activation, sizes, count=M):
    return [support.make_policy(activation, sizes, seed=seed) for seed in range(count)]


@pytest.mark.parametrize("sizes", [(3, 5, 4, 2), (3, 2), (1, 6, 1)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_stacked_equals_vmap_equals_the_loop(activation, sizes):
    modules = policies(activation, sizes)
    obs = support.normal(1, M, B, sizes[0])
    stacked = support.stack([support.theta_of(module) for module in modules])
    loop = support.stack([module(x) for module, x in zip(modules, obs, strict=True)])
    mapped = vmap(lambda params, x: functional_call(modules[0], params, (x,)))(stacked, obs)
    fused = modules[0].stacked(stacked, obs)
    for found in (mapped, fused):
        assert found[0].shape == (M, B, sizes[-1])
        assert found[1].shape == (M, sizes[-1])
        for one, other in zip(found, loop, strict=True):
            support.close(one, other, 1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_forward_equals_the_layers_written_out(activation):
    policy = support.make_policy(activation)
    theta, obs = support.theta_of(policy), support.normal(1, B, 3)
    bend = {"relu": lambda z: z * (z > 0), "tanh": lambda z: 1 - 2 / ((2 * z).exp() + 1)}[
        activation
    ]
    hidden = obs
    for i in range(3):
        hidden = hidden @ theta[f"layers.{i}.weight"].T + theta[f"layers.{i}.bias"]
        hidden = bend(hidden) if i < 2 else hidden
    support.close(policy(obs)[0], hidden, 1e-13)


def test_stacked_takes_parameters_that_are_views():
    policy = support.make_policy()
    theta, obs = support.theta_of(policy), support.normal(1, M, B, 3)
    support.close(policy.stacked(for_tasks(theta, M), obs)[0], policy(obs)[0], 1e-12)


def test_the_standard_deviation_has_a_floor_and_there_no_derivative():
    policy = support.make_policy(min_std=0.5)
    policy.log_std.copy_(torch.tensor([-5.0, 0.25]))
    policy.log_std.requires_grad_()
    log_std = policy(support.normal(0, B, 3))[1]
    support.close(log_std, torch.tensor([math.log(0.5), 0.25], dtype=support.DOUBLE), 1e-15)
    (gradient,) = torch.autograd.grad(log_std.sum(), policy.log_std)
    assert gradient.tolist() == [0.0, 1.0]


def test_initial_weights_are_xavier_uniform_biases_zero_and_the_deviation_as_asked():
    policy = GaussianMLP(30, 4, (200, 100), initial_std=0.7, generator=support.random_generator(0))
    for layer in policy.layers:
        bound = math.sqrt(6.0 / (layer.in_features + layer.out_features))
        weight, count = layer.weight.detach(), layer.weight.numel()
        assert weight.abs().max() <= bound
        # The mean of |U(−b, b)| is b/2, its standard deviation b/√12.
        assert abs(weight.abs().mean() - bound / 2) < 5 * bound / math.sqrt(12 * count)
        assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * count)
        assert not layer.bias.any()
    support.close(policy.log_std.exp(), torch.full((4,), 0.7), 1e-6)


def test_initial_weights_depend_on_the_generator_alone():
    first, second = (GaussianMLP(3, 2, generator=support.random_generator(5)) for _ in range(2))
    third = GaussianMLP(3, 2, generator=support.random_generator(6))
    for name, value in first.named_parameters():
        assert torch.equal(value, dict(second.named_parameters())[name])
    assert not torch.equal(first.layers[0].weight, third.layers[0].weight)


def test_making_a_policy_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    GaussianMLP(3, 2, generator=support.random_generator(6))
    assert torch.equal(torch.get_rng_state(), state)


def test_its_parameters_bear_the_documented_names():
    names = [name for name, _ in GaussianMLP(3, 2, (5,)).named_parameters()]
    assert set(names) == {
        "log_std", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
    }  # fmt: skip
