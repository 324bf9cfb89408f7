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

from metarl.kernels.compiled import require_shapes, room_like, serving

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
        count, states = self.inputs[0].shape[:2]
        widths = *(each.shape[2] for each in self.inputs), self.matrices[-1].shape[1]
        layers = [(count, states, size) for size in widths[:-1]]
        require_shapes("network", "inputs", self.inputs, layers)
        matrices = [(count, out, size + 1) for size, out in pairwise(widths)]
        require_shapes("network", "matrices", self.matrices, matrices)
        return states, len(self.matrices), int(self.activation == "tanh"), *widths


def layer(matrix: Tensor, x: Tensor, activation: str | None = None) -> Tensor:
    """a(W x + b) ``[C, B, out]`` of the inputs x ``[C, B, in]``; no activation: the identity."""
    (count, states, size), out = x.shape, matrix.shape[1]
    require_shapes("layer", "matrix", [matrix], [(count, out, size + 1)])
    if library := serving(x):
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
    (activation, matrices, inputs), sizes = network, network.sizes()
    require_shapes("forward_moved", "tangents", tangents, _shapes(matrices))
    if library := serving(inputs[0]):
        moved = *_rooms(inputs[1:]), inputs[0].new_empty(_top_shape(network))
        library.call("forward_moved", sizes, (*inputs, *matrices, *tangents), moved)
        return moved
    found: list[Tensor] = []
    for i, (tangent, x) in enumerate(zip(tangents, inputs, strict=True)):
        z = _affine(tangent, x)
        if found:
            z.baddbmm_(found[-1], matrices[i][:, :, :-1].mT)
        found.append(z if i + 1 == len(matrices) else _slope(activation, z, inputs[i + 1]))
    return tuple(found)


def backward(network: Network, top: Tensor) -> Tensors:
    """The gradient of every M_i, Σ_b δ_i [x_i 1]ᵀ ``[C, out, in + 1]``, with δ_{i−1} = a'(z_{i−1}) ⊙ W_iᵀ δ_i.

    Args:
        network: the network.
        top: δ_{depth−1}, ``[C, B, out]``.
    """
    sizes = network.sizes()
    require_shapes("backward", "top", [top], [_top_shape(network)])
    if library := serving(top):
        gradients, given = _rooms(network.matrices), (*network.inputs, *network.matrices, top)
        nothing = (None,) * (len(network.matrices) - 1)
        library.call("backward", sizes, given, (*nothing, *gradients))
        return gradients
    return _backward(network, top)[0]


def taped_backward(network: Network, top: Tensor) -> tuple[Tensors, Tensors]:
    """:func:`backward`, to the same bits, and all W_iᵀ δ_i but the lowest, ``[C, B, in]``, for the next function."""
    sizes = network.sizes()
    require_shapes("taped_backward", "top", [top], [_top_shape(network)])
    if library := serving(top):
        gradients, carried = _rooms(network.matrices), _rooms(network.inputs[1:])
        given = *network.inputs, *network.matrices, top
        library.call("backward", sizes, given, (*carried, *gradients))
        return gradients, carried
    return _backward(network, top)


def backward_moved(
    network: Network,
    tangents: Tensors,
    top: Tensor,
    carried: Tensors,
    moved: Sequence[Tensor],
    top_moved: Tensor,
) -> Tensors:
    """How every gradient moves: Σ_b δ̇_i [x_i 1]ᵀ + δ_i [ẋ_i 0]ᵀ.

    With δ̇_{i−1} = a'(z_{i−1}) ⊙ (Ẇ_iᵀ δ_i + W_iᵀ δ̇_i) + a''(z_{i−1}) ⊙ ż_{i−1} ⊙ W_iᵀ δ_i, where for tanh
    a''(z) ż = −2 x_i ẋ_i, and for relu a'' = 0.

    Args:
        network: the network.
        tangents: Ṁ_i.
        top: δ_{depth−1}.
        carried: W_iᵀ δ_i, of :func:`taped_backward`.
        moved: ẋ_1 .. ẋ_{depth−1}.
        top_moved: δ̇_{depth−1}.
    """
    (activation, matrices, inputs), sizes = network, network.sizes()
    hidden, tops = _shapes(inputs[1:]), [_top_shape(network)] * 2
    require_shapes("backward_moved", "tangents", tangents, _shapes(matrices))
    require_shapes("backward_moved", "top and top_moved", (top, top_moved), tops)
    require_shapes("backward_moved", "carried", carried, hidden)
    require_shapes("backward_moved", "moved", moved, hidden)
    if library := serving(top_moved):
        products = _rooms(matrices)
        given = *inputs, *matrices, top, *carried, *tangents, *moved, top_moved
        library.call("backward_moved", sizes, given, products)
        return products
    delta, delta_moved, found = top, top_moved, []
    for i in reversed(range(1, len(matrices))):
        x, x_moved, back = inputs[i], moved[i - 1], carried[i - 1]
        found.append(_gradient(delta_moved, x))
        found[-1][:, :, :-1].baddbmm_(delta.mT, x_moved)
        below = torch.bmm(delta, tangents[i][:, :, :-1])
        below.baddbmm_(delta_moved, matrices[i][:, :, :-1])
        delta, delta_moved = _slope(activation, back, x), _slope(activation, below, x)
        if activation == "tanh":
            delta_moved.addcmul_(x * back, x_moved, value=-2.0)
    return _gradient(delta_moved, inputs[0]), *reversed(found)


def _shapes(tensors: Sequence[Tensor]) -> list[torch.Size]:
    return [each.shape for each in tensors]


def _rooms(tensors: Sequence[Tensor]) -> Tensors:
    return tuple(map(room_like, tensors))


def _top_shape(network: Network) -> tuple[int, ...]:
    return *network.inputs[0].shape[:2], network.matrices[-1].shape[1]


def _backward(network: Network, top: Tensor) -> tuple[Tensors, Tensors]:
    delta = top
    gradients: list[Tensor] = []
    carried: list[Tensor] = []
    for i in reversed(range(1, len(network.matrices))):
        gradients.insert(0, _gradient(delta, network.inputs[i]))
        carried.insert(0, torch.bmm(delta, network.matrices[i][:, :, :-1]))
        delta = _slope(network.activation, carried[0], network.inputs[i])
    return (_gradient(delta, network.inputs[0]), *gradients), tuple(carried)


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
"""Activations that write over what they are given. On a CPU NumPy's tanh takes a tenth of torch's time."""


def _slope(activation: str, z: Tensor, output: Tensor) -> Tensor:
    """a'(z) ⊙ ``z``, with a'(z) read off the output a(z)."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(z, output, 0.0)
    return torch.ops.aten.tanh_backward(z, output)
