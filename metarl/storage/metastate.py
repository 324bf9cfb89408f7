"""Meta-parameters as the named tensors of a checkpoint, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.data import Meta, Params
    from metarl.outer import Outer
    from metarl.storage.checkpoints import Checkpoint

THETA, RATES, OUTER = "theta/", "rates/", "outer/"


def meta_to_tensors(meta: Meta) -> dict[str, Tensor]:
    """``theta/<name>`` and ``rates/<name>``."""
    theta = {f"{THETA}{name}": tensor for name, tensor in meta.theta.items()}
    return theta | {f"{RATES}{name}": tensor for name, tensor in meta.rates.items()}


def meta_from_tensors(tensors: Mapping[str, Tensor], like: Meta) -> Meta:
    """The inverse of `meta_to_tensors`.

    Args:
        tensors: of a checkpoint; those of other names are left alone.
        like: the problem's initial meta-parameters: names, shapes, types, device.

    Raises:
        CheckpointError: the tensors are not those of this problem.
    """
    return like._replace(
        theta=_restored(tensors, THETA, like.theta), rates=_restored(tensors, RATES, like.rates)
    )


def outer_to_tensors(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``outer/<name>``; `restore_outer` is the inverse."""
    return {f"{OUTER}{name}": tensor for name, tensor in memory.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """32 letters that change with any bit of the tensors."""
    import torch

    summed = hashlib.blake2b(digest_size=16)
    for tensor in tensors.values():
        summed.update(
            tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return summed.hexdigest()


def restore_outer(outer: Outer, checkpoint: Checkpoint, meta: Meta, device: str) -> int:
    """Put an outer step's memory back.

    Args:
        outer: changed in place.
        checkpoint: its tensors ``outer/<name>`` and its state ``outer`` are `Outer.state`.
        meta: the meta-parameters, which the memory is of.
        device: of the tensors.

    Returns:
        The environment steps taken until then.

    Raises:
        CheckpointError: it holds no such memory, but perhaps that of another ``outer.method``, or of other parameters.
    """
    from metarl.outer import COUNTER
    from metarl.storage.checkpoints import CheckpointError

    size = sum(value.numel() for part in meta for value in part.values())
    tensors = {}
    for name, tensor in _of(checkpoint.tensors, OUTER).items():
        wanted = () if name == COUNTER else (size,)
        if tuple(tensor.shape) != wanted:
            raise _misfit(f"{OUTER}{name}", tuple(tensor.shape), wanted)
        _check_finite(f"{OUTER}{name}", tensor)
        tensors[name] = tensor.to(device)
    try:
        steps = int(checkpoint.state["env_steps"])
        outer.restore(tensors, checkpoint.state["outer"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not hold what outer.method needs ({error}); use the "
            "configuration that it was trained with."
        ) from None
    return steps


def _restored(tensors: Mapping[str, Tensor], prefix: str, like: Params) -> Params:
    found = _of(tensors, prefix)
    for name in sorted(like.keys() | found.keys()):
        stored = tuple(found[name].shape) if name in found else "missing"
        wanted = tuple(like[name].shape) if name in like else "nothing"
        if stored != wanted:
            raise _misfit(f"{prefix}{name}", stored, wanted)
        _check_finite(f"{prefix}{name}", found[name])
    return {name: found[name].to(tensor) for name, tensor in like.items()}


def _of(tensors: Mapping[str, Tensor], prefix: str) -> Params:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _misfit(name: str, stored: object, wanted: object) -> Exception:
    from metarl.storage.checkpoints import CheckpointError

    return CheckpointError(
        f"the checkpoint does not fit the configuration: its {name} is {stored}, where {wanted} is "
        "configured; use the configuration that it was trained with."
    )


def _check_finite(name: str, tensor: Tensor) -> None:
    import torch

    from metarl.storage.checkpoints import CheckpointError

    if tensor.dtype not in {torch.float32, torch.float64} or not tensor.isfinite().all():
        raise CheckpointError(f"the checkpoint's {name} does not hold finite numbers.")
