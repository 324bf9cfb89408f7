"""The supervised networks: stacked = vmap = loop in float64, and each against torch's own layers."""

from __future__ import annotations

import pytest
import support
import torch
from torch import nn
from torch.nn import functional

from metarl.data import Examples, Meta, MetaBatch
from metarl.functional import few_shot, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.few_shot import Rule
from metarl.functional.losses import LOSSES
from metarl.functional.params import flatten_meta, for_tasks
from metarl.functional.tasks import over_tasks
from metarl.nets.conv import Conv
from metarl.nets.layers import EPSILON, BatchNorm
from metarl.nets.mlp import MLP
from metarl.nets.recurrent import GRU

M = 3
NETS = {
    "mlp": (lambda g: MLP((2,), 3, (5, 4), generator=g), (2,)),
    "normalised mlp": (lambda g: MLP((1, 2, 2), 3, (5, 4), True, generator=g), (1, 2, 2)),
    "strided conv": (lambda g: Conv((1, 6, 6), 3, 4, 2, "stride", generator=g), (1, 6, 6)),
    "pooled conv": (lambda g: Conv((2, 5, 5), 3, 3, 2, "pool", generator=g), (2, 5, 5)),
    "gru": (lambda g: GRU((2,), 3, 4, g), (2,)),
}


def make(name):
    """A float64 network, none of whose parameters is zero, and the shape of its inputs."""
    build, shape = NETS[name]
    return support.perturbed(build(support.random_generator(0)), 0.2), shape


def forms(net):
    """``(params [C, ...], x [C, N, ...]) -> [C, N, ...]`` in every form there is."""
    call = lambda params, x: torch.func.functional_call(net, params, (x,))  # noqa: E731
    found = {
        name: lambda params, x, name=name: over_tasks(call, params, x, strategy=name)
        for name in ("loop", "vmap")
    }
    return found | ({"stacked": net.stacked} if hasattr(net, "stacked") else {})


def meta_gradient(net, shape, form, steps=5):
    """Loss and MAML's gradient by one form of the network."""
    theta = support.theta_of(net)
    rule = Rule(form, LOSSES["cross_entropy"], InnerUpdate(0.3))
    examples = [
        Examples(support.normal(seed, M, 6, *shape), torch.arange(6).expand(M, 6) % 3)
        for seed in (1, 2)
    ]
    batch, meta = MetaBatch((examples[0],) * steps, examples[1]), Meta(theta, {})
    stacked = few_shot.post_update(rule, [0.0] * steps + [1.0])
    found = objectives.by_parts(stacked, batch, meta, together=M).linearise(flatten_meta(meta))
    return found.outcome.loss, found.gradient


@pytest.mark.parametrize("name", NETS)
def test_every_form_gives_the_same_predictions_and_meta_gradient(name):
    net, shape = make(name)
    theta = {key: value.clone() for key, value in net.named_parameters()}
    params = {
        key: value + 0.1 * support.normal(7, *value.shape)
        for key, value in for_tasks(theta, M).items()
    }
    x = support.normal(5, M, 6, *shape)
    outputs = {form: call(params, x) for form, call in forms(net).items()}
    gradients = {form: meta_gradient(net, shape, call) for form, call in forms(net).items()}
    assert gradients["loop"][1].norm() > 1e-2
    for form, found in outputs.items():
        support.close(found, outputs["loop"], 1e-12)
        for part, expected in zip(gradients[form], gradients["loop"], strict=True):
            support.close(part, expected, 1e-12)


def standardised(x):
    """By the mean and the biased variance of every feature."""
    dims = (0, *range(2, x.ndim))
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt()


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 2)])
def test_normalisation_is_its_definition_and_torchs(shape):
    norm, x = BatchNorm(3).double(), support.normal(0, *shape)
    with torch.no_grad():
        norm.scale.copy_(support.normal(1, 3))
        norm.shift.copy_(support.normal(2, 3))
    expected = functional.batch_norm(
        x, None, None, norm.scale, norm.shift, training=True, eps=EPSILON
    )
    support.close(norm(x), expected, 1e-13)
    places = (3,) + (1,) * (x.ndim - 2)
    defined = standardised(x) * norm.scale.view(places) + norm.shift.view(places)
    support.close(norm(x), defined, 1e-13)


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_the_second_derivative_of_a_normalisation_is_that_of_its_definition(strategy):
    weight, x = (support.normal(seed, M, 5, 3, 4, 2) for seed in (0, 1))
    norm = BatchNorm(3).double()

    def bent(normalise):
        def inner(x, weight):
            return (normalise(x).relu() * weight).sum() + normalise(x).pow(3).mean()

        def outer(x, weight):
            moved = x
            for _ in range(5):
                moved = moved - 0.1 * torch.func.grad(inner)(moved, weight)
            return inner(moved, weight)

        return torch.func.grad(outer)

    found = over_tasks(bent(norm), x, weight, strategy=strategy)
    support.close(found, over_tasks(bent(standardised), x, weight, strategy="loop"), 1e-11)


def test_the_gru_is_torchs():
    net, _ = make("gru")
    theirs = nn.GRU(2, 4).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(net.inputs.weight)
        theirs.bias_ih_l0.copy_(net.inputs.bias)
        theirs.weight_hh_l0.copy_(net.state.weight)
        theirs.bias_hh_l0.copy_(net.state.bias)
    x = support.normal(3, 6, 2)
    support.close(net(x), net.head(theirs(x)[0]), 1e-13)


@pytest.mark.parametrize("name", ["strided conv", "pooled conv"])
def test_the_conv_net_is_its_definition(name):
    net, shape = make(name)
    x = hidden = support.normal(3, 6, *shape)
    stride = 2 if name == "strided conv" else 1
    for conv, norm in zip(net.convs, net.norms, strict=True):
        hidden = functional.conv2d(hidden, conv.weight, conv.bias, stride, padding=1)
        hidden = functional.batch_norm(
            hidden, None, None, norm.scale, norm.shift, training=True, eps=EPSILON
        )
        hidden = hidden.relu() if stride == 2 else functional.max_pool2d(hidden.relu(), 2)
    features = hidden.mean((2, 3)) if stride == 2 else hidden.reshape(6, -1)
    support.close(net(x), features @ net.head.weight.T + net.head.bias, 1e-12)


def test_the_papers_sizes():
    """The authors' nets: 64 filters at 28 x 28 have 64 features, 32 filters with pooling at 84 x 84 have 5 x 5 x 32."""
    omniglot, mini = Conv((1, 28, 28), 5), Conv((3, 84, 84), 5, 32, downsampling="pool")
    assert (omniglot.head.in_features, mini.head.in_features) == (64, 800)
    flat = MLP((1, 28, 28), 5, (256, 128, 64, 64), normalised=True)
    assert [layer.in_features for layer in flat.layers] == [784, 256, 128, 64, 64]
    assert [len(norm.scale) for norm in flat.norms] == [256, 128, 64, 64]


def test_initial_weights():
    net = MLP(
        (50,), 1, (400,), initialisation="truncated_normal", generator=support.random_generator(1)
    )
    weight = net.layers[0].weight.detach()
    assert weight.abs().max() <= 0.02
    # A standard normal cut at two deviations has the deviation 0.8796.
    assert float(weight.std()) == pytest.approx(0.01 * 0.8796, rel=0.02)
    assert all(not layer.bias.any() for layer in net.layers)
    xavier = MLP((50,), 1, (400,), generator=support.random_generator(1)).layers[0].weight.detach()
    bound = (6 / 450) ** 0.5
    assert 0.95 * bound < float(xavier.abs().max()) <= bound
    conv = Conv(
        (1, 8, 8), 5, initialisation="fan_in_uniform", generator=support.random_generator(1)
    )
    for layer, inputs in ((conv.convs[0], 9), (conv.convs[1], 9 * 64), (conv.head, 64)):
        assert 0.95 < float(layer.weight.detach().abs().max()) * inputs**0.5 <= 1.0
        assert not layer.bias.any()


@pytest.mark.parametrize("name", NETS)
def test_the_same_generator_gives_the_same_network_and_the_global_one_is_not_asked(name):
    before = torch.random.get_rng_state()
    one, two, other = (NETS[name][0](support.random_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
