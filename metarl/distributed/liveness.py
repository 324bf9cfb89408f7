"""Signs of life: every process of a run knows within seconds that one has ended or hangs, which, and why.

Each process has a thread that tells the others twice a second how far it is, through the key-value store that
``torchrun`` keeps, and looks at what they tell. Who ended the run is a key of that store which is written once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from metarl.checks.failures import Naming

BEAT = 0.5
"""Seconds between two signs of life."""
SILENT, SUSPECTED = 10.0, 2.5
"""Seconds without one after which a process counts as gone; the same where a connection has broken."""
STUCK, FIRST, SLOW = 20.0, 600.0, 60.0
"""Seconds for which the others wait while one call of an environment lasts; while its first one lasts, in which it may
compile what it needs; and without any progress at all."""
GRACE = 3.0
"""Seconds that a process has to end by itself once the run has ended."""
ENDED, PERSON, SIGN = "metarl/ended", "metarl/person", "metarl/sign"


class RankEndedError(Exception):
    """A process of the run ended or hangs; one sentence with its rank, its host and the cause."""


class Person(NamedTuple):
    """A process, as it introduces itself."""

    rank: int
    host: str
    namespace: str
    pid: int


class Sign(NamedTuple):
    """What a process tells of itself.

    Attributes:
        beat: how many signs it has given.
        exchanges: how often it has begun to wait for the others.
        still: seconds since it last made progress.
        longest: the longest that it ever took between two exchanges, in seconds.
        place: the call of an environment that it is in; empty: none.
        excused: it writes, which may take as long as it takes.
        done: it has reached the end of the run.
        first: the environment has not returned from such a call before.
    """

    beat: int = 0
    exchanges: int = 0
    still: float = 0.0
    longest: float = 0.0
    place: str = ""
    excused: bool = False
    done: bool = False
    first: bool = False


class End(NamedTuple):
    """How the run ended.

    Attributes:
        rank: which process is to blame.
        cause: why, to be read after its name.
        said: it has printed so itself.
        known: to the others.
    """

    rank: int
    cause: str
    said: bool
    known: bool = True


class Vigil:
    """Watches over the processes of a run, from a thread.

    Args:
        store: torch's key-value store, which no other thread uses.
        rank: of this process.
        size: how many there are.
        leave: ends this process with an exit code, for when its main thread does not.
    """

    def __init__(
        self, store: Any, rank: int, size: int, leave: Callable[[int], Any] = os._exit
    ) -> None:
        self.rank, self.size, self._store, self._leave = rank, size, store, leave
        self.end: End | None = None
        self.waits = self.excused = self.suspicious = self._done = False
        self._exchanges, self._longest = 0, 0.0
        self._worked_since = self._moved = self._looked = time.monotonic()
        self._progress: tuple[int, int] = (0, 0)
        self._signs = [Sign()] * size
        self._heard = [time.monotonic()] * size
        self.people = self._meet()
        self._handles = self._open_handles()
        self._stopped = threading.Event()
        # Not a daemon: as long as it runs the interpreter does not end, and it ends the process if need be.
        self._thread = threading.Thread(target=self._watch, name=f"vigil {rank}")
        self._thread.start()

    def begin_wait(self) -> None:
        """This process has come to an exchange."""
        self._exchanges += 1
        self._longest = max(self._longest, time.monotonic() - self._worked_since)
        self.waits = True

    def end_wait(self) -> None:
        """The exchange is done."""
        self.waits = False
        self._worked_since = time.monotonic()

    def check(self) -> None:
        """Raise RankEndedError if the run has ended."""
        if time.monotonic() - self._looked > SILENT + GRACE:
            self._lose_store()
        if self.end is not None:
            raise RankEndedError(self.sentence(self.end))

    def report(self, rank: int, cause: str, said: bool = False) -> bool:
        """Say that a process has ended the run; whether nobody was earlier."""
        value = json.dumps([rank, cause, said])
        try:
            kept = self._store.compare_set(ENDED, "", value).decode()
        except RuntimeError:
            kept = value
        self.end = self.end or End(*json.loads(kept))
        return bool(kept == value)

    def find_cause(self) -> None:
        """A connection has broken: wait until it is known who has ended."""
        self.suspicious = True
        deadline = time.monotonic() + SUSPECTED + 4 * BEAT
        while self.end is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def sentence(self, end: End) -> str:
        """Who ended the run, and why."""
        person = self.people[end.rank]
        who = f"rank {end.rank} of {self.size} (process {person.pid} on {person.host})"
        return f"{who} {end.cause}"

    def speaks(self, end: End) -> bool:
        """Whether it falls to this process to print that, so that every host hears it once."""
        here = [each.rank for each in self.people if each.host == self.people[self.rank].host]
        if end.said and end.rank in here:
            return False
        if not end.known:
            return True
        return self.rank == ([rank for rank in here if rank != end.rank] or here)[0]

    def stop(self) -> None:
        """Watch no longer: the run is done."""
        self._stopped.set()
        self._thread.join()
        self._done = True
        with suppress(RuntimeError):  # who kept the store may be gone already
            self._tell()
        for handle in self._handles.values():
            os.close(handle)

    def _meet(self) -> list[Person]:
        try:
            namespace = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            namespace = ""
        own = Person(self.rank, socket.gethostname(), namespace, os.getpid())
        self._tell()
        self._store.set(f"{PERSON}/{self.rank}", json.dumps(own))
        return [
            Person(*json.loads(self._store.get(f"{PERSON}/{rank}"))) for rank in range(self.size)
        ]

    def _open_handles(self) -> dict[int, int]:
        """Of the other processes here: unlike a number, a handle never comes to mean another process."""
        own, handles = self.people[self.rank], {}
        for other in self.people:
            near = (other.host, other.namespace) == (own.host, own.namespace)
            if near and own.namespace and other.pid != own.pid and hasattr(os, "pidfd_open"):
                with suppress(OSError):
                    handles[other.rank] = os.pidfd_open(other.pid)
        return handles

    def _watch(self) -> None:
        ended_at = None
        while not self._stopped.wait(BEAT):
            if self.end is None:
                try:
                    self._tell()
                    self._listen()
                    self._judge()
                    self._looked = time.monotonic()
                except RuntimeError:
                    self._lose_store()
            else:
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at > GRACE:
                    self._end_here(self.end)

    def _lose_store(self) -> None:
        lost = "has lost the store by which processes meet: torchrun, rank 0 or the network is down"
        self.end = self.end or End(self.rank, lost, said=False, known=False)

    def _tell(self) -> None:
        now, progress = time.monotonic(), (self._exchanges, Naming.begun)
        if progress != self._progress:
            self._progress, self._moved = progress, now
        call = Naming.longest_open()
        sign = Sign(
            self._signs[self.rank].beat + 1,
            self._exchanges,
            now - self._moved,
            self._longest,
            call.place() if call else "",
            self.excused,
            self._done,
            call is not None and call.first,
        )
        self._signs[self.rank] = sign
        self._store.set(f"{SIGN}/{self.rank}", json.dumps(sign))

    def _listen(self) -> None:
        now = time.monotonic()
        if now - self._looked > SUSPECTED:  # who slept cannot say that the others did
            self._heard = [now] * self.size
        names = [f"{SIGN}/{rank}" for rank in range(self.size)]
        signs = [Sign(*json.loads(each)) for each in self._store.multi_get(names)]
        for rank, sign in enumerate(signs):
            if sign.beat != self._signs[rank].beat or rank == self.rank:
                self._heard[rank] = now
        self._signs = signs
        if self.end is None and self._store.check([ENDED]):
            self.end = End(*json.loads(self._store.get(ENDED)))

    def _judge(self) -> None:
        """Blame a process that has fallen silent, or that the others wait for in vain."""
        if self.end is not None:
            return
        own = self._signs[self.rank]
        for rank, sign in enumerate(self._signs):
            where = f" in {sign.place}" if sign.place else ""
            silence = time.monotonic() - self._heard[rank]
            if sign.done:
                continue
            if self._has_ended(rank) or (self.suspicious and silence > SUSPECTED):
                self.report(rank, f"ended without a word{where}: killed, or crashed")
            elif silence > SILENT:
                self.report(rank, f"gives no sign of life{where}: stopped, or cut off")
                self._kill(rank)
            elif (
                self.waits
                and sign.exchanges < own.exchanges
                and not sign.excused
                and sign.still > self._patience(sign)
            ):
                self.report(rank, f"hangs{where}: no progress for {sign.still:.0f} s")

    def _patience(self, sign: Sign) -> float:
        """Seconds for which a process may be without progress where the others wait for it."""
        if sign.place:
            return FIRST if sign.first else STUCK
        return SLOW + 10.0 * max(each.longest for each in self._signs)

    def _has_ended(self, rank: int) -> bool:
        """Whether a process of this host is no more."""
        return rank in self._handles and bool(select.select([self._handles[rank]], [], [], 0)[0])

    def _kill(self, rank: int) -> None:
        """End a silent process of this host: a stopped one takes no other signal."""
        if rank in self._handles:
            with suppress(OSError):
                signal.pidfd_send_signal(self._handles[rank], signal.SIGKILL)

    def _end_here(self, end: End) -> None:
        """The main thread does not end the process."""
        if self.speaks(end):
            print(f"metarl: error: {self.sentence(end)}", file=sys.stderr, flush=True)
        self._leave(2)
