"""The compiled library: found where installing metarl could build it, and called, one task after another.

It knows nothing of Python, and a call leaves the interpreter to other threads.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.kernels import sources

MODULE = "metarl.kernels._compiled"
TYPES = {torch.float32: "float", torch.float64: "double"}
FUNCTIONS = (
    *("layer", "forward_moved", "backward", "backward_moved"),
    *("likelihood", "log_prob_moved", "likelihood_moved", "compared"),
)
"""What passes.h and gaussians.h have for each type."""
MACHINES = {"x86_64", "amd64", "aarch64", "arm64"}
UNSUITED = "not for this processor"
ADVICE = (
    "install a C compiler (gcc or clang) and metarl anew, which shows what went wrong: "
    "pip install -v --no-deps --force-reinstall -e ."
)


class Library(NamedTuple):
    """The library for this processor.

    Attributes:
        instructions: the set of instructions that it is made of.
        functions: by name and type of the numbers.
    """

    instructions: str
    functions: dict[tuple[str, torch.dtype], Callable[..., int]]

    def call(
        self,
        name: str,
        sizes: tuple[int, ...],
        given: Sequence[Tensor | None],
        made: Sequence[Tensor | None],
    ) -> None:
        """Call a function for each of C tasks.

        Args:
            name: of the function.
            sizes: as the function's comment says; shapes are the caller's to see to, by :func:`require_shapes`.
            given: the tensors that it reads, ``[C, ...]``, the first of them not None.
            made: those that it writes, by :func:`room_like`; they come after the others in its comment.

        Raises:
            ValueError: a tensor is of another type, device or number of tasks than the first, is to be differentiated,
                or cannot be written as it lies in memory.
            MemoryError: there is none for what it needs.
        """
        kept = [each if each is None else each.contiguous() for each in given]
        first = kept[0]
        assert first is not None
        dtype, count, recorded = first.dtype, first.shape[0], torch.is_grad_enabled()
        for each in (*kept, *made):
            if each is not None and not (
                each.dtype is dtype
                and each.is_cpu
                and each.shape[0] == count
                and each.is_contiguous()
                and not (recorded and each.requires_grad)
            ):
                raise ValueError(f"{name}: not one of {count} tasks' {dtype} constants on a CPU")
        function = self.functions[name, dtype]
        tensors, addresses = (*kept, *made), ctypes.c_void_p * (len(kept) + len(made))
        for task in range(count):
            where = addresses(*[None if each is None else _address(each, task) for each in tensors])
            if function(_numbers(sizes), where):
                raise MemoryError(f"{name}: no memory for the parameters of a task")


def _address(tensor: Tensor, task: int) -> int:
    first = tensor.data_ptr()
    return first + task * tensor.stride(0) * tensor.element_size() if task else first


@lru_cache(maxsize=1024)
def _numbers(sizes: tuple[int, ...]) -> ctypes.Array[Any]:
    return (ctypes.c_long * len(sizes))(*sizes)


class MissingError(Exception):
    """Why there is no library."""


def built() -> Path:
    """The library's file.

    Raises:
        MissingError: there is none.
    """
    if platform.machine().lower() not in MACHINES:
        raise MissingError(UNSUITED)
    found = find_spec(MODULE)
    if found is None or found.origin is None:
        raise MissingError("not built")
    return Path(found.origin)


def load(path: Path, instructions: str | None = None) -> Library:
    """A library.

    Args:
        path: its file.
        instructions: the set to take of those that the processor has; None: the best.

    Raises:
        MissingError: it is none, not for this processor, from other sources than these, or these are not there.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.sources.restype, library.instructions.restype = ctypes.c_ulonglong, ctypes.c_char_p
        own, best = library.sources(), library.instructions().decode()
    except OSError as error:
        raise MissingError("built for another kind of machine, or not at all") from error
    except AttributeError as error:
        raise MissingError("built from other sources") from error
    try:
        expected = sources.fingerprint()
    except OSError as error:
        raise MissingError("without sources to check them by") from error
    if own != expected:
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
        return load(built()), ""
    except MissingError as error:
        return None, str(error)


LIBRARY, MISSING = _found()
"""The library, or None and why."""
NAME = LIBRARY.instructions if LIBRARY else "torch"


def require_shapes(
    name: str, what: str, found: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
) -> None:
    """Refuse tensors that have not the shapes that the sizes of a call promise.

    Raises:
        ValueError: they have not; it names what is called and what of it does not fit.
    """
    there, needed = [tuple(each.shape) for each in found], [tuple(each) for each in shapes]
    if there != needed:
        raise ValueError(f"{name}: {what} of shapes {there} where {needed} are needed")


def room_like(tensor: Tensor) -> Tensor:
    """Room for a result of this one's shape, contiguous whatever its own strides are."""
    return tensor.new_empty(tensor.shape)


def serving(tensor: Tensor) -> Library | None:
    """The library, where there is one for tensors such as this one."""
    return LIBRARY if LIBRARY and tensor.is_cpu and tensor.dtype in TYPES else None
