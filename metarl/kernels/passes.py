"""A layer, the way back through a network of layers, and how both move along a direction.

Layer i of a network has the inputs x_i ``[C, B, in]``, the observations at first, and parameters M_i = [W_i b_i]
``[C, out, in + 1]``: x_{i+1} = a(z_i) with z_i = W_i x_i + b_i, and no activation at the top. δ_i is a loss's
derivative in z_i; a dot over a symbol is its derivative along the tangents Ṁ_i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.kernels.compiled import room_like, serving

Tensors = tuple[Tensor, ...]


class Network(NamedTuple):
    """What the passes take of a network and a forward pass of it.

    Attributes:
        activation: a, ``tanh`` or ``relu``.
        matrices: M_i.
        inputs: x_i.
    """

    activation: str
    matrices: Tensors
    inputs: Tensors

    def sizes(self) -> tuple[int, ...]:
        """The states, the depth, whether the activation is tanh, and the sizes of the layers.

        Raises:
            ValueError: they do not fit each other.
        """
        states, depth, tanh = self.inputs[0].shape[1], len(self.matrices), self.activation == "tanh"
        widths = *(each.shape[2] for each in self.inputs), self.matrices[-1].shape[1]
        shapes = [tuple(each.shape[1:]) for each in self.matrices]
        if shapes != [(out, size + 1) for size, out in pairwise(widths)]:
            raise ValueError(f"matrices of shapes {shapes} do not fit layers of sizes {widths}")
        return states, depth, int(tanh), *widths


def layer(matrix: Tensor, x: Tensor, activation: str | None = None) -> Tensor:
    """a(W x + b) ``[C, B, out]`` of the inputs x ``[C, B, in]``; no activation: the identity."""
    if library := serving(x):
        (count, states, size), out = x.shape, matrix.shape[1]
        z, relu = x.new_empty(count, states, out), activation == "relu"
        library.call("layer", (states, size, out, int(relu)), (x, matrix), (z,))
        if relu:
            return z
    else:
        z = _affine(matrix, x)
    return z if activation is None else IN_PLACE[activation](z)


def forward_moved(network: Network, tangents: Tensors) -> Tensors:
    """How every layer moves: ẋ_{i+1} = a'(z_i) ⊙ (Ẇ_i x_i + ḃ_i + W_i ẋ_i), with no a' at the top, ``[C, B, out]``.

    Args:
        network: the network.
        tangents: Ṁ_i.
    """
    activation, matrices, inputs = network
    if library := serving(inputs[0]):
        moved = *_rooms(inputs[1:]), _top_of(network)
        library.call("forward_moved", network.sizes(), (*inputs, *matrices, *tangents), moved)
        return moved
    found: list[Tensor] = []
    for i, (tangent, x) in enumerate(zip(tangents, inputs, strict=True)):
        z = _affine(tangent, x)
        if found:
            z.baddbmm_(found[-1], matrices[i][:, :, :-1].mT)
        found.append(z if i + 1 == len(matrices) else _through(activation, z, inputs[i + 1]))
    return tuple(found)


def backward(network: Network, top: Tensor) -> Tensors:
    """The gradient of every M_i, Σ_b δ_i [x_i 1]ᵀ ``[C, out, in + 1]``, with δ_{i−1} = a'(z_{i−1}) ⊙ W_iᵀ δ_i.

    Args:
        network: the network.
        top: δ_{depth−1}, ``[C, B, out]``.
    """
    depth = len(network.matrices)
    if library := serving(top):
        gradients, given = _rooms(network.matrices), (*network.inputs, *network.matrices, top)
        library.call("backward", network.sizes(), given, (*(None,) * 2 * (depth - 1), *gradients))
        return gradients
    return _backward(network, top, bent=False)[0]


def taped_backward(network: Network, top: Tensor) -> tuple[Tensors, Tensors, Tensors]:
    """:func:`backward`, to the same bits, and what :func:`backward_moved` needs.

    Returns:
        The gradients; all δ_i; and for tanh the bends −2 x_i ⊙ W_iᵀ δ_i at i = 1 .. depth−1, which ẋ_i is multiplied
        with, as a''(z) ż = −2 a(z) ẋ. For relu, whose a'' is zero, there are none.
    """
    if library := serving(top):
        gradients, hidden = _rooms(network.matrices), network.inputs[1:]
        given, deltas = (*network.inputs, *network.matrices, top), _rooms(hidden)
        bends = _rooms(hidden) if network.activation == "tanh" else ()
        made = *deltas, *(bends or (None,) * len(hidden)), *gradients
        library.call("backward", network.sizes(), given, made)
        return gradients, (*deltas, top), bends
    return _backward(network, top, bent=network.activation == "tanh")


def backward_moved(
    network: Network,
    tangents: Tensors,
    deltas: Tensors,
    bends: Tensors,
    moved: Sequence[Tensor],
    top_moved: Tensor,
) -> Tensors:
    """How every gradient moves: Σ_b δ̇_i [x_i 1]ᵀ + δ_i [ẋ_i 0]ᵀ.

    With δ̇_{i−1} = a'(z_{i−1}) ⊙ (Ẇ_iᵀ δ_i + W_iᵀ δ̇_i) + bend_i ⊙ ẋ_i.

    Args:
        network: the network.
        tangents: Ṁ_i.
        deltas: δ_i.
        bends: of :func:`taped_backward`.
        moved: ẋ_1 .. ẋ_{depth−1}.
        top_moved: δ̇_{depth−1}.
    """
    activation, matrices, inputs = network
    if library := serving(top_moved):
        products, none = _rooms(matrices), (None,) * len(moved)
        given = *inputs, *matrices, *deltas, *tangents, *(bends or none), *moved, top_moved
        library.call("backward_moved", network.sizes(), given, products)
        return products
    delta_moved, found = top_moved, []
    for i in reversed(range(1, len(matrices))):
        found.append(_gradient(delta_moved, inputs[i]))
        found[-1][:, :, :-1].baddbmm_(deltas[i].mT, moved[i - 1])
        below = torch.bmm(deltas[i], tangents[i][:, :, :-1])
        below.baddbmm_(delta_moved, matrices[i][:, :, :-1])
        delta_moved = _through(activation, below, inputs[i])
        if bends:
            delta_moved.addcmul_(bends[i - 1], moved[i - 1])
    return _gradient(delta_moved, inputs[0]), *reversed(found)


def _rooms(tensors: Sequence[Tensor]) -> Tensors:
    return tuple(map(room_like, tensors))


def _top_of(network: Network) -> Tensor:
    last = network.inputs[-1]
    return last.new_empty(*last.shape[:2], network.matrices[-1].shape[1])


def _backward(network: Network, top: Tensor, bent: bool) -> tuple[Tensors, Tensors, Tensors]:
    deltas: list[Tensor] = [top]
    bends: list[Tensor] = []
    for i in reversed(range(1, len(network.matrices))):
        below, x = torch.bmm(deltas[0], network.matrices[i][:, :, :-1]), network.inputs[i]
        if bent:
            bends.insert(0, (x * below).mul_(-2.0))
        deltas.insert(0, _through(network.activation, below, x))
    gradients = tuple(map(_gradient, deltas, network.inputs))
    return gradients, tuple(deltas), tuple(bends)


def _affine(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.baddbmm(matrix[:, :, -1].unsqueeze(1), x, matrix[:, :, :-1].mT)


def _gradient(delta: Tensor, x: Tensor) -> Tensor:
    return torch.cat([torch.bmm(delta.mT, x), delta.sum(1).unsqueeze(2)], dim=2)


def _tanh(z: Tensor) -> Tensor:
    if not z.is_cpu:
        return torch.tanh_(z)
    np.tanh(z.numpy(), out=z.numpy())
    return z


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": _tanh}
"""Activations that write over what they are given. NumPy's tanh takes a twelfth of the time of torch's on a CPU."""


def _through(activation: str, z: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ ``z``, over it, with a'(z) read off the output a(z)."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward.grad_input(z, output, 0.0, grad_input=z)
    return torch.ops.aten.tanh_backward.grad_input(z, output, grad_input=z)
