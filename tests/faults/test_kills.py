"""A run that is killed, at any moment, goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import driver
import numpy as np
import pytest

from metarl import runs
from metarl.storage import checkpoints

KILLS, ITERATIONS = 50, 90
SETTINGS = (f"iterations={ITERATIONS}", "evaluation.every=20")


def lines_of(run: Path | None) -> int:
    """Lines in the record of a run, without reading them."""
    try:
        return (run / runs.METRICS).read_bytes().count(b"\n") if run else 0
    except FileNotFoundError:
        return 0


def find(directory: Path) -> Path | None:
    """The run under a folder that can be resumed, if there is one yet."""
    try:
        return runs.find_run("latest", directory)
    except runs.RunError:
        return None


def begin_or_resume(directory: Path) -> list[str]:
    """The arguments that start the run under a folder, or go on with it."""
    run = find(directory)
    return ["--resume", str(run)] if run else driver.new(directory, *SETTINGS)


def kill_once(server, directory: Path, rng: np.random.Generator) -> bool:
    """Begin or resume, and kill at a random moment; whether the run was not at its end before."""
    pid = server.start(*begin_or_resume(directory))
    run = find(directory)
    done, further = lines_of(run), int(rng.integers(0, 3))
    deadline = time.monotonic() + 60
    while further and time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        run = run or find(directory)
        if lines_of(run) >= done + further:
            break
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.2))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ended = server.wait()
    assert ended.code in (-signal.SIGKILL, 0), ended
    return ended.code != 0


def assert_as_if_nothing_had_happened(server, directory: Path, reference: Path) -> None:
    ended = server.run(*begin_or_resume(directory))
    assert ended.code == 0, ended
    run = find(directory)
    driver.assert_same_run(reference, run)
    assert not [path.name for path in run.glob(".*") if path.name != ".lock"]
    assert all(path.name.isdecimal() for path in (run / "checkpoints").iterdir())
    # A kill may leave the folder of a run that had no settings yet, and no other run.
    assert len(list(directory.glob("*/*/config.yaml"))) == 1


@pytest.mark.timeout(1200)
def test_fifty_kills_at_random_moments_change_no_bit(server, whole, tmp_path):
    """Some fall into the start or the resumption, most into iterations, evaluations and checkpoints.

    How many iterations lie between two kills is the machine's affair: a run that gets to its end is compared, and
    the next one begun.
    """
    reference = whole(ITERATIONS, *SETTINGS[1:])
    rng = np.random.default_rng(5)
    kills, directory = 0, tmp_path / "0"
    while kills < KILLS:
        if kill_once(server, directory, rng):
            kills += 1
        else:
            assert_as_if_nothing_had_happened(server, directory, reference)
            directory = tmp_path / str(kills)
    assert_as_if_nothing_had_happened(server, directory, reference)


def assert_sound(folder: Path) -> str:
    """There is a checkpoint, nothing newer is refused, leftovers go; which one it is."""
    run = folder.parent
    found, refused = checkpoints.newest_valid(run)
    assert found is not None
    assert not refused
    checkpoints.remove_leftovers(folder)
    assert all(path.name.isdecimal() for path in folder.iterdir())
    return found.state["saved"]


def test_a_kill_before_any_operation_of_a_checkpoint_write_leaves_a_whole_one(server, tmp_path):
    outcomes = []
    for count in range(1, 60):
        folder = tmp_path / str(count) / "checkpoints"
        ended = server.run(str(folder), str(count), module="hooks")
        outcomes.append(assert_sound(folder))
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended
    assert ended.code == 0
    assert count > 12, "the operations of a checkpoint write are not being counted"
    assert outcomes == sorted(outcomes, reverse=True), "before, then after, and never back"
    assert set(outcomes) == {"before", "after"}


CALLS = ("mkdir", "openat", "write", "fsync", "close", "rename", "unlinkat")


def kill_at_call(server, folder: Path, call: str, count: int) -> int:
    """Save under strace, which kills as it enters the ``count``-th ``call``; the exit code."""
    pid = server.start(str(folder), "stop", module="hooks")
    driver.wait_until_stopped(pid)
    inject = f"inject={call}:signal=SIGKILL:when={count}"
    command = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        first = tracer.stderr.readline()
        os.kill(pid, signal.SIGCONT)
        ended = server.wait()
    if "attached" not in first:
        pytest.skip(f"strace cannot attach: {first.strip()}")
    return ended.code


@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace")
@pytest.mark.timeout(1200)
def test_a_kill_at_any_system_call_of_a_checkpoint_write_leaves_a_whole_one(server, tmp_path):
    """The same below Python, at every call that changes the disk."""
    outcomes, kills = set(), 0
    for call in CALLS:
        for count in range(1, 100):
            folder = tmp_path / f"{call}{count}" / "checkpoints"
            code = kill_at_call(server, folder, call, count)
            outcomes.add(assert_sound(folder))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
        assert code == 0
        assert count > 1, f"{call} is not among the calls of a checkpoint write"
    assert kills > 25, "strace injects nothing"
    assert outcomes == {"before", "after"}
