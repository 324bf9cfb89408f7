"""What the matrix products of one Hessian-vector product cost: their operations, and their time alone.

For one task, B = N·T states, layer i of size s_i x s_{i+1} and K inner steps, the product Jᵀ F J v takes, of matrix
products of 2·B·s_i·s_{i+1} floating-point operations each,

=================  ==================================  =====================================
                   first layer                         every other layer
=================  ==================================  =====================================
J v, K steps       K forward, K weight                 2K forward, 2K weight, 2K backward
F (J v)            1 forward, 1 weight                 2 forward, 1 weight, 1 backward
Jᵀ (F J v)         K forward, K weight                 2K forward, 2K weight, 2K backward
=================  ==================================  =====================================

forward: weights x states; weight: derivatives x states, summed over the states; backward: transposed weights x
derivatives. The first layer has no input that moves, hence a third of the work. Adding biases and summing their
gradients is not counted, nor is what is done element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from measuring import rounds
from metarl.functional.tasks import Mapper
from metarl.kernels import passes

MKL, ONE_DNN = "MKL", "oneDNN"
SGEMM_SIZE = 1024


class Count(NamedTuple):
    """Matrix products of one layer in one Hessian-vector product of one task."""

    forward: int
    weight: int
    backward: int


def products(layer: int, inner_steps: int) -> Count:
    """How many products of each kind; see the table above."""
    k = inner_steps
    return Count(4 * k + 2, 4 * k + 1, 4 * k + 1) if layer else Count(2 * k + 1, 2 * k + 1, 0)


def operations(sizes: Sequence[int], states: int, inner_steps: int, tasks: int) -> int:
    """Floating-point operations of the matrix products of one Hessian-vector product."""
    per_state = sum(
        sum(products(layer, inner_steps)) * n * m for layer, (n, m) in enumerate(pairwise(sizes))
    )
    return 2 * tasks * states * per_state


def products_alone(
    sizes: Sequence[int], states: int, inner_steps: int, tasks: int, mapper: Mapper
) -> Callable[[], None]:
    """The matrix products of one Hessian-vector product, one by one and nothing else, results thrown away."""
    filled = lambda *shape: torch.full((1, *shape), 0.01)  # noqa: E731
    buffers = [
        (filled(states, n), filled(states, m), filled(m, n + 1), filled(n, m + 1))
        for n, m in pairwise(sizes)
    ]
    networks = [passes.Network("relu", (matrix,), (inputs,)) for inputs, _, matrix, _ in buffers]

    def one_task(_: int) -> None:
        for index, (inputs, deltas, matrix, turned) in enumerate(buffers):
            count = products(index, inner_steps)
            for _ in range(count.forward):
                passes.layer(matrix, inputs)
            for _ in range(count.weight):
                passes.backward(networks[index], deltas)
            for _ in range(count.backward):
                passes.layer(turned, deltas)

    def run() -> None:
        list(mapper(one_task, range(tasks)))

    return run


def libraries() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The libraries that torch has here, as functions of a ``[n, k]`` and b ``[k, m]``."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        MKL if torch.backends.mkl.is_available() else "torch": torch.mm
    }
    a, b = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(3, 4)
    try:  # an operation that is not part of torch's public interface
        if torch.equal(by_one_dnn(a, b), a @ b):
            found[ONE_DNN] = by_one_dnn
    except (AttributeError, RuntimeError, TypeError):
        pass
    return found


def by_one_dnn(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.mT, None, "none", [], "")
    return product


def sgemm(threads: int, mapper: Mapper, repeats: int) -> tuple[Callable[[], None], int]:
    """Large square products by the fastest library that torch has, and their floating-point operations.

    Each Python thread takes ``repeats`` of them.
    """
    matrices = [torch.full((SGEMM_SIZE, SGEMM_SIZE), 0.01) for _ in range(threads)]
    first = matrices[0]
    taken = rounds.interleave(
        {by: rounds.within(1, partial(by, first, first), repeats) for by in libraries().values()},
        3,
    )
    fastest = min(taken, key=lambda by: rounds.median(rounds.walls(taken[by])))

    def multiply(index: int) -> None:
        for _ in range(repeats):
            fastest(matrices[index], matrices[index])

    def run() -> None:
        list(mapper(multiply, range(threads)))

    return run, 2 * SGEMM_SIZE**3 * repeats * threads
