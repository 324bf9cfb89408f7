"""A stand-in for a GPU: tensors that say they live elsewhere, compute on the CPU, and are as touchy as a GPU's.

Operations on a simulated tensor and an ordinary one raise, as CUDA does; whatever would stop the host until the device
has caught up is counted. The device calls itself ``meta``, the one that torch has on every machine; while
:class:`SimulatedDevice` is active its tensors hold numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
READ_BACK = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.is_nonzero.default,
}


class Resident(Tensor):
    """A tensor on the simulated device; ``inner`` holds its numbers."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Resident:
        found = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        found.inner = inner
        return found

    def __repr__(self) -> str:
        return f"Resident({self.inner!r})"

    def __deepcopy__(self, memo: Any) -> Resident:
        return Resident(self.inner.detach().clone())

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        raise AssertionError(f"{function} outside of SimulatedDevice")


class SimulatedDevice(TorchDispatchMode):
    """Runs a program's operations, wherever its tensors say they are.

    Attributes:
        counts: of ``read`` (values that the host waited for), ``to_host`` and ``to_device`` (tensors that crossed),
            and ``bytes`` that did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = dict(kwargs or {})
        leaves = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        here = [each for each in leaves if isinstance(each, Resident)]
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        lives = DEVICE if here else torch.device("cpu")
        target = lives if asked is None else torch.device(asked)
        if function is torch.ops.aten.copy_.default:
            target = args[0].device
            self._count_transfer(args[1].device, target, args[0].numel(), args[0].dtype)
        elif function is torch.ops.aten._to_copy.default:
            wanted = kwargs.get("dtype") or args[0].dtype
            self._count_transfer(args[0].device, target, args[0].numel(), wanted)
        elif here:
            strangers = [each for each in leaves if not isinstance(each, Resident) and each.ndim]
            assert not strangers, f"{function} of tensors on two devices"
        self.counts["read"] += bool(here) and function in READ_BACK
        args, kwargs = pytree.tree_map_only(Resident, lambda each: each.inner, (args, kwargs))
        found = function(*args, **kwargs)
        if target != DEVICE:
            return found
        # What an operation wrote in place is the very tensor it was given.
        given = {id(each.inner): each for each in here}
        wrap = lambda each: given[id(each)] if id(each) in given else Resident(each)  # noqa: E731
        return pytree.tree_map_only(Tensor, wrap, found)

    def _count_transfer(
        self, source: torch.device, target: torch.device, numbers: int, dtype: torch.dtype
    ) -> None:
        """Where devices and types both differ, CUDA converts before it moves."""
        if source != target:
            self.counts["to_device" if target == DEVICE else "to_host"] += 1
            self.counts["bytes"] += numbers * dtype.itemsize
