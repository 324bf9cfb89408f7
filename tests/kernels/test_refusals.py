"""Kernels take no tensors that do not fit: by the library they would read other memory than theirs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from instruction_sets import BEST
from torch.utils import _pytree as pytree

from metarl.kernels import gaussians, passes

SIZES = (4, 3, 3, 2)


def ones(*shape):
    return torch.ones(2, *shape)


@pytest.fixture
def network():
    matrices = tuple(ones(out, size + 1) for size, out in pairwise(SIZES))
    return passes.Network("tanh", matrices, tuple(ones(5, size) for size in SIZES[:-1]))


@pytest.mark.skipif(BEST is None, reason="needs the compiled library")
def test_the_library_takes_constants_of_one_type_as_they_lie_in_order():
    x, matrix = ones(5, 3), ones(4, 4)
    expected = passes.layer(matrix, x)
    assert torch.equal(passes.layer(ones(4, 8)[:, :, ::2], ones(3, 5).mT), expected)
    with pytest.raises(ValueError, match=r"layer: not one of 2 tasks' .* constants"):
        passes.layer(matrix.double(), x)
    with pytest.raises(ValueError, match="2 tasks"):
        BEST.call("layer", (5, 3, 4, 0), (x, matrix[:1]), (ones(5, 4),))
    with pytest.raises(ValueError, match="constants"):
        passes.layer(matrix.clone().requires_grad_(), x)
    with torch.no_grad():
        assert torch.equal(passes.layer(matrix.clone().requires_grad_(), x), expected)
    with pytest.raises(ValueError, match="constants"):
        BEST.call("layer", (5, 3, 4, 0), (x, matrix), (ones(4, 5).mT,))


def test_a_layer_fits_its_inputs(kernels):
    for matrix in (ones(4, 3), ones(4, 4)[:1]):
        with pytest.raises(ValueError, match=r"layer: matrix .* where \[\(2, 4, 4\)\] are needed"):
            passes.layer(matrix, ones(5, 3))


def test_matrices_and_inputs_of_a_network_fit_each_other(kernels, network):
    other_task = tuple(each[:1] for each in network.matrices)
    narrower = network.matrices[0][:, :, 1:], *network.matrices[1:]
    fewer_states = network.inputs[0][:, 1:], *network.inputs[1:]
    for wrong, what in (
        (network._replace(matrices=other_task), "matrices"),
        (network._replace(matrices=narrower), "matrices"),
        (network._replace(inputs=fewer_states), "inputs"),
    ):
        for call, given in (
            (passes.forward_moved, wrong.matrices),
            (passes.backward, ones(5, 2)),
            (passes.taped_backward, ones(5, 2)),
        ):
            with pytest.raises(ValueError, match=f"network: {what} of shapes .* are needed"):
                call(wrong, given)


def test_what_goes_through_a_network_fits_it(kernels, network):
    tangents, top = network.matrices, ones(5, 2)
    moved = passes.forward_moved(network, tangents)[:-1]
    _, carried = passes.taped_backward(network, top)
    with pytest.raises(ValueError, match=r"^forward_moved: tangents of shapes .* are needed"):
        passes.forward_moved(network, tangents[:-1])
    for back in (passes.backward, passes.taped_backward):
        with pytest.raises(ValueError, match=f"^{back.__name__}: top of shapes .* are needed"):
            back(network, top[:, 1:])
    given = {"tangents": tangents, "top": top, "carried": carried, "moved": moved, "top_moved": top}
    passes.backward_moved(network, **given)
    for what, each in given.items():
        wrong = each[:, 1:] if isinstance(each, torch.Tensor) else each[:-1]
        with pytest.raises(
            ValueError, match=f"^backward_moved: .*{what}.* of shapes .* are needed"
        ):
            passes.backward_moved(network, **given | {what: wrong})


def test_what_is_made_of_gaussians_fits_their_states(kernels):
    mean, by_state, std = ones(5, 4), ones(5), ones(4)
    score = gaussians.taped_likelihood(mean, mean, std, by_state)[2]
    for call, given in (
        (gaussians.likelihood, (mean, mean, std, by_state)),
        (gaussians.taped_likelihood, (mean, mean, std, by_state)),
        (gaussians.compared, (mean, mean, std, mean, std)),
        (gaussians.log_prob_moved, (score._replace(precision=None, spread=None), mean, std)),
        (gaussians.likelihood_moved, (score, mean, by_state, mean, std)),
    ):
        call(*given)
        leaves, structure = pytree.tree_flatten(given)
        for index, leaf in enumerate(leaves):
            if leaf is not None:
                wrong = [*leaves[:index], leaf[:, 1:], *leaves[index + 1 :]]
                with pytest.raises(ValueError, match=rf"^{call.__name__}: \[.* are needed"):
                    call(*pytree.tree_unflatten(wrong, structure))
