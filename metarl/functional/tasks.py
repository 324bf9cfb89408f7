"""The task axis: the one place that knows a vectorised map from a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch.utils import _pytree as pytree

Strategy = Literal["vmap", "loop"]
Made = TypeVar("Made")


class Mapper(Protocol):
    """Anything that maps a function over items in order: the builtin ``map``, or a thread pool's."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Apply ``function`` to each item; the results come in the order of the items."""
        ...


def map_to_the_end(mapper: Mapper, function: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Apply ``function`` to each item; where it raises for some, the first one's error is raised when all are done.

    A mapper raises at once, and its other threads go on.
    """

    def attempt(item: Any) -> Exception | None:
        try:
            function(item)
        except Exception as error:  # noqa: BLE001 - raised below, whatever it is
            return error
        return None

    for error in list(mapper(attempt, items)):
        if error is not None:
            raise error


Join = Callable[[Any], Any]
"""Tree of ``[rows of this process, ...] -> [rows of all processes, ...]``, in the order of the tasks."""


def alone(tree: Any) -> Any:
    """The join of a process that has all the tasks."""
    return tree


def count_tasks(stacked: Any) -> int:
    """M, read off the first leaf of a tree whose leaves are ``[M, ...]``."""
    return pytree.tree_leaves(stacked)[0].shape[0]


def take(stacked: Any, index: int | slice | list[int]) -> Any:
    """The part ``index`` of the task axis, of every leaf: views, unless it is a list of rows."""
    return pytree.tree_map(lambda leaf: leaf[index], stacked)


def over_tasks(function: Callable[..., Any], *stacked: Any, strategy: Strategy = "vmap") -> Any:
    """Lift a function of one task to all tasks of a meta-batch.

    Args:
        function: takes one task's part of each of ``stacked``, returns a tree of tensors.
        stacked: trees whose leaves all have a leading task axis ``[M, ...]``.
        strategy: ``vmap`` batches the tasks; ``loop`` takes them one by one: its oracle, and the
            faster one where the work of one task is large.

    Returns:
        The function's tree, every leaf with a leading task axis.
    """
    if strategy == "vmap":
        return torch.func.vmap(function)(*stacked)
    results = [function(*take(stacked, index)) for index in range(count_tasks(stacked))]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def chunks(count: int, size: int) -> list[slice]:
    """Cut ``count`` tasks into consecutive slices of at most ``size``."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def keep_first(make: Callable[[int], Made], kept: int) -> Callable[[int], Made]:
    """``make``, whose results for 0 .. ``kept`` − 1 are kept once they are made; the others are made at every call."""
    results: dict[int, Made] = {}

    def get(index: int) -> Made:
        if index >= kept:
            return make(index)
        if index not in results:
            results[index] = make(index)
        return results[index]

    return get


def count_kept(parts: Sequence[slice], tasks: int | None) -> int:
    """How many of these consecutive parts lie within the first ``tasks`` tasks; None: all of them."""
    return sum(tasks is None or part.stop <= tasks for part in parts)
