"""What the system says of its processor."""

from __future__ import annotations

import platform
from pathlib import Path


def described(key: str, source: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's ``key`` in /proc/cpuinfo; where there is none, what Python knows of the processor."""
    try:
        for line in source.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
