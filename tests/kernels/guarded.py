"""Calls a compiled library with tensors that end at a page that nobody may touch: a fault ends the process.

Arguments: its file, and the sets of instructions to take.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from metarl.kernels import compiled, gaussians, passes

PROT_NONE = 0
LIBC = ctypes.CDLL(None, use_errno=True)
pages = []


def guarded(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of ones, its last byte the last one before a page without access."""
    size = torch.Size(shape).numel() * dtype.itemsize
    whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    page = mmap.mmap(-1, whole + mmap.PAGESIZE)
    pages.append(page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if LIBC.mprotect(ctypes.c_void_p(start + whole), mmap.PAGESIZE, PROT_NONE):
        sys.exit("mprotect failed")
    buffer = torch.frombuffer(page, dtype=torch.uint8)[whole - size : whole]
    return buffer.view(dtype).view(shape).fill_(1.0)


def new_empty(like: Tensor, *shape: int | torch.Size) -> Tensor:
    return guarded(torch.Size(*shape) if len(shape) == 1 else shape, like.dtype)


def call_everything(dtype: torch.dtype, states: int, sizes: tuple[int, ...]) -> None:
    new = lambda *shape: guarded((1, *shape), dtype)  # noqa: E731
    matrices, tangents = (tuple(new(m, n + 1) for n, m in pairwise(sizes)) for _ in range(2))
    inputs, top = tuple(new(states, n) for n in sizes[:-1]), new(states, sizes[-1])
    for activation in ("relu", "tanh"):
        passes.layer(matrices[0], inputs[0], activation)
        network = passes.Network(activation, matrices, inputs)
        moved = passes.forward_moved(network, tangents)
        passes.backward(network, top)
        _, carried = passes.taped_backward(network, top)
        passes.backward_moved(network, tangents, top, carried, moved[:-1], top)
    actions, std, weights = new(states, sizes[-1]), new(sizes[-1]), new(states)
    gaussians.likelihood(actions, top, std, weights)
    delta, _, score = gaussians.taped_likelihood(actions, top, std, weights)
    gaussians.log_prob_moved(score, top, std)
    gaussians.likelihood_moved(score, delta, weights, top, std)
    gaussians.compared(actions, top, std, top, std)


# What is written is guarded as well.
torch.Tensor.new_empty = new_empty
library, *sets = sys.argv[1:]
for instructions in sets:
    compiled.LIBRARY = compiled.load(Path(library), instructions)
    for dtype in compiled.TYPES:
        for states, sizes in ((1, (1, 1)), (97, (3, 17, 100, 6)), (96, (20, 64, 33, 1))):
            call_everything(dtype, states, sizes)
    print(instructions, flush=True)
