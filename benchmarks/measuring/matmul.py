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

forward: states x weights; weight: one state per row summed out; backward: states x transposed weights. The first
layer has no input that moves, hence a third of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

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
        sum(products(layer, inner_steps)) * n * m for layer, (n, m) in enumerate(pairwise(sizes))
    )
    return 2 * tasks * states * per_state


def products_alone(
    sizes: Sequence[int], states: int, inner_steps: int, tasks: int, mapper: Mapper
) -> Callable[[], None]:
    """The matrix products of one Hessian-vector product and nothing else, results thrown away."""
    buffers = [
        [torch.full(shape, 0.01) for shape in ((states, n), (states, m), (m, n))]
        for n, m in pairwise(sizes)
    ]

    def one_task(_: int) -> None:
        for layer, (below, above, weight) in enumerate(buffers):
            count = products(layer, inner_steps)
            outputs = torch.empty_like(above), torch.empty_like(weight), torch.empty_like(below)
            for _ in range(count.forward):
                torch.mm(below, weight.mT, out=outputs[0])
            for _ in range(count.weight):
                torch.mm(above.mT, below, out=outputs[1])
            for _ in range(count.backward):
                torch.mm(above, weight, out=outputs[2])

    def run() -> None:
        list(mapper(one_task, range(tasks)))

    return run


def sgemm(threads: int, mapper: Mapper, repeats: int) -> tuple[Callable[[], None], int]:
    """Large square products, ``repeats`` in each Python thread; and their floating-point operations."""
    matrices = [torch.full((3, SGEMM_SIZE, SGEMM_SIZE), 0.01) for _ in range(threads)]

    def multiply(index: int) -> None:
        a, b, out = matrices[index]
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    def run() -> None:
        list(mapper(multiply, range(threads)))

    return run, 2 * SGEMM_SIZE**3 * repeats * threads
