"""How much memory does a meta-iteration take, and what does it cost to take less?

Each row is one iteration in a process of its own; ``outer.chunk`` is the number of tasks whose activations are held.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from measuring import children, stages
from measuring.report import Report, parser


class Size(NamedTuple):
    """What is measured: settings away from the configured ones, and values of ``outer.chunk``."""

    overrides: tuple[str, ...]
    chunks: tuple[str, ...]


LARGE = ("outer.tasks=160", "problem.episodes=50", "problem.horizon=500")
SIZES = {
    "configured": Size((), ("1", "10", "20", "30", "40", "auto")),
    "large": Size(LARGE, ("auto", "1")),
}
QUICK = {"configured": Size((), ("1", "auto"))}
COLUMNS = (
    *("preset", "size", "threads", "chunk", "kept", "seconds", "cpu", "update", "products"),
    *("peak MiB", "before MiB"),
)


def measure(
    preset: str, name: str, size: Size, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """All chunks of one size, with the most threads."""
    rows = []
    threads = max(options.threads)
    for chunk in options.chunks or size.chunks:
        given = [f"threads={threads}", f"seed={options.seed}", *size.overrides]
        found = children.measure(
            *(preset, options.quick, [*given, f"outer.chunk={chunk}"]),
            *(options.rounds, 0),
        )
        spent = found["stages"]
        update = sum(spent[stage] for stage in stages.STAGES[3:])
        row = {"preset": preset, "size": name, "threads": threads, "chunk": chunk}
        rows.append(row | {"update": update, "products": spent["products"]} | found)
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.set_defaults(rounds=1, presets=["paper"])
    arguments.add_argument(
        "--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="what to measure"
    )
    arguments.add_argument(
        "--chunks", nargs="+", help="values of outer.chunk, instead of the usual"
    )
    options = arguments.parse_args()
    report = Report("memory", options)
    torch.set_num_threads(1)
    for preset in options.presets:
        for name, size in (QUICK if options.quick else SIZES).items():
            if name in options.sizes:
                report.table("Memory", measure(preset, name, size, options), COLUMNS)


if __name__ == "__main__":
    main()
