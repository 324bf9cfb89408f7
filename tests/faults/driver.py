"""What the fault suite shares: the command line in child processes, tiny settings, how runs are compared."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import folders
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import runs

ROOT = Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs" / "nav2d.yaml")
TINY = (
    "outer.tasks=2",
    "problem.episodes=2",
    "problem.horizon=4",
    "network.hidden_sizes=[4]",
    "outer.momentum=0.9",
    "threads=1",
    "evaluation={every: 0, tasks: 2, episodes: 2, steps: 1}",
    "run.checkpoint_every=1",
)


class Ended(NamedTuple):
    """How a command ended: exit code (minus the signal that killed it), standard output and error, processor time."""

    code: int
    out: str
    err: str
    cpu: float = math.nan


class Server:
    """Runs commands in forks, one at a time; see server.py.

    Args:
        scratch: folder for their output.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self._pid = 0
        assert self._answer()["ready"]

    def start(
        self,
        *argv: str,
        module: str = "metarl.train",
        hook: tuple[Any, ...] = (),
        cwd: Path | None = None,
        env: dict[str, str | None] | None = None,
    ) -> int:
        """Start a command; its process id. One that a failed test has left behind is ended first."""
        self._end_what_is_left()
        (self.scratch / "out").write_text("")  # else a test may read the last command's
        request = {
            "module": module,
            "argv": argv,
            "cwd": str(cwd or self.scratch),
            "env": env or {},
            "out": str(self.scratch / "out"),
            "hook": hook,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        self._pid = self._answer()["pid"]
        return self._pid

    def wait(self) -> Ended:
        """Wait for what was started."""
        answer, self._pid = self._answer(), 0
        out = (self.scratch / "out").read_text()
        return Ended(answer["code"], out, answer["err"], answer["cpu"])

    def run(self, *argv: str, **options: Any) -> Ended:
        """Start a command and wait for it."""
        self.start(*argv, **options)
        return self.wait()

    def close(self) -> None:
        """End the server."""
        self._end_what_is_left()
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _end_what_is_left(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.wait()

    def _answer(self) -> dict[str, Any]:
        return json.loads(self._process.stdout.readline())


def new(directory: Path, *overrides: str) -> list[str]:
    """The arguments of a new tiny run under ``directory``."""
    return [CONFIG, *TINY, *overrides, "--run-dir", str(directory)]


def assert_one_sentence(ended: Ended, *parts: str) -> None:
    """Exit code 2 and one line on standard error, warnings aside, that holds every part."""
    warnings = ("warning: ", "MuJoCo: ", "TensorBoard gets no more of this run (")
    lines = [line for line in ended.err.splitlines() if not line.startswith(warnings)]
    assert (ended.code, len(lines)) == (2, 1), ended
    assert lines[0].startswith("metarl: error: ")
    for part in parts:
        assert part in lines[0], (part, lines[0])


def board(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point that TensorBoard has, each (tag, step) once, without what a clock measured."""
    everything = {"scalars": 0, "images": 0}
    shown = EventAccumulator(str(run), purge_orphaned_data=False, size_guidance=everything)
    shown.Reload()
    points = {tag: shown.Scalars(tag) for tag in shown.Tags()["scalars"]}
    pictures = {tag: shown.Images(tag) for tag in shown.Tags()["images"]}
    for tag, events in (points | pictures).items():
        steps = [event.step for event in events]
        assert len(steps) == len(set(steps)), f"{run}: TensorBoard has {tag} twice of a step"
    return {
        tag: [(point.step, point.value) for point in events]
        for tag, events in points.items()
        if tag not in folders.CLOCKS
    }


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, record and TensorBoard's points are equal to the bit, each step once."""
    first, second = (runs.find_checkpoint(run)[0] for run in (one, other))
    assert (first.iteration, first.state) == (second.iteration, second.state)
    folders.assert_same_run(one, other)
    assert board(one) == board(other)
    assert [line["iteration"] for line in folders.record(other)] == list(range(second.iteration))


def wait_until_stopped(pid: int) -> None:
    """Until a process has taken a SIGSTOP."""
    while _stat(pid)[0] != "T":
        time.sleep(0.001)


def cpu_seconds(pid: int) -> float:
    """What a process has taken of a processor until now."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """From its state on: proc(5), field 3."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def resources(pid: int) -> tuple[int, int, int]:
    """Memory in KiB, open file descriptors and threads of a process, from /proc."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])
