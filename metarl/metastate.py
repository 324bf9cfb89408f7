"""Meta-parameters as the named tensors of a checkpoint, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from metarl.checkpoints import Checkpoint
    from metarl.data import Meta, Params
    from metarl.outer import Outer

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


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """32 letters that change with any bit of the tensors."""
    import torch

    summed = hashlib.blake2b(digest_size=16)
    for tensor in tensors.values():
        summed.update(
            tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return summed.hexdigest()


def restore_outer(outer: Outer, checkpoint: Checkpoint, device: str) -> int:
    """Put an outer step's memory back.

    Args:
        outer: changed in place.
        checkpoint: its tensors ``outer/<name>`` and its state ``outer`` are `Outer.state`.
        device: of the tensors.

    Returns:
        The environment steps taken until then.

    Raises:
        CheckpointError: it holds no such memory, but perhaps that of another ``outer.method``.
    """
    from metarl.checkpoints import CheckpointError

    tensors = {
        name.removeprefix(OUTER): tensor.to(device)
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(OUTER)
    }
    try:
        steps = int(checkpoint.state["env_steps"])
        outer.restore(tensors, checkpoint.state["outer"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not hold what outer.method needs ({error}); use the "
            "configuration that it was trained with."
        ) from None
    return steps


def _restored(tensors: Mapping[str, Tensor], prefix: str, like: Params) -> Params:
    from metarl.checkpoints import CheckpointError

    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    for name in sorted(like.keys() | found.keys()):
        stored = tuple(found[name].shape) if name in found else "missing"
        wanted = tuple(like[name].shape) if name in like else "nothing"
        if stored != wanted:
            raise CheckpointError(
                f"the checkpoint does not fit the configuration: its {prefix}{name} is {stored}, "
                f"where {wanted} is configured; use the configuration that it was trained with."
            )
    return {name: found[name].to(tensor) for name, tensor in like.items()}
