"""What a process may use: the device and the threads that a configuration leaves open."""

from __future__ import annotations

import os

from metarl.errors import UserError


def resolve_device(name: str) -> str:
    """``cpu`` or ``cuda`` for a setting that may be ``auto``.

    Raises:
        UserError: a GPU is asked for where there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise UserError("device is cuda, but there is no usable GPU here; set it to cpu or auto.")
    return name


def resolve_threads(setting: str | int) -> int:
    """The threads of a setting that may be ``auto``: one for each core this process may use.

    Processes of one run that torchrun starts on a host share its cores.
    """
    if isinstance(setting, int):
        return setting
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // processes_here())


def processes_here() -> int:
    """Processes of this run on this host, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
