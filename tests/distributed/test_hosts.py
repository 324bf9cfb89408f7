"""A run on two hosts, network namespaces of this one: the same bits, and a cable that is pulled. `make ranks`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys

import folders
import pytest
from launching import LONG, ROOT, train

from metarl import runs

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]


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


def test_two_hosts_give_the_same_run(hosts, one_process, tmp_path):
    children = on_hosts(hosts, *train("nav2d", "iterations=4", "--run-dir", str(tmp_path)))
    said = [child.communicate(timeout=120)[0] for child in children]
    print(*said)
    assert [child.returncode for child in children] == [0, 0]
    folders.assert_same_run(runs.find_run("latest", tmp_path), one_process)


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
        except subprocess.TimeoutExpired:
            child.kill()  # torchrun itself waits for the other host, its process does not
            said.append(child.communicate()[0])
    print(*said)
    assert all(child.returncode != 0 for child in children)
    said_of = r"metarl: error: rank 1 of 2 \(process \d+ on .*\) gives no sign of life"
    assert re.search(said_of, said[0])
    # The hosts are one machine, so that the first rank can end the other before it finds out by itself.
    assert "has lost the store" in said[1] or "SIGKILL" in said[1]
