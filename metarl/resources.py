"""What a process may use: the device and the threads that a configuration leaves open, and memory that it freed."""

from __future__ import annotations

import ctypes
import os

from metarl.errors import UserError

# Of glibc's malloc.h, each with what it is set to: never give back, never map apart, one heap for all threads.
KEEPING = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}


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


def keep_freed_memory() -> None:
    """From now on the C library keeps freed blocks of any size for the next ones of this process.

    glibc returns blocks above 32 MiB to the kernel at once, and pages of the next one are zeroed and mapped anew as
    they are touched: on large pictures a third of the processor's time. Where the library is another one nothing
    changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in KEEPING.values():
        mallopt(option, value)
