"""The compiled library: found where installing metarl could build it, and called, one task after another.

It knows nothing of Python, and a call leaves the interpreter to other threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

MODULE = "metarl.kernels._compiled"
INTERFACE_VERSION = 1
TYPES = {torch.float32: "float", torch.float64: "double"}
FUNCTIONS = (
    *("layer", "forward_moved", "backward", "backward_moved"),
    *("likelihood", "log_prob_moved", "likelihood_moved", "compared"),
)
"""What passes.h and gaussians.h have for each type."""
UNSUITED = "not for this processor, which has no AVX2"
ADVICE = "install a C compiler (gcc or clang), then: pip install --no-deps --force-reinstall -e ."


class Library(NamedTuple):
    """The library for this processor.

    Attributes:
        instructions: the set of instructions that it is made of.
        functions: by name and type of the numbers.
    """

    instructions: str
    functions: dict[tuple[str, torch.dtype], Callable[..., int]]

    def call(self, name: str, sizes: tuple[int, ...], tensors: Sequence[Tensor | None]) -> None:
        """Call a function for each of C tasks.

        Args:
            name: of the function.
            sizes: as the function's comment says.
            tensors: as it says too, the first of them not None, each ``[C, ...]``; those that are written contiguous.

        Raises:
            MemoryError: there is none for what it needs.
        """
        kept = [each if each is None else each.contiguous() for each in tensors]
        first = kept[0]
        assert first is not None
        function, addresses = self.functions[name, first.dtype], ctypes.c_void_p * len(kept)
        for task in range(first.shape[0]):
            given = addresses(*[None if each is None else _address(each, task) for each in kept])
            if function(_numbers(sizes), given):
                raise MemoryError(f"{name}: no memory for the parameters of a task")


def _address(tensor: Tensor, task: int) -> int:
    first = tensor.data_ptr()
    return first + task * tensor.stride(0) * tensor.element_size() if task else first


@lru_cache(maxsize=1024)
def _numbers(sizes: tuple[int, ...]) -> ctypes.Array[Any]:
    return (ctypes.c_long * len(sizes))(*sizes)


class MissingError(Exception):
    """Why there is no library."""


def find(module: str = MODULE, instructions: str | None = None) -> Library:
    """The library.

    Args:
        module: whose file it is.
        instructions: the set to take of those that the processor has; None: the best.

    Raises:
        MissingError: it was not built, not for this processor, or from other sources than these.
    """
    found = find_spec(module)
    if found is None or found.origin is None:
        raise MissingError("not built")
    try:
        library = ctypes.CDLL(found.origin)
        library.instructions.restype = ctypes.c_char_p
        version, best = library.interface_version(), library.instructions().decode()
    except (OSError, AttributeError) as error:
        raise MissingError("built for another kind of machine") from error
    if version != INTERFACE_VERSION:
        raise MissingError("built from other sources")
    if not best:
        raise MissingError(UNSUITED)
    functions = {
        (name, dtype): getattr(library, f"{name}_{instructions or best}_{kind}")
        for name in FUNCTIONS
        for dtype, kind in TYPES.items()
    }
    return Library(instructions or best, functions)


def _found() -> tuple[Library | None, str]:
    try:
        return find(), ""
    except MissingError as error:
        return None, str(error)


LIBRARY, MISSING = _found()
"""The library, or None and why."""
NAME = LIBRARY.instructions if LIBRARY else "torch"


def serving(tensor: Tensor) -> Library | None:
    """The library, where there is one for tensors such as this one."""
    return LIBRARY if LIBRARY and tensor.is_cpu and tensor.dtype in TYPES else None
