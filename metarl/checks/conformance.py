"""What an environment returns, held against what it declares: how many values, their shapes and types.

Whether numbers are finite is looked at once for a whole wave, by :mod:`metarl.checks.nonfinite`. What is looked at
here costs no pass over the numbers and waits for no device, so that every step can afford it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Shape = tuple[int, ...]
MakeArray = Callable[[Any], Any]

FLAGS = frozenset({np.dtype(bool), torch.bool})
# What torch takes from numpy: no text, no objects, no complex numbers, no foreign order of bytes.
NUMBERS = FLAGS | {np.dtype(code) for code in "bBhHiIlLqQefd"}
NUMBERS |= {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
NUMBERS |= {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def shape_of(space: Any) -> Shape:
    """The shape of what a Box contains."""
    return tuple(space.shape)


def values(returned: Any, call: str, count: int) -> Any:
    """What ``reset`` or ``step`` returned, if it is so many values; ValueError otherwise."""
    several = isinstance(returned, (tuple, list))
    if not several:
        raise ValueError(f"{call} returned {type(returned).__name__}, not {count} values")
    if len(returned) != count:
        raise ValueError(f"{call} returned {len(returned)} values, not {count}")
    return returned


def of_reset(returned: Any, slots: Shape, shape: Shape, array: MakeArray = np.asarray) -> Any:
    """The observations that ``reset`` returned.

    Args:
        returned: by ``reset``.
        slots: ``(n,)`` of a vector environment, ``()`` of a single one.
        shape: of one observation.
        array: makes an array of what is none.

    Returns:
        ``[*slots, *shape]``.

    Raises:
        ValueError: it is something else.
    """
    obs, _ = values(returned, "reset", 2)
    return _observation(obs, slots, shape, array)


def of_step(
    returned: Any, slots: Shape, shape: Shape, array: MakeArray = np.asarray
) -> tuple[Any, Any, Any, Any]:
    """The same for ``step``.

    Returns:
        Observations ``[*slots, *shape]``, rewards, terminated and truncated flags ``[*slots]``.

    Raises:
        ValueError: it is something else.
    """
    obs, reward, terminated, truncated, _ = values(returned, "step", 5)
    return (
        _observation(obs, slots, shape, array),
        _checked(reward, "reward", slots, NUMBERS, array),
        _checked(terminated, "terminated", slots, FLAGS, array),
        _checked(truncated, "truncated", slots, FLAGS, array),
    )


def _observation(obs: Any, slots: Shape, shape: Shape, array: MakeArray) -> Any:
    name = "observations" if slots else "an observation"
    return _checked(obs, name, slots + shape, NUMBERS, array, "where {} was declared")


def _checked(
    value: Any,
    name: str,
    shape: Shape,
    types: frozenset[Any],
    array: MakeArray,
    instead: str = "not {}",
) -> Any:
    """The value as an array of this shape and one of these types; ``instead`` words the shape that is due."""
    try:
        found = array(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} of type {type(value).__name__}, which is no array") from error
    if found.shape != shape:
        raise ValueError(f"{name} of shape {tuple(found.shape)}, {instead.format(shape)}")
    if found.dtype not in types:
        kind = found.dtype if found.ndim else type(value).__name__
        raise ValueError(f"{name} of type {kind}, not {'bool' if types is FLAGS else 'numbers'}")
    return found
