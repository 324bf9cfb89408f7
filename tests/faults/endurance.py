"""Trains for long and watches the process: memory, open files and threads must stay flat.

    python tests/faults/endurance.py --iterations 2000
    python tests/faults/endurance.py --seconds 3600
    python tests/faults/endurance.py --seconds 3600 configs/cheetah_vel.yaml iterations=1000000

Without a configuration it trains 2D navigation, tiny for so many iterations, small for so many seconds; for those it
saves a checkpoint every minute or so, ends training by SIGTERM, and resumes it for one iteration more. What training
prints goes to <folder>/output.
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
from statistics import median
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from server import load

    load("folders", Path(__file__).parent.with_name("folders.py"))

import driver

from metarl import runs

SAMPLES = 20
# What is in use stays the same to 20 KiB; but one figure's pixels, 2 MiB, may or may not be given back to the system.
GROWTH_KIB = 3 * 1024
SMALL = ("outer.tasks=8", "problem.episodes=10", "threads=1", "evaluation.every=100")
COLUMNS = "seconds  iterations  checkpoints  memory/KiB  descriptors  threads"
ROW = "{:7.0f}  {:10}  {:11}  {:10}  {:11}  {:7}"


class Sample(NamedTuple):
    """The process at one moment; checkpoints written so far; memory in KiB."""

    seconds: float
    iterations: int
    checkpoints: int
    memory: int
    descriptors: int
    threads: int


def progress(directory: Path, child: subprocess.Popen, pause: float) -> Iterator[tuple[int, int]]:
    """How many iterations are in the record, and checkpoints were seen, again and again until the process ends."""
    count, file, seen = 0, None, set()
    while child.poll() is None:
        if file is None:
            found = list(directory.glob(f"*/*/{runs.METRICS}"))
            file = found[0].open("rb") if found else None
        else:
            count += file.read().count(b"\n")
            seen.update((Path(file.name).parent / "checkpoints").glob("[0-9]*"))
        yield count, len(seen)
        time.sleep(pause)
    if file is not None:
        file.close()


def watch(
    pid: int, made: Iterator[tuple[int, int]], every: float, by_iterations: bool
) -> Iterator[Sample]:
    """A sample each time that ``every`` more iterations, or seconds, have gone by."""
    began, due = time.monotonic(), every
    for iterations, checkpoints in made:
        seconds = time.monotonic() - began
        if (iterations if by_iterations else seconds) >= due:
            try:
                yield Sample(seconds, iterations, checkpoints, *driver.resources(pid))
            except (FileNotFoundError, KeyError):  # it has just ended
                return
            due += every


def growth(samples: list[Sample]) -> int:
    """KiB from the second quarter to the last, of their medians: the first fills caches, samples may fall into dips."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return round(median(s.memory for s in late) - median(s.memory for s in early))


def assert_flat(samples: list[Sample]) -> None:
    """No growth of memory beyond noise; from the second quarter on, no more open files or threads."""
    assert len(samples) >= 8, samples
    assert growth(samples) < GROWTH_KIB, samples
    rest = samples[len(samples) // 4 :]
    early, late = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    # The fewest, because a sample may fall into the writing of a checkpoint.
    assert min(s.descriptors for s in late) <= min(s.descriptors for s in early), samples
    assert len({sample.threads for sample in rest}) == 1, samples


def train(arguments: list[str], folder: Path) -> subprocess.Popen:
    """Start training; what it prints is added to <folder>/output."""
    with (folder / "output").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "metarl.train", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(driver.ROOT)},
        )


def endure(folder: Path, arguments: list[str], iterations: int, seconds: float) -> list[Sample]:
    """Train, print a sample of the process now and then, and give all of them.

    Args:
        folder: of the runs and the output.
        arguments: of the training command.
        iterations: how many, where ``seconds`` is 0.
        seconds: end training by SIGTERM after so many.
    """
    samples = []
    directory = folder / "runs"
    with train([*arguments, "--run-dir", str(directory)], folder) as child:
        every = (seconds or iterations) / SAMPLES
        print(COLUMNS, flush=True)
        made = progress(directory, child, pause=0.5 if seconds else 0.02)
        for sample in watch(child.pid, made, every, seconds == 0):
            print(ROW.format(*sample), flush=True)
            samples.append(sample)
            if seconds and len(samples) == SAMPLES:
                child.send_signal(signal.SIGTERM)
    expected = 128 + signal.SIGTERM if seconds else 0
    assert child.returncode == expected, (folder / "output").read_text()
    print(f"growth of memory from the second quarter to the last: {growth(samples)} KiB")
    return samples


def pace(arguments: list[str]) -> float:
    """Seconds of an iteration, the mean of five."""
    with tempfile.TemporaryDirectory() as folder:
        trial = [*arguments, "iterations=6", "evaluation.every=0", "--run-dir", folder]
        assert train(trial, Path(folder)).wait() == 0, (Path(folder) / "output").read_text()
        times = [line["time"] for line in runs.read_metrics(runs.find_run("latest", folder))]
    return (times[-1] - times[0]) / 5


def resume(folder: Path) -> None:
    """The run goes on, from the iteration at which it was ended."""
    run = runs.find_run("latest", folder / "runs")
    done = runs.find_checkpoint(run)[0].iteration
    assert train([f"iterations={done + 1}", "--resume", str(run)], folder).wait() == 0
    lines = [line["iteration"] for line in runs.read_metrics(run)]
    assert lines == list(range(done + 1)), "an iteration is missing from the record, or twice in it"
    print(f"resumed at iteration {done}: the record has each of {done + 1} once")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="configuration and key=value")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.0, help="instead of --iterations")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="metarl-endurance-"))
    folder.mkdir(parents=True, exist_ok=True)
    count = f"iterations={options.iterations}"
    arguments = options.settings or [driver.CONFIG, *driver.TINY, count]
    if options.seconds:
        arguments = options.settings or [driver.CONFIG, *SMALL, "iterations=1000000"]
        every = max(1, round(options.checkpoint_seconds / pace(arguments)))
        arguments.append(f"run.checkpoint_every={every}")
        print(f"a checkpoint every {every} iterations")
    print(f"training in {folder}", flush=True)
    assert_flat(endure(folder, arguments, options.iterations, options.seconds))
    if options.seconds:
        resume(folder)
    print("flat")


if __name__ == "__main__":
    main()
