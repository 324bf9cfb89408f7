"""Whole runs by several real processes: the same bits, stopping, dying, hanging, resuming, two hosts. `make ranks`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from metarl import runs
from metarl.train import main

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent
SMALL = [
    *("outer.tasks=4", "problem.episodes=2", "problem.horizon=12", "network.hidden_sizes=[8]"),
    *("evaluation.tasks=3", "evaluation.episodes=2", "evaluation.every=1", "threads=1"),
    "run.checkpoint_every=2",
]
LONG = ["iterations=100000", "evaluation.every=0", "run.checkpoint_every=1000000"]
# Of its own port, so that it meets no other torchrun of this host.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
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


def train(config, *arguments):
    return ["-m", "metarl.train", str(ROOT / "configs" / f"{config}.yaml"), *SMALL, *arguments]


def torchrun(count, *arguments):
    """Run to the end under torchrun; what it says is shown where a test fails."""
    program = [*TORCHRUN, f"--nproc-per-node={count}", *arguments]
    done = subprocess.run(
        program,
        check=False,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    print(done.stdout)
    return done


class Started:
    """Ranks that were started one by one, so that each can be hurt by itself."""

    def __init__(self, size, *arguments, path=ROOT):
        # The store that torchrun keeps for its processes is kept here.
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        place |= {"MASTER_PORT": str(self.store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        place |= {"PYTHONPATH": f"{path}:{ROOT}"}
        self.children = [
            subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=os.environ | place | {"RANK": str(rank)},
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]

    def wait_for(self, iteration):
        for line in self.children[0].stdout:
            if line.strip().startswith(f"{iteration}/"):
                return
        pytest.fail(self.children[0].stderr.read())

    def end(self, within):
        """Exit codes, and what all of them said to standard error."""
        began = time.monotonic()
        said = [
            child.communicate(timeout=max(1.0, within - time.monotonic() + began))
            for child in self.children
        ]
        return (
            [child.returncode for child in self.children],
            [error for _, error in said],
            said[0][0],
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()


def record(run):
    return [
        {tag: value for tag, value in line.items() if not tag.startswith("time")}
        for line in runs.read_metrics(run)
    ]


def assert_same_run(one, other):
    assert record(one) == record(other)
    tensors = [runs.find_checkpoint(run)[0].tensors for run in (one, other)]
    assert list(tensors[0]) == list(tensors[1])
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def run_in(directory):
    return runs.find_run("latest", directory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four iterations of one process."""
    directory = tmp_path_factory.mktemp("whole")
    assert main([*train("nav2d", "iterations=4")[2:], "--run-dir", str(directory)]) == 0
    return run_in(directory)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_run(whole, tmp_path, count):
    done = torchrun(count, *train("nav2d", "iterations=4", "--run-dir", str(tmp_path)))
    assert done.returncode == 0
    assert_same_run(run_in(tmp_path), whole)
    assert len(list(tmp_path.glob("*/*/config.yaml"))) == 1
    assert len(list(run_in(tmp_path).glob("events*"))) == 1
    assert done.stdout.count("4/4") == 1


def test_a_run_goes_on_with_other_numbers_of_processes(whole, tmp_path):
    assert torchrun(2, *train("nav2d", "iterations=2", "--run-dir", str(tmp_path))).returncode == 0
    resume = ["-m", "metarl.train", "--resume", str(run_in(tmp_path))]
    assert torchrun(4, *resume, "iterations=3").returncode == 0
    assert main([*resume[2:], "iterations=4"]) == 0
    assert_same_run(run_in(tmp_path), whole)


def test_examples_too(tmp_path):
    small = [each for each in SMALL if not each.startswith(("problem.", "evaluation.episodes"))]
    given = [str(ROOT / "configs" / "sinusoid_5shot.yaml"), *small, "iterations=4"]
    assert (
        torchrun(2, "-m", "metarl.train", *given, "--run-dir", str(tmp_path / "a")).returncode == 0
    )
    assert main([*given, "--run-dir", str(tmp_path / "b")]) == 0
    two, one = (record(run_in(tmp_path / name)) for name in "ab")
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
    assert [int(path.name) for path in saved] == [len(record(run))]
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


def test_a_killed_process_ends_torchrun_and_the_run_goes_on(whole, tmp_path):
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
    lines = record(run)
    assert [line["iteration"] for line in lines] == list(range(done + 2))


@pytest.fixture
def hosts():
    """Two network namespaces that reach each other by one cable, and nothing else."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("two hosts need root and Debian's iproute2")
    names = [f"metarl{os.getpid()}{letter}" for letter in "ab"]
    cables = [f"mrl{os.getpid() % 100000}{letter}" for letter in "ab"]
    ip = lambda *arguments: subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: E731
    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
            for index, (name, cable) in enumerate(zip(names, cables, strict=True)):
                ip("link", "set", cable, "netns", name)
                ip("-n", name, "addr", "add", f"10.213.7.{index + 1}/24", "dev", cable)
                ip("-n", name, "link", "set", cable, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield list(zip(names, cables, strict=True))
    finally:
        for name in made:
            left = subprocess.run(
                ["ip", "netns", "pids", name], check=False, capture_output=True, text=True
            )
            for pid in left.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], check=False)


def on_hosts(hosts, *arguments):
    """One torchrun on each, of one process."""
    common = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=10.213.7.1", "--master-port=29400"]
    return [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
                *(*common, f"--node-rank={index}", *arguments),
            ],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": cable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, (name, cable) in enumerate(hosts)
    ]


def test_two_hosts_give_the_same_run(hosts, whole, tmp_path):
    children = on_hosts(hosts, *train("nav2d", "iterations=4", "--run-dir", str(tmp_path)))
    said = [child.communicate(timeout=120)[0] for child in children]
    print(*said)
    assert [child.returncode for child in children] == [0, 0]
    assert_same_run(run_in(tmp_path), whole)


def test_a_cable_that_is_pulled_ends_both_hosts(hosts, tmp_path):
    children = on_hosts(hosts, *train("nav2d", *LONG, "--run-dir", str(tmp_path)))
    for line in children[0].stdout:
        if line.strip().startswith("3/"):
            break
    name, cable = hosts[1]
    subprocess.run(["ip", "-n", name, "link", "set", cable, "down"], check=True)
    said = []
    for child in children:
        try:
            said.append(child.communicate(timeout=60)[0])
        except (
            subprocess.TimeoutExpired
        ):  # torchrun itself waits for the other host, its process does not
            child.kill()
            said.append(child.communicate()[0])
    print(*said)
    assert all(child.returncode != 0 for child in children)
    said_of = r"metarl: error: rank 1 of 2 \(process \d+ on .*\) gives no sign of life"
    assert re.search(said_of, said[0])
    # The hosts are one machine, so that the first rank can end the other before it finds out by itself.
    assert "has lost the store" in said[1] or "SIGKILL" in said[1]
