"""What a person sees of work that can be counted: on standard error, since a command may print data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

from metarl.presentation.plaintext import duration, writable

SECONDS_LIVE, SECONDS_BETWEEN_LINES = 0.1, 10.0


def say(text: str, stream: TextIO | None = None) -> None:
    """One line."""
    stream = stream or sys.stderr
    print(writable(text, stream), file=stream, flush=True)


class Progress:
    """Counts: one line that is drawn anew on a terminal, a line now and then elsewhere.

    Args:
        title: what is done.
        total: how many there are.
        unit: of what.
        patient: whether nothing is shown of what takes no time worth a line.
        stream: where to write; None: standard error.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        patient: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._done, self._begun = 0, clock()
        self._shown, self._width, self._seen = self._begun, 0, False
        self._patient = patient

    def advance(self, count: int = 1) -> None:
        """So many more."""
        self._done += count
        every = SECONDS_LIVE if self._live else SECONDS_BETWEEN_LINES
        if self._clock() - self._shown >= every:
            self._show("\r" if self._live else "\n")

    def __enter__(self) -> Self:
        if not self._patient:
            self._show("\r" if self._live else "\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._seen:
            self._show("\n")

    def _show(self, end: str) -> None:
        self._shown, self._seen = self._clock(), True
        elapsed = self._shown - self._begun
        line = f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {duration(elapsed)}"
        if 0 < self._done < self._total:
            line += f", left {duration(elapsed * (self._total / self._done - 1))}"
        # A line that is drawn over a longer one would leave its end.
        line, self._width = line.ljust(self._width), len(line) if self._live else 0
        print(writable(line, self._stream), end=end, file=self._stream, flush=True)
