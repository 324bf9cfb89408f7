"""A Gaussian MLP policy's parameters by layer: the form in which the closed forms compute.

Layer i has the matrix M_i = [W_i b_i] ``[C, out, in + 1]``: a bias is a column. Parameters, tangents and gradients all
have this form from the beginning of a product to its end; names come back where a result leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.data import Params
from metarl.functional.params import unflatten


class Architecture(NamedTuple):
    """What the closed forms must know of a policy besides its parameters.

    Attributes:
        depth: number of linear layers.
        activation: ``relu`` or ``tanh``.
        min_log_std: lower bound of log σ; below it the derivative in log σ is zero.
    """

    depth: int
    activation: str
    min_log_std: float


class Layered(NamedTuple):
    """Parameters of C policies, or what has their shapes.

    Attributes:
        matrices: M_i, ``[C, out, in + 1]``.
        log_std: log σ as it is learned, not yet bounded, ``[C, A]``.
    """

    matrices: tuple[Tensor, ...]
    log_std: Tensor

    def less(self, other: Layered, rate: float) -> Layered:
        """This − ``rate`` · ``other``: a gradient step, or the product with I − α ∇²L."""
        mine, its = [*self.matrices, self.log_std], [*other.matrices, other.log_std]
        # One call, as torch's own optimizers make it: threads hand the interpreter's lock over less often.
        *matrices, log_std = torch._foreach_sub(mine, its, alpha=rate)
        return Layered(tuple(matrices), log_std)

    def rows(self) -> Tensor:
        """All numbers, ``[C, P]``, layer after layer."""
        return torch.cat([*(each.flatten(1) for each in self.matrices), self.log_std], dim=1)

    def expand(self, count: int) -> Layered:
        """One policy's parameters for each of ``count`` tasks: views."""
        if count == 1:
            return self
        matrices = tuple(each.expand(count, -1, -1) for each in self.matrices)
        return Layered(matrices, self.log_std.expand(count, -1))


def concatenated(parts: Sequence[Layered]) -> Layered:
    """The parts' results ``[C_i, ...]``, one after the other along the task axis: ``[Σ C_i, ...]``."""
    matrices = zip(*(part.matrices for part in parts), strict=True)
    log_std = torch.cat([part.log_std for part in parts])
    return Layered(tuple(torch.cat(each) for each in matrices), log_std)


def layered(arch: Architecture, params: Params) -> Layered:
    """Named parameters ``[C, *shape]`` by layer."""
    names = [f"layers.{i}" for i in range(arch.depth)]
    matrices = (
        torch.cat([params[f"{name}.weight"], params[f"{name}.bias"].unsqueeze(2)], dim=2)
        for name in names
    )
    return Layered(tuple(matrices), params["log_std"])


def named(parts: Layered, like: Params) -> Params:
    """The inverse of :func:`layered`, in the order of ``like``."""
    found = {"log_std": parts.log_std}
    for i, matrix in enumerate(parts.matrices):
        found[f"layers.{i}.weight"], found[f"layers.{i}.bias"] = matrix[:, :, :-1], matrix[:, :, -1]
    return {name: found[name] for name in like}


class Order(NamedTuple):
    """From vectors ``[P]`` in the order of named parameters to layers, and back.

    Attributes:
        arch: the policy's architecture.
        like: names and shapes of one policy's parameters.
        places: where in :meth:`Layered.rows` each number of the vector is, ``[P]``.
    """

    arch: Architecture
    like: Params
    places: Tensor

    def layers(self, vector: Tensor) -> Layered:
        """A vector ``[P]`` by layer, C = 1."""
        params = unflatten(vector, self.like)
        return layered(self.arch, {name: value.unsqueeze(0) for name, value in params.items()})

    def vector(self, rows: Tensor) -> Tensor:
        """Rows ``[..., P]`` of :meth:`Layered.rows` in the order of ``like``."""
        return rows[..., self.places]


def order(arch: Architecture, like: Params) -> Order:
    """The order of a policy's parameters."""
    count = sum(value.numel() for value in like.values())
    numbers = torch.arange(count, device=next(iter(like.values())).device)
    itself = Order(arch, like, numbers)
    return Order(arch, like, torch.argsort(itself.layers(numbers).rows()[0]))


def log_std(arch: Architecture, params: Layered) -> Tensor:
    """log σ, bounded below, ``[C, A]``."""
    return params.log_std.clamp(min=arch.min_log_std)


def free(arch: Architecture, params: Layered) -> Tensor:
    """1 where log σ is not below its bound, else 0: its derivative, ``[C, A]``."""
    return (params.log_std >= arch.min_log_std).to(params.log_std.dtype)
