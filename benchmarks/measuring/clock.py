"""A limit to how long a benchmark takes: what does not fit any more is left out, and said."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping


class Clock:
    """Seconds that are left, shared out evenly over the measurements that are still to come.

    Args:
        seconds: in all, from now on.
        measurements: how many there will be.

    Attributes:
        left_out: what did not fit.
    """

    def __init__(self, seconds: float, measurements: int) -> None:
        self._end, self._to_come = time.perf_counter() + seconds, measurements
        self._until = self._end
        self.left_out: list[str] = []

    def begin(self) -> None:
        """The next measurement begins."""
        now = time.perf_counter()
        self._until = now + (self._end - now) / self._to_come
        self._to_come -= 1

    def left(self) -> float:
        """Seconds of this measurement; below zero, it takes some of the next one's."""
        return self._until - time.perf_counter()

    def fit(
        self, once: Mapping[str, float], spare: Collection[str], rounds: int
    ) -> tuple[list[str], int]:
        """What is measured, and in how many rounds: first the dearest that can be spared goes, then rounds.

        Args:
            once: seconds that one round of each alternative takes.
            spare: those that can be left out.
            rounds: how many there should be; there is at least one.
        """
        kept = dict(once)
        while sum(kept.values()) * rounds > self.left():
            dearest = max(
                (name for name in kept if name in spare), key=kept.__getitem__, default=None
            )
            if dearest is None:
                break
            del kept[dearest]
        total = sum(kept.values())
        return list(kept), int(max(1, min(rounds, self.left() / total))) if total else rounds
