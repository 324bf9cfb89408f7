"""Several processes of one run, by torch.distributed: how they meet, what they exchange, how they end.

Every process takes the same outer step from the same numbers: :mod:`metarl.distributed.sharing`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from metarl import system
from metarl.distributed.liveness import BEAT, RankEndedError, Vigil
from metarl.distributed.ranks import Made, Ranks
from metarl.distributed.sharing import RankShare
from metarl.errors import (
    MISTAKE,
    Terminated,
    UserError,
    is_expected,
    one_line,
    run_command,
)
from metarl.problems.protocol import Share

START = timedelta(minutes=5)
"""How long processes wait for each other to start."""
FOREVER = timedelta(days=1)
"""The limit of one exchange; who hangs is found otherwise, and sooner."""
SAME = ("metarl", "torch", "mujoco", "gymnasium", "numpy", "commit")


class ConnectedRanks(Ranks):
    """This process and the others.

    Args:
        group: of torch.distributed.
        vigil: of this process, which has met the others.
    """

    def __init__(self, group: Any, vigil: Vigil) -> None:
        self.group, self.vigil = group, vigil
        self.rank, self.size = vigil.rank, vigil.size

    def share(self, count: int) -> Share:
        """Consecutive tasks, as many as the others have or one more; where there are too few, the last one along."""
        start, stop = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        if start == stop:
            return RankShare(self, count - 1, 1, idle=True)
        return RankShare(self, start, stop - start)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """The rows ``[n, B]`` of every process, of which each has as many as it likes."""
        counts = [int(count) for count in self._all(torch.tensor([len(rows)]))]
        if max(counts) == 0:
            return [rows] * self.size
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        return [each[:count] for each, count in zip(self._all(padded), counts, strict=True)]

    def exchange(self, message: bytes) -> list[bytes]:
        """The messages of all processes."""
        sent = torch.from_numpy(np.frombuffer(message, np.uint8).copy()).unsqueeze(1)
        return [bytes(each.flatten().numpy()) for each in self.gather(sent)]

    def from_first(
        self,
        make: Callable[[], Made],
        pack: Callable[[Made], bytes],
        unpack: Callable[[bytes], Made],
    ) -> Made:
        """What ``make`` gives in the first process, sent to the others as bytes."""
        if self.first:
            made = make()
            self.exchange(pack(made))
            return made
        return unpack(self.exchange(b"")[0])

    def at_boundary(self, stop: int, fingerprint: Callable[[], str]) -> int:
        """Agree between two iterations on the signal to stop for, 0 for none."""
        own = json.dumps([stop, fingerprint()]).encode()
        told = [json.loads(each) for each in self.exchange(own)]
        for rank, (_, learned) in enumerate(told):
            if learned != told[0][1]:
                raise UserError(
                    f"rank {rank} has other parameters than rank 0 after the same iteration; the "
                    "processes of a run need processors, devices and libraries of one kind."
                )
        return max(each for each, _ in told)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While the first process writes, the others wait for it however slow the disk is."""
        self.vigil.excused = True
        yield
        self.vigil.excused = False

    def check_alike(self) -> None:
        """Raise UserError where another host has other versions than the first."""
        own = system.describe()
        self._refuse_unlike(self._tell({name: own[name] for name in SAME}))

    def check_gpus(self, device: str) -> None:
        """Raise UserError where a run is to use GPUs, by its setting, and has not one of a kind for every process."""
        if device == "cpu":
            return
        told = self._tell({"gpu": system.gpu()})
        if all(each["gpu"] is None for each in told):
            return
        hosts = [person.host for person in self.vigil.people]
        for host in dict.fromkeys(hosts):
            here = [each["gpu"] for each, its in zip(told, hosts, strict=True) if its == host]
            gpus = sum(each is not None for each in here)
            if gpus < len(here):
                raise UserError(
                    f"{len(here)} processes on {host}, {gpus} GPU{'' if gpus == 1 else 's'}: "
                    f"start {gpus or 'none'} there, or set device=cpu."
                )
        self._refuse_unlike(told)

    def _tell(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """The facts of every process."""
        return [json.loads(each) for each in self.exchange(json.dumps(facts).encode())]

    def _refuse_unlike(self, told: Sequence[dict[str, Any]]) -> None:
        """Raise UserError where a process has other facts than the first."""
        for rank, facts in enumerate(told):
            for name, value in facts.items():
                if value != told[0][name]:
                    host = self.vigil.people[rank].host
                    raise UserError(
                        f"rank {rank} on {host} has {name} {value}, but rank 0 has "
                        f"{told[0][name]}; every process of a run needs the same."
                    )

    def __enter__(self) -> ConnectedRanks:
        if not self.first:  # what is said of a meta-batch, every process would say
            logging.getLogger("metarl").setLevel(logging.ERROR)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self.exchange(b"")  # nobody leaves before the first process has closed its files
            except RankEndedError as late:
                error = late
        if error is None:
            self.vigil.stop()
            dist.destroy_process_group()
            return
        code = self._last_words(error)
        sys.stdout.flush()
        if self.first:  # without torchrun this process keeps the store that tells the others
            time.sleep(3.0 * BEAT)
        # At once: an exchange that never ends would hold the interpreter back.
        os._exit(code)

    def _last_words(self, error: BaseException) -> int:
        """Say what ended the run, if it falls to this process; the exit code."""
        if isinstance(error, Terminated):
            self.vigil.find_cause()  # torchrun ends the others when one has ended
        mine = not isinstance(error, RankEndedError) and self.vigil.report(
            self.rank, f"ended: {one_line(error)}", said=True
        )
        end = self.vigil.end
        assert end is not None
        if mine and isinstance(error, Exception) and not is_expected(error):
            traceback.print_exception(error)
            return 1
        if not mine and not self.vigil.speaks(end):
            return MISTAKE
        told = RankEndedError(self.vigil.sentence(end))

        def fail() -> int:
            raise error if mine and not isinstance(error, Exception) else told

        return run_command(fail)

    def _all(self, tensor: Tensor) -> list[Tensor]:
        """The same tensor of all processes; raises where one of them has ended, or hangs."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self.vigil.begin_wait()
        pause = 2e-5
        try:
            work = self.group.allgather([found], [tensor])
            while not work.is_completed():
                self.vigil.check()
                time.sleep(pause)
                pause = min(2 * pause, 0.002)
            work.wait()
        except RuntimeError as error:
            self.vigil.find_cause()
            self.vigil.report(self.rank, f"has lost the others ({one_line(error)})")
            self.vigil.check()
        self.vigil.end_wait()
        return found


def connect() -> ConnectedRanks:
    """Meet the processes that ``torchrun`` started, by its environment variables."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "cpu:gloo"
    try:
        store, _, _ = next(rendezvous("env://", timeout=START))
        # The vigil comes first: it waits for a process that never starts as long as the store does, and no longer.
        vigil = Vigil(store.clone(), rank, size)
        with _reporting(vigil):
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=FOREVER,
            )
        ranks = ConnectedRanks(dist.group.WORLD, vigil)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"rank {rank} of {size} cannot meet the others at {place} ({one_line(error)}); start "
            "as many processes as torchrun was told, with one --master-addr that all hosts reach."
        ) from error
    return ranks


@contextlib.contextmanager
def _reporting(vigil: Vigil) -> Iterator[None]:
    """Tell the others of an error, and end the vigil: its thread would keep this process alive."""
    try:
        yield
    except BaseException as error:
        vigil.report(vigil.rank, f"ended: {one_line(error)}", said=True)
        vigil.stop()
        raise
