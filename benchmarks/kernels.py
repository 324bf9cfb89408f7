"""How fast are the compiled kernels, against the libraries that torch has, and which is faster on this processor?

One thread. Products of one layer, states as rows, by each library of torch's and compiled; all passes of one task that
a Hessian-vector product is made of, by torch and compiled; and a tanh, by torch and by NumPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from measuring import matmul, rounds
from measuring.fallback import without_library
from measuring.report import Report, parser

from metarl.kernels import compiled, passes
from metarl.resources import keep_freed_memory

COMPILED, TORCH, NUMPY = "compiled", "torch", "NumPy"
SQUARE = matmul.SGEMM_SIZE
STATES = {"paper": 4000, "gym": 2000}
LAYERS = {"paper": (20, 100, 100, 6), "gym": (17, 64, 64, 6)}
ACTIVATIONS = {"paper": "relu", "gym": "tanh"}


def timed(
    works: Mapping[str, Callable[[], object]],
    operations: float,
    compared: tuple[str, str],
    count: int,
    calls: int,
) -> dict[str, Any]:
    """Microseconds and rate of each, of ``calls`` in succession, and how many times faster the second of two is."""
    inside = {name: rounds.within(1, work, calls) for name, work in works.items()}
    walls = {name: rounds.walls(each) for name, each in rounds.interleave(inside, count).items()}
    took = {name: 1e6 * rounds.median(wall) / calls for name, wall in walls.items()}
    row: dict[str, Any] = {f"{name} [us]": each for name, each in took.items()}
    row |= {f"{name} [GFLOP/s]": operations / each / 1000 for name, each in took.items()}
    slower, faster = compared
    if faster in walls:
        row[f"x {slower}"] = rounds.ratio(walls[slower], walls[faster])
    return row | {"walls": walls}


def products(presets: Sequence[str], count: int, calls: int) -> list[dict[str, Any]]:
    """Every library on each layer forward, and on its gradient."""
    libraries, rows = matmul.libraries(), []
    two = next(iter(libraries)), COMPILED
    square = torch.full((SQUARE, SQUARE), 0.01)
    works = {name: partial(by, square, square) for name, by in libraries.items()}
    measured = timed(works, 2 * SQUARE**3, two, count, max(1, calls // 10))
    rows.append(
        {"what": "square", "rows x sum x columns": f"{SQUARE} x {SQUARE} x {SQUARE}"} | measured
    )
    for preset in presets:
        layers, states = LAYERS[preset], STATES[preset]
        for n, m in pairwise(layers):
            x, deltas = torch.full((1, states, n), 0.01), torch.full((1, states, m), 0.01)
            matrix = torch.full((1, m, n + 1), 0.01)
            turned = matrix[0, :, :-1].contiguous().mT
            network = passes.Network("relu", (matrix,), (x,))
            ahead = {name: partial(by, x[0], turned) for name, by in libraries.items()}
            back = {name: partial(by, deltas[0].mT, x[0]) for name, by in libraries.items()}
            ahead[COMPILED] = partial(passes.layer, matrix, x)
            back[COMPILED] = partial(passes.backward, network, deltas)
            for what, works, shape in (
                ("forward", ahead, (states, n, m)),
                ("gradient", back, (m, states, n)),
            ):
                measured = timed(works, 2 * states * n * m, two, count, calls)
                shown = " x ".join(map(str, shape))
                rows.append({"what": f"{preset}, {what}", "rows x sum x columns": shown} | measured)
    return rows


def whole_passes(presets: Sequence[str], count: int, calls: int) -> list[dict[str, Any]]:
    """The passes of one task, by torch and compiled."""
    rows = []
    for preset in presets:
        layers, states = LAYERS[preset], STATES[preset]
        new = lambda *shape: torch.linspace(-0.1, 0.1, torch.Size(shape).numel()).view(1, *shape)  # noqa: E731
        matrices = tuple(new(m, n + 1) for n, m in pairwise(layers))
        inputs = tuple(new(states, n) for n in layers[:-1])
        network, top = (
            passes.Network(ACTIVATIONS[preset], matrices, inputs),
            new(states, layers[-1]),
        )
        moved = passes.forward_moved(network, matrices)
        _, carried = passes.taped_backward(network, top)
        along = matrices, top, carried, moved[:-1], top
        each = [n * m for n, m in pairwise(layers)]
        ahead, hidden = sum(each), sum(each[1:])
        for what, work, factor in (
            ("along a direction", partial(passes.forward_moved, network, matrices), ahead + hidden),
            ("back", partial(passes.backward, network, top), ahead + hidden),
            (
                "back along a direction",
                partial(passes.backward_moved, network, *along),
                ahead + hidden + 2 * hidden,
            ),
        ):
            works = {TORCH: without_library(work), COMPILED: work}
            measured = timed(works, 2 * states * factor, (TORCH, COMPILED), count, calls)
            rows.append({"what": f"{preset}, {what}"} | measured)
    return rows


def tanh(count: int, calls: int) -> list[dict[str, Any]]:
    """A hidden layer of gym's size by torch and by NumPy."""
    z = torch.linspace(-3.0, 3.0, 64 * 2000)
    given, out = z.numpy(), torch.empty_like(z)
    works = {
        TORCH: partial(torch.tanh, z, out=out),
        NUMPY: partial(np.tanh, given, out=out.numpy()),
    }
    return [{"numbers": z.numel()} | timed(works, z.numel(), (TORCH, NUMPY), count, calls)]


def main() -> int:
    options = parser(__doc__, without=("seed", "threads")).parse_args()
    if compiled.MISSING:
        print(f"the compiled kernels are {compiled.MISSING}: nothing to compare")
        return 0
    report = Report("kernels", options)
    torch.set_num_threads(1)
    keep_freed_memory()
    size = options.rounds, 1 if options.quick else 50
    print(f"compiled for {compiled.NAME}\n")
    names = *matmul.libraries(), COMPILED
    columns = [f"{name} [{unit}]" for unit in ("us", "GFLOP/s") for name in names]
    shown = ("what", "rows x sum x columns", *columns, f"x {names[0]}")
    report.table("Products of matrices", products(options.presets, *size), shown)
    columns = [f"{name} [{unit}]" for unit in ("us", "GFLOP/s") for name in (TORCH, COMPILED)]
    report.table(
        "Passes of one task", whole_passes(options.presets, *size), ("what", *columns, f"x {TORCH}")
    )
    columns = [f"{name} [us]" for name in (TORCH, NUMPY)]
    report.table("tanh", tanh(*size), ("numbers", *columns, f"x {TORCH}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
