"""What goes wrong inside a child of the fault suite: installed in it before its command begins."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from envs.half_cheetah_vector import HalfCheetahVectorEnv
from metarl import outer
from metarl.storage import checkpoints

FILE_SYSTEM = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def kill_at(count: int, folder: str) -> None:
    """SIGKILL before the ``count``-th operation on the file system in ``folder``, or fsync of anything."""
    left = count

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_SYSTEM and str(arguments[0]).startswith(folder):
            tick()

    fsync = os.fsync

    def counted(descriptor: int) -> None:
        tick()
        fsync(descriptor)

    sys.addaudithook(watch)
    os.fsync = counted


def fail_once(name: str, count: int, number: int = errno.EIO) -> None:
    """Let the ``count``-th call of ``os.<name>`` fail, and that one alone."""
    whole, left = getattr(os, name), count

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(number, os.strerror(number))
        return whole(*arguments, **options)

    setattr(os, name, failing)


def limit_file_size(size: int) -> None:
    """No file can grow beyond so many bytes: EFBIG, as on a full disk ENOSPC. Standard output is let off."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def obey_permissions() -> None:
    """Give up root's right to write what is read-only: the capabilities DAC_OVERRIDE and DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None, use_errno=True)
    version, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(version, sets)
    for effective_or_permitted in (0, 1):
        sets[effective_or_permitted] &= ~0b110
    if libc.capset(version, sets):
        raise OSError(ctypes.get_errno(), "capset")


def import_from(folder: str) -> None:
    """Modules are found in a folder, as in the one that a user works in."""
    sys.path.insert(0, folder)


def break_board() -> None:
    """TensorBoard's writer fails from its second scalar on."""
    from torch.utils.tensorboard import SummaryWriter

    added = SummaryWriter.add_scalar

    def failing(self: Any, tag: str, *arguments: Any, **options: Any) -> None:
        SummaryWriter.add_scalar = lambda *_, **__: (_ for _ in ()).throw(OSError("no writer"))
        added(self, tag, *arguments, **options)

    SummaryWriter.add_scalar = failing


def break_simulation(count: int, slot: int) -> None:
    """The ``count``-th reset of half-cheetahs gives one of them a speed that MuJoCo does not stand."""
    begin, left = HalfCheetahVectorEnv._begin, count

    def begin_badly(env: Any, slots: Any) -> Any:
        nonlocal left
        left -= 1
        obs = begin(env, slots)
        if left == 0:
            env._qvel[slot, 0] = 1e12
        return obs

    HalfCheetahVectorEnv._begin = begin_badly


def spoil_step(how: str) -> None:
    """TRPO's line search finds nothing better, or every Hessian-vector product points the other way."""
    step = outer.trust_region_step

    def step_badly(theta: Any, start: Any, evaluate: Any, *rest: Any) -> Any:
        if how == "no candidate":
            return step(theta, start, lambda _: start.outcome, *rest)
        backwards = start._replace(curvature=lambda v: -start.curvature(v))
        return step(theta, backwards, evaluate, *rest)

    outer.trust_region_step = step_badly


def main(arguments: list[str]) -> int:
    """Save a checkpoint; then, once continued if so asked, another, and remove the first.

    Args:
        arguments: the folder; ``stop`` or the count for `kill_at`.
    """
    folder, when = arguments
    tensors = {"theta/w": torch.arange(4.0)}
    Path(folder).parent.mkdir()
    checkpoints.save(Path(folder), 1, tensors, {"saved": "before"})
    if when == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        kill_at(int(when), folder)
    checkpoints.save(Path(folder), 2, tensors, {"saved": "after"})
    checkpoints.prune(Path(folder), keep=1)
    return 0
