"""The processes of a run: one alone, or as many as ``torchrun`` has started, which share the tasks.

A single process neither loads torch.distributed for this nor opens a socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar

from metarl.errors import UserError

if TYPE_CHECKING:
    from metarl.problems.protocol import Share

Made = TypeVar("Made")
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """The processes of a run, as its only one sees them: it has every task, and nobody to wait for.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def check_alike(self) -> None:
        """Raise UserError where another host has other versions than the first."""

    def check_gpus(self, device: str) -> None:
        """Raise UserError where a run is to use GPUs, by its setting, and has not one of a kind for every process."""

    def share(self, count: int) -> Share:
        """The part of so many tasks that this process computes."""
        from metarl.problems.protocol import Share

        return Share(0, count)

    def from_first(
        self,
        make: Callable[[], Made],
        pack: Callable[[Made], bytes],
        unpack: Callable[[bytes], Made],
    ) -> Made:
        """What ``make`` gives in the first process, sent to the others as bytes."""
        return make()

    def on_first(self, make: Callable[[], Any], instead: Callable[[], Any]) -> Any:
        """What ``make`` gives in the first process, ``instead`` in the others."""
        return make() if self.first else instead()

    def at_boundary(self, stop: int, fingerprint: Callable[[], str]) -> int:
        """Agree between two iterations on the signal to stop for, 0 for none.

        Raises:
            UserError: the processes have learned different things.
        """
        return stop

    def writing(self) -> AbstractContextManager[None]:
        """While the first process writes, the others wait for it however slow the disk is."""
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


ALONE = Ranks()


class Unrecorded:
    """What a process that writes nothing has in the place of a :class:`metarl.runs.Run`."""

    path = Path()

    def log(self, *_: Any) -> None:
        """Nothing."""

    def figure(self, *_: Any) -> None:
        """Nothing."""

    def save_checkpoint(self, *_: Any) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def silence() -> TextIO:
    """A stream that nobody reads."""
    return Path(os.devnull).open("w", encoding="utf-8")


def connected() -> Ranks:
    """This process among those that ``torchrun`` started; to be used as a context manager.

    Raises:
        UserError: the environment variables by which it says so are incomplete, or the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set; start "
            "the processes with torchrun, or unset WORLD_SIZE."
        )
    # A store that is gone has a sentence of ours, and needs no list of C++ frames beside it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # One GPU to each process; hidden, and not chosen, because threads begin with the first that they see.
    os.environ["CUDA_VISIBLE_DEVICES"] = own_gpu(os.environ)
    from metarl.distributed.processes import connect

    return connect()


def own_gpu(environment: Mapping[str, str]) -> str:
    """``CUDA_VISIBLE_DEVICES`` for this process alone: of the GPUs it may see, the one of its number on this host.

    A process beyond them sees none, as two cannot share one; whether that matters is for `check_gpus` to say.
    """
    local, visible = environment.get("LOCAL_RANK", "0"), environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return local
    names = visible.split(",")
    return names[int(local)] if int(local) < len(names) else ""
