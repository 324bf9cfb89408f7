"""What can be said to ``python -m metarl.train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.train",
        description="Meta-train as a configuration says, into a folder of its own under runs/.",
        epilog="Settings can be replaced: python -m metarl.train configs/nav2d.yaml inner.lr=0.1 seed=3",
    )
    result.add_argument("config", nargs="?", help="YAML file, such as configs/cheetah_vel.yaml")
    result.add_argument(
        "overrides", nargs="*", metavar="key=value", help="replaces a setting: outer.max_kl=0.02"
    )
    result.add_argument("--seed", type=int, help="the same as seed=...")
    result.add_argument("--device", help="the same as device=...: auto, cpu or cuda")
    result.add_argument(
        "--run-dir", metavar="DIR", help="folder that holds the runs, instead of run.directory"
    )
    result.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="RUN",
        help="continue a run: its folder, or the latest one",
    )
    result.add_argument(
        "--fast-dev-run", action="store_true", help="one small iteration of everything"
    )
    result.add_argument("--print-config", action="store_true", help="print every setting and end")
    result.add_argument("--traceback", action="store_true", help="show where an error came from")
    return result


def read_command_line(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and every override that they amount to."""
    options = parser().parse_intermixed_args(arguments)
    if options.config and is_setting(options.config):
        options.overrides.insert(0, options.config)
        options.config = None
    if options.resume and is_setting(options.resume):
        options.overrides.insert(0, options.resume)
        options.resume = "latest"
    overrides = options.overrides + [
        f"{key}={value}"
        for key in ("seed", "device")
        if (value := getattr(options, key)) is not None
    ]
    return options, overrides


def is_setting(argument: str) -> bool:
    """Whether what stands in the place of a path is ``key=value`` instead."""
    try:
        return "=" in argument and not Path(argument).exists()
    except OSError:  # longer than any path
        return True
