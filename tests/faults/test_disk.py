"""Disks that are full, fail or vanish: the cause and the path are named, and the run can go on afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import driver
import pytest

from metarl import checkpoints, runs

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
    driver.assert_one_sentence(ended, str(tmp_path), "File too large", board=True)
    left = list(tmp_path.glob("*/*"))
    if not any((path / "config.yaml").exists() for path in left):
        assert not left, "a run that could not be made leaves nothing"
        return
    assert_resumable(server, left[0], reference)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting is root's")
@pytest.mark.parametrize("size", ["16k", "32k", "48k"])
def test_a_small_file_system_fills_up(server, whole, tmp_path, size):
    reference = whole(ITERATIONS)
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(small)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ended = server.run(*driver.new(small, LENGTH))
        driver.assert_one_sentence(ended, str(small), "No space left on device", board=True)
        shutil.copytree(small, large)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    left = list(large.glob("*/*"))
    if left:
        assert_resumable(server, left[0], reference)


CALLS = [("fsync", 1), ("fsync", 5), ("fsync", 8), ("fsync", 13), ("rename", 1), ("rename", 3)]


@pytest.mark.parametrize(("call", "count"), [*CALLS, ("replace", 1), ("replace", 2)])
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
    driver.assert_one_sentence(server.wait(), str(run), "No such file or directory", board=True)
    assert not list(tmp_path.glob(f"*/*/{runs.METRICS}"))
    assert not list(tmp_path.glob("*/*/checkpoints/[0-9]*"))
    if how == "moved":
        assert server.run(LENGTH, "--resume", str(moved)).code == 0


def test_a_run_that_turns_read_only_ends_with_a_valid_checkpoint(server, whole, tmp_path):
    reference = whole(ITERATIONS)
    server.start(
        *driver.new(tmp_path, "iterations=100000"), hook=("obey_permissions",), cwd=tmp_path
    )
    run = wait_for_lines(tmp_path, 2)
    (run / "checkpoints").chmod(0o555)
    driver.assert_one_sentence(server.wait(), str(run), "Permission denied", board=True)
    (run / "checkpoints").chmod(0o777)
    assert checkpoints.newest_valid(run)[0].iteration >= 1
    for path in checkpoints.in_order(run / "checkpoints"):
        if int(path.name) >= ITERATIONS:
            shutil.rmtree(path)
    ended = server.run(LENGTH, "--resume", str(run))
    assert ended.code == 0, ended
    driver.assert_same_run(reference, run)


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
    assert driver.record(run) == driver.record(reference)
    assert server.run("iterations=9", "--resume", str(run)).code == 0
    shown = driver.board(run)["return/pre"]
    assert [step for step, _ in shown] == list(range(9)), "a resumed run shows everything again"
