"""What a person sees while a cache is built: on standard error, since a command may print data."""

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
    """Counts pictures: one line that is drawn anew on a terminal, a line now and then elsewhere.

    Args:
        title: what is built.
        total: pictures.
        stream: where to write; None: standard error.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        title: str,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._clock = title, total, clock
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._done, self._begun = 0, clock()
        self._shown = self._begun

    def advance(self) -> None:
        """One picture more."""
        self._done += 1
        every = SECONDS_LIVE if self._live else SECONDS_BETWEEN_LINES
        if self._clock() - self._shown >= every:
            self._show("\r" if self._live else "\n")

    def __enter__(self) -> Self:
        self._show("\r" if self._live else "\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._show("\n")

    def _show(self, end: str) -> None:
        self._shown = self._clock()
        line = (
            f"building {self._title}: {self._done:,} of {self._total:,} pictures, "
            f"{duration(self._shown - self._begun)}"
        )
        print(writable(line, self._stream), end=end, file=self._stream, flush=True)
