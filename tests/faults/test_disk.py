"""Disks that are full, fail or vanish: the cause and the path are named, and the run can go on afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import driver
import folders
import pytest

from metarl import runs
from metarl.storage import checkpoints

ITERATIONS = 8
LENGTH = f"iterations={ITERATIONS}"


def assert_resumable(server, run: Path, reference: Path) -> None:
    """Every checkpoint that is left loads, and the resumed run is the uninterrupted one."""
    for path in checkpoints.in_order(run / "checkpoints"):
        checkpoints.load(path)
    ended = server.run("--resume", str(run))
    assert ended.code == 0, ended
    driver.assert_same_run(reference, run)


@pytest.mark.parametrize("size", [0, 300, 1200, 1900, 4000])
def test_a_disk_that_is_full_at_the_start_or_later_is_named(server, whole, tmp_path, size):
    """Files that cannot grow: first no file of the run, then a checkpoint's, then the record."""
    reference = whole(ITERATIONS)
    hook = ("limit_file_size", size)
    ended = server.run(*driver.new(tmp_path, LENGTH), hook=hook)
    driver.assert_one_sentence(ended, str(tmp_path), "File too large")
    left = list(tmp_path.glob("*/*"))
    if not any((path / "config.yaml").exists() for path in left):
        assert not left, "a run that could not be made leaves nothing"
        return
    assert_resumable(server, left[0], reference)


def test_a_disk_that_is_full_within_a_checkpoint_is_named(server, whole, tmp_path):
    """Its tensors are the largest file: settings and record fit."""
    wide = "network.hidden_sizes=[200]"
    reference = whole(ITERATIONS, wide)
    tensors = reference / "checkpoints" / f"{ITERATIONS:06d}" / checkpoints.TENSORS
    size = tensors.stat().st_size - 100
    assert size > 2 * (reference / "config.yaml").stat().st_size
    ended = server.run(*driver.new(tmp_path, LENGTH, wide), hook=("limit_file_size", size))
    (run,) = tmp_path.glob("*/*")
    driver.assert_one_sentence(ended, str(run / "checkpoints"), "File too large")
    assert list((run / "checkpoints").iterdir()) == [], "nothing is left of it"
    assert_resumable(server, run, reference)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """A file system there for as long as the block takes; skips the test where mounting is not allowed."""
    done = subprocess.run(["mount", *options, str(place)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("size", ["16k", "32k", "48k"])
def test_a_small_file_system_fills_up(server, whole, tmp_path, size):
    reference = whole(ITERATIONS)
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    with mounted(small, "-t", "tmpfs", "-o", f"size={size}", "none"):
        ended = server.run(*driver.new(small, LENGTH))
        driver.assert_one_sentence(ended, str(small), "No space left on device")
        shutil.copytree(small, large)
    left = list(large.glob("*/*"))
    if left:
        assert_resumable(server, left[0], reference)


CALLS = [("fsync", 1), ("fsync", 5), ("fsync", 8), ("fsync", 11), ("fsync", 13), ("rename", 1)]
CALLS += [("rename", 3), ("replace", 1), ("replace", 2), ("replace", 3)]


@pytest.mark.parametrize(("call", "count"), CALLS)
def test_a_call_that_fails_once_is_named_and_nothing_is_lost(server, whole, tmp_path, call, count):
    reference = whole(ITERATIONS)
    ended = server.run(*driver.new(tmp_path, LENGTH), hook=("fail_once", call, count))
    driver.assert_one_sentence(ended, str(tmp_path), "Input/output error")
    left = list(tmp_path.glob("*/*"))
    if left:
        assert_resumable(server, left[0], reference)
    else:
        assert call != "rename", "renaming makes checkpoints: the run was there before"


def wait_for_lines(directory: Path, lines: int) -> Path:
    """The run under a folder, once its record has so many lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in directory.glob(f"*/*/{runs.METRICS}"):
            if path.read_bytes().count(b"\n") >= lines:
                return path.parent
        time.sleep(0.005)
    raise AssertionError("the run does not get on")


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_folder_that_is_gone_ends_the_run_and_is_not_made_again(server, whole, tmp_path, how):
    server.start(*driver.new(tmp_path, "iterations=100000"))
    run = wait_for_lines(tmp_path, 2)
    moved = tmp_path / "moved"
    run.rename(moved)  # at once: removing takes time, in which files are added
    if how == "removed":
        shutil.rmtree(moved)
    driver.assert_one_sentence(server.wait(), str(run), "No such file or directory")
    assert not list(tmp_path.glob(f"*/*/{runs.METRICS}"))
    assert not list(tmp_path.glob("*/*/checkpoints/[0-9]*"))
    if how == "moved":
        assert server.run(LENGTH, "--resume", str(moved)).code == 0


@pytest.mark.parametrize("how", ["checkpoints", "every folder"])
def test_a_run_that_turns_read_only_ends_with_a_valid_checkpoint(server, tmp_path, how):
    server.start(
        *driver.new(tmp_path, "iterations=100000"), hook=("obey_permissions",), cwd=tmp_path
    )
    run = wait_for_lines(tmp_path, 2)
    folders = [run / "checkpoints"] if how == "checkpoints" else [run / "checkpoints", run]
    for folder in folders:
        folder.chmod(0o555)
    driver.assert_one_sentence(server.wait(), str(run), "Permission denied")
    if how != "checkpoints":
        ended = server.run("--resume", str(run), hook=("obey_permissions",), cwd=tmp_path)
        driver.assert_one_sentence(ended, str(run), "Permission denied")
    for folder in folders:
        folder.chmod(0o755)
    assert_goes_on(server, run)


def test_a_file_system_that_turns_read_only_ends_with_a_valid_checkpoint(server, tmp_path):
    pid = server.start(*driver.new(tmp_path, "iterations=100000"))
    run = wait_for_lines(tmp_path, 2)
    os.kill(pid, signal.SIGSTOP)  # a mount through which a file is being written stays writable
    driver.wait_until_stopped(pid)
    with mounted(run, "--bind", str(run)):
        remount = ["mount", "-o", "remount,ro,bind", str(run)]
        subprocess.run(remount, check=True)
        os.kill(pid, signal.SIGCONT)
        driver.assert_one_sentence(server.wait(), str(run), "Read-only file system")
        assert checkpoints.newest_valid(run)[1] == []
    assert_goes_on(server, run)


def assert_goes_on(server, run: Path) -> None:
    """The newest checkpoint is valid, and the run goes on from it for an iteration."""
    found, refused = checkpoints.newest_valid(run)
    assert refused == []
    ended = server.run(f"iterations={found.iteration + 1}", "--resume", str(run))
    assert ended.code == 0, ended
    assert [line["iteration"] for line in folders.record(run)] == list(range(found.iteration + 1))


def test_a_folder_of_runs_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    ended = server.run(*driver.new(tmp_path / "runs"), hook=("obey_permissions",), cwd=tmp_path)
    driver.assert_one_sentence(ended, str(tmp_path / "runs"), "Permission denied")


def test_a_working_directory_that_is_read_only_does_not_matter(server, whole, tmp_path):
    (tmp_path / "here").mkdir(mode=0o555)
    here = tmp_path / "here"
    ended = server.run(*driver.new(tmp_path / "runs", LENGTH), hook=("obey_permissions",), cwd=here)
    assert ended.code == 0, ended
    driver.assert_same_run(whole(ITERATIONS), runs.find_run("latest", tmp_path / "runs"))
    assert not list(here.iterdir())


@pytest.mark.parametrize("hook", [("break_board",), ("limit_file_size", 7_500)])
def test_tensorboard_failing_alone_never_stops_training(server, whole, tmp_path, hook):
    """By its writer, and by files too large: the events of eight iterations are, their record is not."""
    reference = whole(ITERATIONS)
    events = next(reference.glob("events.*")).stat().st_size
    assert (reference / runs.METRICS).stat().st_size < 7_500 < events
    ended = server.run(*driver.new(tmp_path, LENGTH), hook=hook)
    assert ended.code == 0, ended
    assert "TensorBoard gets no more of this run" in ended.err
    run = runs.find_run("latest", tmp_path)
    assert folders.record(run) == folders.record(reference)
    assert server.run("iterations=9", "--resume", str(run)).code == 0
    shown = driver.board(run)["return/pre"]
    assert [step for step, _ in shown] == list(range(9)), "a resumed run shows everything again"
