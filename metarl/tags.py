"""Tags of what is measured before and after adaptation, whatever the problem."""

from __future__ import annotations

from collections.abc import Iterable

ADAPTED = ("return", "accuracy", "loss")
"""What adaptation changes; where several are measured, the first is shown."""
PAIR = ("pre", "post")
"""Before and after adaptation."""


def adapted(tags: Iterable[str]) -> list[str]:
    """Those of ``ADAPTED`` that are among the tags."""
    there = set(tags)
    return [name for name in ADAPTED if there & {f"{name}/{when}" for when in PAIR}]
