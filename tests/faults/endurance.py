"""Trains for long and watches the process: memory, open files and threads must stay flat.

    python tests/faults/endurance.py --iterations 2000
    python tests/faults/endurance.py --seconds 3600 configs/nav2d.yaml iterations=1000000 run.checkpoint_every=30

Without a configuration it trains the fault suite's tiny one. What training prints goes to <folder>/output.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import driver

SAMPLES = 20
GROWTH_KIB = 16 * 1024


class Sample(NamedTuple):
    """The process at one moment; memory in KiB."""

    seconds: float
    iterations: int
    memory: int
    descriptors: int
    threads: int


def watch(pid: int, record: Iterator[int], every: float, by_iterations: bool) -> Iterator[Sample]:
    """A sample each time that ``every`` more iterations, or seconds, have gone by, until the process ends."""
    began, due = time.monotonic(), every
    for iterations in record:
        seconds = time.monotonic() - began
        if (iterations if by_iterations else seconds) >= due:
            try:
                yield Sample(seconds, iterations, *driver.resources(pid))
            except (FileNotFoundError, KeyError):  # it has just ended
                return
            due += every


def lines(directory: Path, child: subprocess.Popen) -> Iterator[int]:
    """How long the record is, again and again."""
    count, file = 0, None
    while child.poll() is None:
        if file is None:
            found = list(directory.glob("*/*/metrics.jsonl"))
            file = found[0].open("rb") if found else None
        else:
            count += file.read().count(b"\n")
        yield count
        time.sleep(0.02)


def growth(samples: list[Sample]) -> int:
    """KiB from the mean of the second quarter to that of the last: the first fills caches."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return round(sum(s.memory for s in late) / quarter - sum(s.memory for s in early) / quarter)


def assert_flat(samples: list[Sample]) -> None:
    """No growth of memory beyond noise; from the second quarter on, no more open files or threads."""
    assert len(samples) >= 8, samples
    assert growth(samples) < GROWTH_KIB, samples
    rest = samples[len(samples) // 4 :]
    early, late = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    # The fewest, because a sample may fall into the writing of a checkpoint.
    assert min(s.descriptors for s in late) <= min(s.descriptors for s in early), samples
    assert len({sample.threads for sample in rest}) == 1, samples


def endure(folder: Path, arguments: list[str], iterations: int, seconds: float) -> list[Sample]:
    """Train, print a sample of the process now and then, and give all of them.

    Args:
        folder: of the runs and the output.
        arguments: of the training command.
        iterations: how many, where ``seconds`` is 0.
        seconds: end training by SIGTERM after so many.
    """
    command = [sys.executable, "-m", "metarl.train", *arguments, "--run-dir", str(folder / "runs")]
    environment = os.environ | {"PYTHONPATH": str(driver.ROOT)}
    samples = []
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as child,
    ):
        every = (seconds or iterations) / SAMPLES
        print("seconds  iterations  memory/KiB  descriptors  threads", flush=True)
        for sample in watch(child.pid, lines(folder / "runs", child), every, seconds == 0):
            print("{:7.0f}  {:10}  {:10}  {:11}  {:7}".format(*sample), flush=True)
            samples.append(sample)
            if seconds and len(samples) == SAMPLES:
                child.send_signal(signal.SIGTERM)
    expected = 128 + signal.SIGTERM if seconds else 0
    assert child.returncode == expected, (folder / "output").read_text()
    print(f"growth of memory from the second quarter to the last: {growth(samples)} KiB")
    return samples


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="configuration and key=value; default: tiny")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="instead of --iterations")
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="metarl-endurance-"))
    folder.mkdir(parents=True, exist_ok=True)
    count = f"iterations={options.iterations}"
    arguments = options.settings or [driver.CONFIG, *driver.TINY, count]
    print(f"training in {folder}", flush=True)
    assert_flat(endure(folder, arguments, options.iterations, options.seconds))
    print("flat")


if __name__ == "__main__":
    main()
