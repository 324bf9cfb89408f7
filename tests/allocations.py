"""What a computation allocates, and how much of it its result keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Allocations(TorchDispatchMode):
    """Remembers, without keeping it alive, the memory of every tensor that an operation of this thread makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given, result = self.storages((args, kwargs)), function(*args, **(kwargs or {}))
        # A view of what was given, or what was written into, is no allocation.
        self.made |= {
            place: size for place, size in self.storages(result).items() if place not in given
        }
        return result

    @staticmethod
    def storages(tree: Any) -> dict[StorageWeakRef, int]:
        leaves = torch.utils._pytree.tree_leaves(tree)
        found = [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]
        return {StorageWeakRef(storage): storage.nbytes() for storage in found}


def held_by(make: Callable[[], Any]) -> int:
    """Bytes of all tensors that ``make`` allocates and its result, graphs and closures included, still needs."""
    with Allocations() as allocated:
        result = make()
        held = sum(size for place, size in allocated.made.items() if not place.expired())
    del result
    return held
