"""Whole runs by several real processes: the same bits, stopping, dying, hanging, resuming. `make ranks`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import folders
import pytest
from launching import LONG, ROOT, SMALL, TORCHRUN, Started, torchrun, train

from metarl import runs
from metarl.train import main

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]

HANGING = """
import os, time
import gymnasium as gym
import numpy as np

class HangingEnv(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float64)
    steps = 0

    def __init__(self, fault):
        self.fault = fault

    def sample_tasks(self, count, rng):
        return rng.uniform(-1.0, 1.0, (count, 2))

    def set_task(self, task):
        self.task = task

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        HangingEnv.steps += 1
        if os.environ["RANK"] == "1" and HangingEnv.steps == 200:
            if self.fault == "sleep":
                time.sleep(10000)
            while self.fault == "loop":
                pass
            raise OSError("the cable is unplugged")
        return np.zeros(2), -float(np.square(action - self.task).sum()), False, False, {}

gym.register("Hanging-v0", entry_point=HangingEnv)
"""


def run_in(directory):
    return runs.find_run("latest", directory)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_run(one_process, tmp_path, count):
    done = torchrun(count, *train("nav2d", "iterations=4", "--run-dir", str(tmp_path)))
    assert done.returncode == 0
    folders.assert_same_run(run_in(tmp_path), one_process)
    assert len(list(tmp_path.glob("*/*/config.yaml"))) == 1
    assert len(list(run_in(tmp_path).glob("events*"))) == 1
    assert done.stdout.count("4/4") == 1


def test_a_run_goes_on_with_other_numbers_of_processes(one_process, tmp_path):
    assert torchrun(2, *train("nav2d", "iterations=2", "--run-dir", str(tmp_path))).returncode == 0
    resume = ["-m", "metarl.train", "--resume", str(run_in(tmp_path))]
    assert torchrun(4, *resume, "iterations=3").returncode == 0
    assert main([*resume[2:], "iterations=4"]) == 0
    folders.assert_same_run(run_in(tmp_path), one_process)


def test_examples_too(tmp_path):
    small = [each for each in SMALL if not each.startswith(("problem.", "evaluation.episodes"))]
    given = [str(ROOT / "configs" / "sinusoid_5shot.yaml"), *small, "iterations=4"]
    assert (
        torchrun(2, "-m", "metarl.train", *given, "--run-dir", str(tmp_path / "a")).returncode == 0
    )
    assert main([*given, "--run-dir", str(tmp_path / "b")]) == 0
    two, one = (folders.record(run_in(tmp_path / name)) for name in "ab")
    for line, expected in zip(two, one, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


def test_a_signal_to_one_process_saves_once_and_ends_all(tmp_path):
    with Started(2, *train("nav2d", *LONG, "--run-dir", str(tmp_path))) as started:
        started.wait_for(3)
        started.children[1].send_signal(signal.SIGTERM)
        codes, _, said = started.end(within=60)
    assert codes == [143, 143]
    assert "stopped by SIGTERM; continue with --resume" in said
    run = run_in(tmp_path)
    saved = list((run / "checkpoints").iterdir())
    assert [int(path.name) for path in saved] == [len(folders.record(run))]
    assert (
        torchrun(
            2, "-m", "metarl.train", "--resume", str(run), f"iterations={int(saved[0].name) + 1}"
        ).returncode
        == 0
    )


CAUSES = {
    signal.SIGKILL: r"ended without a word(: | in )",
    signal.SIGSTOP: r"gives no sign of life(: | in )",
}


@pytest.mark.parametrize("hurt", [1, 0])
@pytest.mark.parametrize("sent", CAUSES)
def test_a_process_that_is_killed_or_stopped_ends_all_and_is_named(tmp_path, sent, hurt):
    with Started(3, *train("nav2d", *LONG, "--run-dir", str(tmp_path))) as started:
        started.wait_for(3)
        child = started.children[hurt]
        child.send_signal(sent)
        codes, errors, _ = started.end(within=60)
    print(errors)
    assert codes[hurt] == -signal.SIGKILL, "the stopped one is ended too"
    assert {code for rank, code in enumerate(codes) if rank != hurt} == {2}
    said = "".join(errors)
    named = rf"metarl: error: rank {hurt} of 3 \(process {child.pid} on .*\) {CAUSES[sent]}"
    assert len(re.findall(named, said)) == 1, said
    assert said.count("metarl: error") == 1


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("sleep", "hangs in Hanging-v0, slot "),
        ("loop", "hangs in Hanging-v0, slot "),
        ("raise", "ended: environment Hanging-v0, slot "),
    ],
)
def test_an_environment_that_hangs_or_raises_in_one_process_ends_all(tmp_path, fault, cause):
    (tmp_path / "hanging.py").write_text(HANGING)
    given = ["problem.env=hanging:Hanging-v0", f"problem.env_kwargs={{fault: {fault}}}"]
    arguments = train("nav2d", *LONG, *given, "--run-dir", str(tmp_path / "runs"))
    with Started(2, *arguments, path=tmp_path) as started:
        codes, errors, _ = started.end(within=60)
    said = "".join(errors)
    print(said)
    assert codes == [2, 2]
    assert said.count("metarl: error") == 1
    assert re.search(rf"metarl: error: rank 1 of 2 \(process \d+ on .*\) {cause}", said)
    assert re.search(r"slot \d, step \d+", said)


def test_a_mistake_is_said_once(tmp_path):
    given = train("nav2d", "inner.lrr=0.1", "--run-dir", str(tmp_path / "runs"))
    with Started(2, *given) as started:
        codes, errors, _ = started.end(within=60)
    assert codes == [2, 2]
    assert "".join(errors).count("did you mean inner.lr?") == 1
    assert not (tmp_path / "runs").exists()


def test_a_killed_process_ends_torchrun_and_the_run_goes_on(one_process, tmp_path):
    program = [*TORCHRUN, "--nproc-per-node=2"]
    program += train(
        "nav2d", "iterations=100000", "run.checkpoint_every=1", "--run-dir", str(tmp_path)
    )
    with subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        for line in child.stdout:
            if line.strip().startswith("3/"):
                break
        ranks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        victim = next(
            int(pid)
            for pid in ranks
            if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes().replace(b"LOCAL_RANK", b"")
        )
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        _, said = child.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert child.returncode != 0
    assert re.search(rf"metarl: error: rank 1 of 2 \(process {victim} on .*\) ended without", said)
    run = run_in(tmp_path)
    shutil.rmtree(run / "checkpoints" / "000004", ignore_errors=True)
    done = runs.find_checkpoint(run)[0].iteration
    assert (
        torchrun(2, "-m", "metarl.train", "--resume", str(run), f"iterations={done + 2}").returncode
        == 0
    )
    lines = folders.record(run)
    assert [line["iteration"] for line in lines] == list(range(done + 2))
