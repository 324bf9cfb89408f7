"""Which library multiplies, and takes a tanh, faster on this processor?

One thread, matrices that the cache holds: sums over states, [Ẇ W] times [x; ẋ] and the bound's square ones, by both
libraries whichever of them training takes here, and the time of a call that has next to nothing to multiply.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from measuring import rounds
from measuring.report import Report, parser

from metarl import kernels

MKL, ONE_DNN, TORCH, NUMPY = "MKL", "oneDNN", "torch", "NumPy"
SHAPES = {
    "square": (1024, 1024, 1024),
    "paper, forward": (100, 201, 4000),
    "paper, weight": (100, 4000, 101),
    "gym, forward": (64, 129, 2000),
    "gym, weight": (64, 2000, 65),
    "gym, mean": (6, 129, 2000),
    "nearly nothing": (2, 2, 2),
}


def products(count: int, calls: int) -> list[dict[str, Any]]:
    """Both libraries on every shape: ``count`` rounds of so many ``calls`` in succession."""
    rows = []
    for what, (n, k, m) in SHAPES.items():
        a, b = torch.full((1, n, k), 0.01), torch.full((1, k, m), 0.01)
        works = {
            MKL: rounds.within(1, partial(torch.bmm, a, b), calls),
            ONE_DNN: rounds.within(1, partial(kernels.multiply_by_one_dnn, a, b[0].mT), calls),
        }
        taken = rounds.interleave(works, count)
        walls = {name: rounds.walls(each) for name, each in taken.items()}
        took = {name: 1e6 * rounds.median(wall) / calls for name, wall in walls.items()}
        rows.append(
            {"what": what, "n x k x m": f"{n} x {k} x {m}"}
            | {f"{name} [us]": each for name, each in took.items()}
            | {f"{name} [GFLOP/s]": 2e-3 * n * k * m / each for name, each in took.items()}
            | {"x MKL": rounds.ratio(walls[MKL], walls[ONE_DNN]), "walls": walls}
        )
    return rows


def tanh(count: int, calls: int) -> list[dict[str, Any]]:
    """A hidden layer of gym's size by torch and by NumPy."""
    z = torch.linspace(-3.0, 3.0, 64 * 2000)
    given, out = z.numpy(), torch.empty_like(z)
    works = {
        TORCH: rounds.within(1, partial(torch.tanh, z, out=out), calls),
        NUMPY: rounds.within(1, partial(np.tanh, given, out=out.numpy()), calls),
    }
    walls = {name: rounds.walls(each) for name, each in rounds.interleave(works, count).items()}
    row = {f"{name} [us]": 1e6 * rounds.median(wall) / calls for name, wall in walls.items()}
    faster = rounds.ratio(walls[TORCH], walls[NUMPY])
    return [{"numbers": z.numel()} | row | {"x torch": faster, "walls": walls}]


def main() -> int:
    options = parser(__doc__).parse_args()
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not (both and kernels.one_dnn_is_understood()):
        print("torch has not both MKL and oneDNN here: nothing to compare", file=sys.stderr)
        return 2
    report = Report("kernels", options)
    torch.set_num_threads(1)
    size = options.rounds, 1 if options.quick else 50
    print(f"training takes {ONE_DNN if kernels.ONE_DNN else MKL} here\n")
    columns = [f"{name} [{unit}]" for unit in ("us", "GFLOP/s") for name in (MKL, ONE_DNN)]
    found = products(*size)
    report.table("Products of matrices", found, ("what", "n x k x m", *columns, "x MKL"))
    columns = [f"{name} [us]" for name in (TORCH, NUMPY)]
    report.table("tanh", tanh(*size), ("numbers", *columns, "x torch"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
