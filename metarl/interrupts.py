"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from metarl.errors import end_at_once

FORWARDED = 0.5
"""Seconds in which a second SIGTERM is the first one, sent along: a scheduler may tell a whole group of processes,
and torchrun then tells its own once more."""


class Interrupts:
    """Remembers SIGINT and SIGTERM, so that an iteration ends whole. A second one of either ends it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number), now
        elif not (number == self.received == signal.SIGTERM and now - self._at < FORWARDED):
            end_at_once(number)
