"""Every implementation of the kernels gives what autograd gives, to the rounding of its type."""

from __future__ import annotations

from itertools import pairwise

import pytest
import support
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.functional import closed_form, gaussian
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten
from metarl.functional.pool import make_pool
from metarl.kernels import gaussians, passes

ERROR = {torch.float32: 2e-5, torch.float64: 1e-13}
# States around the ends of a strip; widths around those of vectors, of both types and all sets.
SHAPES = [
    (1, (1, 1)),
    (5, (3, 2)),
    (97, (20, 64, 64, 6)),
    (192, (17, 33, 6)),
    (200, (2, 100, 100, 1)),
    (95, (5, 16, 15, 8, 31, 4)),
]


@pytest.fixture(params=[torch.float32, torch.float64])
def dtype(request):
    return request.param


def agree(found: object, expected: object, dtype: torch.dtype) -> None:
    """Both trees, by the largest number of each of their tensors."""
    one, other = pytree.tree_leaves(found), pytree.tree_leaves(expected)
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype is dtype
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= ERROR[dtype] * max(1.0, float(b.abs().max()))


class Case:
    """A network of C policies, float64 and as the kernels take it, and directions to move it along."""

    def __init__(self, count: int, states: int, sizes: tuple[int, ...], activation: str) -> None:
        made = iter(range(100))
        new = lambda *shape: support.normal(next(made), count, *shape)  # noqa: E731
        self.activation, self.obs = activation, new(states, sizes[0])
        self.matrices = [new(m, n + 1) / (n + 1) ** 0.5 for n, m in pairwise(sizes)]
        self.tangents = [new(m, n + 1) / (n + 1) ** 0.5 for n, m in pairwise(sizes)]
        self.top, self.top_moved = new(states, sizes[-1]), new(states, sizes[-1])

    def layers(self, *matrices: Tensor) -> tuple[Tensor, ...]:
        """Every layer's output, by its definition."""
        outputs, x = [], self.obs
        for i, matrix in enumerate(matrices):
            z = torch.einsum("coi,cbi->cbo", matrix[:, :, :-1], x) + matrix[:, None, :, -1]
            x = z if i + 1 == len(matrices) else getattr(torch, self.activation)(z)
            outputs.append(x)
        return tuple(outputs)

    def gradients(self, matrices: list[Tensor], top: Tensor) -> tuple[Tensor, ...]:
        """Of Σ top ⊙ mean in every matrix."""
        loss = lambda given: (top * self.layers(*given)[-1]).sum()  # noqa: E731
        return tuple(torch.func.grad(loss)(matrices))

    def network(self, dtype: torch.dtype) -> passes.Network:
        inputs = self.obs, *self.layers(*self.matrices)[:-1]
        given = self.activation, tuple(self.matrices), inputs
        return passes.Network(*pytree.tree_map(lambda leaf: cast(leaf, dtype), given))


def cast(tree, dtype: torch.dtype):
    return pytree.tree_map(lambda leaf: leaf.to(dtype) if torch.is_tensor(leaf) else leaf, tree)


@pytest.fixture(params=["relu", "tanh"])
def activation(request):
    return request.param


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("states", "sizes"), SHAPES)
def test_passes_are_those_of_autograd(kernels, dtype, activation, states, sizes, count):
    case = Case(count, states, sizes, activation)
    network, tangents = case.network(dtype), cast(case.tangents, dtype)
    top, top_moved = cast((case.top, case.top_moved), dtype)

    x = network.inputs[0]
    for i, expected in enumerate(case.layers(*case.matrices)):
        last = i + 1 == len(case.matrices)
        x = passes.layer(network.matrices[i], x, None if last else activation)
        agree(x, expected, dtype)

    _, along = torch.func.jvp(case.layers, tuple(case.matrices), tuple(case.tangents))
    moved = passes.forward_moved(network, tangents)
    agree(moved, along, dtype)

    gradients, carried = passes.taped_backward(network, top)
    agree(gradients, case.gradients(case.matrices, case.top), dtype)
    assert all(map(torch.equal, gradients, passes.backward(network, top)))

    given = (case.matrices, case.top), (case.tangents, case.top_moved)
    _, expected = torch.func.jvp(case.gradients, *given)
    found = passes.backward_moved(network, tangents, top, carried, moved[:-1], top_moved)
    agree(found, expected, dtype)


def test_parameters_may_be_views_of_one_policys(kernels, dtype, activation):
    case = Case(3, 50, (4, 7, 2), activation)
    case.matrices = [each[:1].expand(3, -1, -1) for each in case.matrices]
    found = passes.backward(case.network(dtype), cast(case.top, dtype))
    agree(found, case.gradients(case.matrices, case.top), dtype)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_its_state(kernels, dtype, activation, bad):
    case = Case(1, 30, (4, 9, 2), activation)
    obs = cast(case.obs, dtype)
    obs[0, 7, 1] = bad
    z = passes.layer(cast(case.matrices[0], dtype), obs)
    touched = ~z.isfinite().all(2)[0]
    assert touched.nonzero().tolist() == [[7]]
    hidden = passes.layer(cast(case.matrices[0], dtype), obs, activation)
    assert torch.equal(hidden.isnan(), z.isnan())


def of_actions(dtype: torch.dtype, count: int, states: int, actions: int) -> tuple[Tensor, ...]:
    """Actions, two means, two log σ, weights; and directions of a mean, log σ and weights."""
    shapes = *[(states, actions)] * 3, (actions,), (actions,), (states,)
    moved = (states, actions), (actions,), (states,)
    return tuple(
        0.5 * support.normal(200 + i, count, *shape) for i, shape in enumerate(shapes + moved)
    )


@pytest.mark.parametrize(("states", "actions"), [(1, 1), (40, 6), (97, 17)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_gaussians_derivatives_are_those_of_autograd(kernels, dtype, count, states, actions):
    given = of_actions(dtype, count, states, actions)
    taken, mean, _, log_std, _, weights, mean_moved, log_std_moved, weights_moved = given

    def log_prob(mean, log_std):
        return gaussian.log_prob(taken, mean, log_std[:, None])

    def gradients(mean, log_std, weights):
        loss = lambda *at: (weights * log_prob(*at)).sum()  # noqa: E731
        return torch.func.grad(loss, argnums=(0, 1))(mean, log_std)

    seen = cast((taken, mean, (-log_std).exp(), weights), dtype)
    *found, score = gaussians.taped_likelihood(*seen)
    agree(found, gradients(mean, log_std, weights), dtype)
    assert all(map(torch.equal, found, gaussians.likelihood(*seen)))

    along = cast((mean_moved, log_std_moved), dtype)
    _, expected = torch.func.jvp(log_prob, (mean, log_std), (mean_moved, log_std_moved))
    agree(gaussians.log_prob_moved(score, *along), expected, dtype)

    at = (mean, log_std, weights), (mean_moved, log_std_moved, weights_moved)
    _, expected = torch.func.jvp(gradients, *at)
    moved = gaussians.likelihood_moved(score, found[0], cast(weights_moved, dtype), *along)
    agree(moved, expected, dtype)


@pytest.mark.parametrize("count", [1, 3])
def test_policies_are_compared_by_the_ratio_of_their_densities_and_their_divergence(
    kernels, dtype, count
):
    taken, mean, other, log_std, other_std, *_ = of_actions(dtype, count, 97, 6)
    old, new = (mean, log_std[:, None]), (other, other_std[:, None])
    expected = (
        gaussian.log_prob(taken, *new) - gaussian.log_prob(taken, *old),
        gaussian.kl(*old, *new),
    )
    agree(
        gaussians.compared(*cast((taken, mean, log_std, other, other_std), dtype)), expected, dtype
    )
    same = cast((taken, mean, log_std, mean, log_std), dtype)
    assert not any(each.any() for each in gaussians.compared(*same))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_activations_are_right_to_the_last_places(activation, dtype):
    z = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([0.0, -1e-8, 1e-30])]).to(dtype)
    expected = getattr(torch, activation)(z.double())
    written = z.clone()
    assert passes.IN_PLACE[activation](written) is written
    error = (written.double() - expected).abs()
    assert bool((error <= 4 * torch.finfo(dtype).eps * expected.abs()).all())


def test_products_with_the_curvature_in_float32_are_those_in_float64(kernels, activation):
    policy = support.make_policy(activation, (5, 32, 24, 3))
    theta = {name: value.detach() for name, value in support.theta_of(policy).items()}
    batch = support.sample_batch(policy, theta, 2, 0.1, 2, 5, 20)
    direction = support.normal(9, len(flatten(theta)))
    found = []
    for dtype in (torch.float32, torch.float64):
        params, data, vector = cast((theta, batch, direction), dtype)
        chosen = ESTIMATORS["lvc"], InnerUpdate(0.1)
        arch = support.architecture(policy)
        objective = closed_form.objective(arch, *chosen, data, params)
        start = objective.linearise(flatten(params))
        found.append((start.gradient, start.curvature(vector)))
    for single, double in zip(*found, strict=True):
        assert single.dtype is torch.float32
        assert float((single - double).norm() / double.norm()) < 1e-5


@pytest.mark.parametrize("kept", [0, None])
def test_threads_and_what_is_kept_change_no_bit_at_the_size_of_a_half_cheetah(
    kernels, activation, kept
):
    """In threads that have done nothing before, which take over torch's number of threads inside a product."""
    policy = support.make_policy(activation, (20, 100, 100, 6))
    theta = {name: value.detach() for name, value in support.theta_of(policy).items()}
    batch = support.sample_batch(policy, theta, 1, 0.1, 2, 5, 100)
    params, data = cast((theta, batch), torch.float32)
    direction = support.normal(9, len(flatten(params))).float()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = make_pool(2)
    try:
        found = []
        for mapper, number in ((map, None), (pool.map, kept)):
            objective = closed_form.objective(
                *(support.architecture(policy), ESTIMATORS["lvc"], InnerUpdate(0.1)),
                *(data, params, mapper, 1, number),
            )
            start = objective.linearise(flatten(params))
            outcome = objective.evaluate(flatten(params) + 0.01)
            found.append((start.gradient, start.curvature(direction), outcome.loss, outcome.kl))
    finally:
        torch.set_num_threads(before)
        pool.shutdown()
    assert all(map(torch.equal, *found))
