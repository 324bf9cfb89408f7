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
derivatives. The first layer has no input that moves, hence a third of the work. A bias is one more column of the
weights in 2K + 1 of the forward and as many of the weight products. Each of the 2K products with the inner Hessian
multiplies the action's A numbers at every state with a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from metarl import kernels
from metarl.functional.tasks import Mapper

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
        sum(products(layer, inner_steps)) * n * m + 2 * (2 * inner_steps + 1) * m
        for layer, (n, m) in enumerate(pairwise(sizes))
    )
    return 2 * tasks * states * (per_state + 2 * inner_steps * sizes[-1])


def products_alone(
    sizes: Sequence[int], states: int, inner_steps: int, tasks: int, mapper: Mapper
) -> Callable[[], None]:
    """The matrix products of one Hessian-vector product and nothing else, results thrown away."""
    filled = lambda *shape: torch.full((1, *shape), 0.01)  # noqa: E731
    buffers = [
        (
            *(filled(n + 1, states), kernels.rows(filled(n + 1, states))),
            *(filled(m, states), filled(m, n + 1)),
        )
        for n, m in pairwise(sizes)
    ]

    def one_task(_: int) -> None:
        for layer, (inputs, rows, deltas, matrix) in enumerate(buffers):
            count, transposed = products(layer, inner_steps), matrix[:, :, :-1].mT.contiguous()
            for _ in range(count.forward):
                kernels.matmul(matrix, kernels.factor(inputs))
            for _ in range(count.weight):
                kernels.matmul(deltas, rows)
            for _ in range(count.backward):
                kernels.matmul(transposed, kernels.factor(deltas))

    def run() -> None:
        list(mapper(one_task, range(tasks)))

    return run


def sgemm(threads: int, mapper: Mapper, repeats: int) -> tuple[Callable[[], None], int]:
    """Large square products by the library that ours use, and their floating-point operations.

    Each Python thread takes ``repeats`` of them.
    """
    matrices = [torch.full((1, SGEMM_SIZE, SGEMM_SIZE), 0.01) for _ in range(threads)]

    def multiply(index: int) -> None:
        for _ in range(repeats):
            kernels.matmul(matrices[index], kernels.factor(matrices[index]))

    def run() -> None:
        list(mapper(multiply, range(threads)))

    return run, 2 * SGEMM_SIZE**3 * repeats * threads
