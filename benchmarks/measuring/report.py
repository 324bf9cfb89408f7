"""Options, tables and JSON that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl import system

Rows = Sequence[dict[str, Any]]
Part = tuple[str, Callable[[str, argparse.Namespace], Rows], Sequence[str]]
"""A title, what measures it for a preset, the columns that are shown."""
RESULTS = Path(__file__).resolve().parent.parent / "results"
UNNAMED = ("quick", "results", "after")
"""Options that a file's name does not have, or has in its own way."""


def parser(
    description: str | None, parts: Sequence[str] = (), without: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The options of every benchmark.

    Args:
        description: of the benchmark.
        parts: that can be measured one by one.
        without: options that mean nothing to it: ``seed``, ``threads``, ``presets``.
    """
    result = argparse.ArgumentParser(
        allow_abbrev=False,
        description=(description or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(name: str, **details: Any) -> None:
        if name.removeprefix("--") not in without:
            result.add_argument(name, **details)

    add("--quick", action="store_true", help="tiny sizes and one round: does it run at all?")
    add("--rounds", type=int, help="rounds of each measurement (default: 7; 1 if quick)")
    add("--seed", type=int, default=1, help="of tasks, policies and episodes")
    add("--threads", type=int, nargs="+", default=[1, 2], help="thread counts to measure")
    add("--presets", nargs="+", choices=("paper", "gym"), default=["paper", "gym"], help="sizes")
    if parts:
        add("--parts", nargs="+", choices=parts, default=list(parts), help="what to measure")
    add("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    return result


class Report:
    """What one benchmark found: printed at once, and written as JSON.

    Args:
        name: of the file in the results folder.
        options: of the command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        if options.rounds is None:
            options.rounds = 1 if options.quick else 7
        parts = [name, *asked(), *["quick"] * options.quick]
        self.path = options.results / f"{'-'.join(parts)}.json"
        # Program and options, without the folder that they happen to be in.
        self.record: dict[str, Any] = {
            "name": name,
            "command": f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
            "seed": getattr(options, "seed", None),
            "quick": options.quick,
            "rounds": options.rounds,
            "system": system.describe(),
            "load": {"start": load(), "end": None},
            "results": {},
        }
        described = self.record["system"]
        print(
            f"{name}: {described['cpu']}, {described['cores']} cores, load {load()}\n", flush=True
        )

    def table(self, title: str, rows: Rows, columns: Sequence[str]) -> None:
        """Print ``columns`` of ``rows`` as Markdown; keep whole rows, raw timings included."""
        self.record["results"].setdefault(title, []).extend(rows)
        cells = [list(columns), *([shown(row.get(name)) for name in columns] for row in rows)]
        widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
        print(f"{title}\n")
        for index, line in enumerate(cells):
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print("| " + " | ".join(padded) + " |")
            if index == 0:
                print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
        print(flush=True)
        self.write()

    def measure(self, parts: Mapping[str, Part], options: argparse.Namespace) -> None:
        """A table for every part and preset that is asked for, and how long it took."""
        for part in options.parts:
            title, work, columns = parts[part]
            for preset in options.presets:
                began = time.perf_counter()
                self.table(title, work(preset, options), columns)
                took = time.perf_counter() - began
                print(f"({part} of {preset} took {took:.0f} s)\n", flush=True)

    def write(self) -> None:
        """Write what there is so far, so that an interrupted benchmark leaves its finished tables."""
        self.record["load"]["end"] = load()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record, indent=1) + "\n")


def asked() -> list[str]:
    """What the command line asks for, for the file's name: it must not replace the whole."""
    named, option = [], ""
    for word in sys.argv[1:]:
        value = word
        if word.startswith("--"):
            option, _, value = word[2:].partition("=")
        if value and option not in UNNAMED:
            named.append(option + value if value.isdigit() else value)
    return named


def load() -> list[float] | None:
    """The load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def shown(value: Any) -> str:
    """A cell of a table: three significant digits, or whole numbers with separators."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
