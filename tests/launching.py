"""Ranks of one run that tests start: threads of this process, processes under torchrun, processes one by one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from metarl.distributed.liveness import Vigil
from metarl.distributed.processes import ConnectedRanks

ROOT = Path(__file__).parent.parent
SMALL = [
    *("outer.tasks=4", "problem.episodes=2", "problem.horizon=12", "network.hidden_sizes=[8]"),
    *("evaluation.tasks=3", "evaluation.episodes=2", "evaluation.every=1", "threads=1"),
    "run.checkpoint_every=2",
]
LONG = ["iterations=100000", "evaluation.every=0", "run.checkpoint_every=1000000"]
# Of its own port, so that it meets no other torchrun of this host.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def in_ranks(size: int, work: Callable[[ConnectedRanks], Any]) -> list[Any]:
    """``work(ranks)`` in every rank at once: the results by rank."""
    store = dist.HashStore()

    def run(rank: int) -> Any:
        prefix = dist.PrefixStore("group", store)
        group = dist.ProcessGroupGloo(prefix, rank, size, timedelta(seconds=60))
        ranks = ConnectedRanks(group, Vigil(dist.PrefixStore("vigil", store), rank, size))
        try:
            return work(ranks)
        except BaseException as error:
            ranks.vigil.report(rank, repr(error))
            raise
        finally:
            ranks.vigil.stop()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def train(config, *arguments):
    """The arguments of a Python that trains a small run of that configuration."""
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
