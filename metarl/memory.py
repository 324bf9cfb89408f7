"""How much memory a process may still use, and how much tensors and their graphs take."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarl.resources import processes_here

SHARE, MOST = 2, 4 * 2**30
"""What is kept to save time takes half of the memory that is left, and on a CPU at most 4 GiB."""


GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        *("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        "total_inactive_file",
    ),
}
"""By controllers (none: version 2): folder; files of the limit and of what is used; and of that what is only cached."""


def budget(device: torch.device) -> int:
    """Bytes that may be spent on keeping what could be made anew; a host's memory is shared by its processes."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + cached) // SHARE
    return min(available() // SHARE // processes_here(), MOST)


def available(root: Path = Path("/")) -> int:
    """Bytes of main memory that this process may still use: the least of what is left anywhere.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    return max(0, min((*_machine(root), *_control_groups(root), *_address_space(root))))


def _machine(root: Path) -> Iterator[int]:
    """What the machine has left; half of what it has where it does not say."""
    with suppress(OSError, KeyError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        kibibytes = dict(line.replace(":", " ").split()[:2] for line in lines)
        yield int(kibibytes["MemAvailable"]) * 1024
        return
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _control_groups(root: Path) -> Iterator[int]:
    """What the groups leave that this process is in, such as a container's."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in GROUPS:
                folder, limit, used, cached = GROUPS[controllers]
                top = root / "sys/fs/cgroup" / folder
                own = top / path.lstrip("/")
                for group in (own, *own.parents[: len(own.parts) - len(top.parts)]):
                    # Some levels have no such files, and "max" in them where nothing is limited.
                    with suppress(OSError, ValueError, KeyError):
                        most, now = (int((group / name).read_text()) for name in (limit, used))
                        counts = (group / "memory.stat").read_text().splitlines()
                        yield most - now + int(dict(line.split() for line in counts)[cached])


def _address_space(root: Path) -> Iterator[int]:
    """What a limit of the process leaves (ulimit -v)."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError):
            pages = int((root / "proc/self/statm").read_text().split()[0])
            yield limit - pages * os.sysconf("SC_PAGE_SIZE")


def size(tree: Any, besides: Any = ()) -> int:
    """Bytes of the tensors of a tree and of what their graphs have saved.

    Args:
        tree: what is measured.
        besides: a tree whose memory is there anyway, such as the data that a graph was built on.
    """
    counted: dict[int, int] = {}
    nodes, seen = [], set()
    for leaf in _tensors(tree):
        counted |= _memory(leaf)
        nodes.append(leaf.grad_fn)
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [below for below, _ in node.next_functions]
            for name in dir(node):
                if name.startswith("_saved_"):
                    for saved in _tensors(getattr(node, name)):
                        counted |= _memory(saved)
    for leaf in _tensors(besides):
        for place in _memory(leaf):
            counted.pop(place, None)
    return sum(counted.values())


def tasks_that_fit(network: nn.Module, x: Tensor, examples: int, within: int) -> int:
    """How many tasks can take a gradient step at once, at least 1.

    Each has its parameters three times: before the step, after it, and their gradient.

    Args:
        network: that adapts.
        x: some examples ``[N, ...]``; what autograd saves of them is measured, and taken to be half of what is needed.
        examples: of each task.
        within: bytes.
    """
    own = list(network.parameters())
    saved = size(network(x), besides=(x, *own))
    return max(1, within // (3 * size(own) + 2 * saved * examples // max(1, len(x))))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> dict[int, int]:
    """The place of a tensor's memory, which views share, and its bytes."""
    storage = tensor.untyped_storage()
    return {storage.data_ptr(): storage.nbytes()}
