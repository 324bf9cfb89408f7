"""Numbers, durations and trends in a few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


def number(value: float) -> str:
    """A number in a few characters: four significant digits, at most two decimals of large ones."""
    if abs(value) >= 10.0:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1.0 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``1:02``, ``3:04:05`` or ``2d 03:04``; a dash for None."""
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def sparklines(*series: Sequence[float], blocks: str = BLOCKS) -> list[str]:
    """One character per value, on one scale for all series; a blank for what is not finite."""
    finite = [value for values in series for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(blocks) - 1) / ((high - low) or 1.0)
    return [
        "".join(
            blocks[round((value - low) * scale)] if math.isfinite(value) else " "
            for value in values
        )
        for values in series
    ]


def writable(text: str, stream: Any, errors: str = "replace") -> str:
    """The text with ``?``, or what Python's handler ``errors`` gives, for what the stream's encoding cannot write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, errors=errors).decode(encoding)
