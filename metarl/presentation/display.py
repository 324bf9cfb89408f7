"""What a person sees while a run trains: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TextIO

from metarl.presentation.plaintext import (
    ASCII_BLOCKS,
    BLOCKS,
    duration,
    number,
    sparklines,
    writable,
)
from metarl.tags import ADAPTED, adapted

EVERY_LINE, SECONDS_BETWEEN_LINES = 10, 10.0
WINDOW, TREND = 50, 32


class Display:
    """Shows the progress of a run; a context manager.

    Args:
        total: iterations of the whole run.
        start: iterations completed before this process began.
        stream: where to write; None: standard output.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = stream or sys.stdout
        self._pace = Pace(total, start, clock)
        live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._view: _View = _Panel(stream, self._pace) if live else _Lines(stream, self._pace)

    def note(self, text: str) -> None:
        """Write a line that stays, such as the result of an evaluation."""
        self._view.note(text)

    def update(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of an iteration that has just ended.

        Args:
            iteration: iterations completed by now.
            metrics: by tag; those that are missing are left out.
        """
        self._pace.tick(iteration)
        self._view.update(dict(metrics))

    def __enter__(self) -> Self:
        self._view.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._view.close()


class Pace:
    """How far a run is, and how long it will take.

    Args:
        total: iterations of the whole run.
        start: iterations completed before.
        clock: seconds from any origin.
    """

    def __init__(self, total: int, start: int, clock: Callable[[], float]) -> None:
        self.total, self.done, self._clock = total, start, clock
        self._begun = clock()
        self._recent = deque([(start, self._begun)], maxlen=WINDOW + 1)

    def tick(self, done: int) -> None:
        """Note that ``done`` iterations are completed now."""
        self.done = done
        self._recent.append((done, self._clock()))

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def remaining(self) -> float | None:
        """Seconds to go, at the mean pace of the last 50 iterations; None before the first."""
        (first, begun), (last, now) = self._recent[0], self._recent[-1]
        if last <= first:
            return None
        return (self.total - self.done) * (now - begun) / (last - first)


class Reading(NamedTuple):
    """What is shown of an iteration's metrics.

    Attributes:
        name: ``return``, ``accuracy`` or ``loss``.
        before: value before adaptation; NaN where missing, as in all of these.
        after: value after it.
        gain: the difference, positive where adaptation helps.
        kl: of the outer step.
        accepted: 1 or 0.
        steps_per_second: environment steps.
        sampling: its share of the time of sampling and update.
    """

    name: str
    before: float
    after: float
    gain: float
    kl: float
    accepted: float
    steps_per_second: float
    sampling: float


def read(metrics: Mapping[str, float]) -> Reading:
    """Pick what is shown; the first of return, accuracy and loss that was measured."""
    nan = math.nan
    name = next(iter(adapted(metrics)), ADAPTED[0])
    before, after = metrics.get(f"{name}/pre", nan), metrics.get(f"{name}/post", nan)
    collect, outer = metrics.get("time/collect", nan), metrics.get("time/outer", nan)
    return Reading(
        name=name,
        before=before,
        after=after,
        gain=metrics.get(f"{name}/gain", before - after if name == "loss" else after - before),
        kl=metrics.get("outer/kl", nan),
        accepted=metrics.get("outer/accepted", nan),
        steps_per_second=metrics.get("time/env_steps_per_second", nan),
        sampling=collect / (collect + outer) if collect + outer > 0 else nan,
    )


def fields(reading: Reading) -> Iterator[tuple[str, str]]:
    """Name and text of everything that was measured, in the order of a plain line."""
    if math.isfinite(reading.after):
        before = f"{number(reading.before)} -> " if math.isfinite(reading.before) else ""
        yield reading.name, f"{before}{number(reading.after)}"
    if math.isfinite(reading.gain):
        yield "gain", f"{'+' if reading.gain >= 0 else ''}{number(reading.gain)}"
    if math.isfinite(reading.kl):
        yield "kl", f"{reading.kl:.2g}"
    if math.isfinite(reading.accepted):
        yield "step", "accepted" if reading.accepted else "rejected"
    if math.isfinite(reading.steps_per_second):
        yield "steps/s", f"{reading.steps_per_second:,.0f}"
    if math.isfinite(reading.sampling):
        yield "sampling", f"{reading.sampling:.0%}"
        yield "update", f"{1.0 - reading.sampling:.0%}"


class _View(Protocol):
    def open(self) -> None: ...
    def close(self) -> None: ...
    def note(self, text: str) -> None: ...
    def update(self, metrics: dict[str, float]) -> None: ...


class _Lines:
    """One line per iteration at first, then one every ten seconds, and the last one."""

    def __init__(self, stream: TextIO, pace: Pace) -> None:
        self._stream, self._pace = stream, pace
        self._written, self._time = 0, -math.inf
        self._waiting: dict[str, float] | None = None

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        if self._waiting is not None:
            self._write(self._waiting)

    def note(self, text: str) -> None:
        print(writable(text, self._stream), file=self._stream, flush=True)

    def update(self, metrics: dict[str, float]) -> None:
        due = self._pace.elapsed() - self._time >= SECONDS_BETWEEN_LINES
        if due or self._written < EVERY_LINE or self._pace.done >= self._pace.total:
            self._write(metrics)
        else:
            self._waiting = metrics

    def _write(self, metrics: dict[str, float]) -> None:
        pace = self._pace
        self._written, self._time, self._waiting = self._written + 1, pace.elapsed(), None
        width = len(str(pace.total))
        parts = [f"{name} {text}" for name, text in fields(read(metrics))]
        parts += [f"elapsed {duration(pace.elapsed())}", f"left {duration(pace.remaining())}"]
        self.note(f"{pace.done:>{width}}/{pace.total}  " + "  ".join(parts))


class _Panel:
    """A panel that is drawn anew four times a second, below the notes."""

    def __init__(self, stream: TextIO, pace: Pace) -> None:
        # Imported here, because only a terminal needs it.
        from rich.console import Console
        from rich.live import Live

        self._pace, self._console = pace, Console(file=stream, highlight=False)
        self._reading: Reading | None = None
        self._trend: tuple[Reading, ...] = ()
        self._live = Live(console=self._console, get_renderable=self._draw, transient=False)

    def open(self) -> None:
        self._live.start(refresh=True)

    def close(self) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        self._console.print(writable(text, self._console.file), markup=False, soft_wrap=True)

    def update(self, metrics: dict[str, float]) -> None:
        self._reading = read(metrics)
        self._trend = (*self._trend, self._reading)[-TREND:]
        self._live.refresh()

    def _draw(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        pace = self._pace
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"[bold]iteration {pace.done}/{pace.total}[/]",
            ProgressBar(total=max(pace.total, 1), completed=pace.done, width=32),
            f"elapsed {duration(pace.elapsed())}",
            f"left {duration(pace.remaining())}",
        )
        panel = Table.grid()
        panel.add_row(bar)
        if self._reading is not None:
            shown = dict(fields(self._reading))
            panel.add_row(self._adaptation(shown.pop("gain", "")))
            shown.pop(self._reading.name, None)
            details = "  ".join(f"{name} {text}" for name, text in shown.items())
            panel.add_row(f"[dim]{details}[/]")
        return panel

    def _adaptation(self, gain: str) -> Any:
        from rich.table import Table

        blocks = ASCII_BLOCKS if self._console.options.ascii_only else BLOCKS
        before = [each.before for each in self._trend]
        after = [each.after for each in self._trend]
        trends = sparklines(before, after, blocks=blocks)
        table = Table.grid(padding=(0, 2))
        name = self._trend[-1].name
        rows = ((f"{name} before", before, ""), ("after adaptation", after, f"[green]{gain}[/]"))
        for (label, values, note), trend in zip(rows, trends, strict=True):
            if math.isnan(values[-1]):
                continue
            table.add_row(label, f"[bold]{number(values[-1])}[/]", f"[cyan]{trend}[/]", note)
        return table
