"""Device and threads that a configuration leaves open."""

import ctypes
import resource
import subprocess
import sys

import pytest

from metarl.errors import UserError
from metarl.resources import resolve_device, resolve_threads


def test_resources(monkeypatch):
    assert resolve_threads(3) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    assert resolve_threads("auto") == 3
    for available, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert (resolve_device("auto"), resolve_device("cpu")) == (auto, "cpu")
    assert resolve_device("cuda") == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        resolve_device("cuda")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_blocks_are_kept_where_asked_for_and_given_back_where_not(kept):
    code = """
import resource, sys, torch
from concurrent.futures import ThreadPoolExecutor
from metarl.resources import keep_freed_memory

if sys.argv[1] == "True":
    keep_freed_memory()
make = lambda: torch.ones(1 << 24).sum()
with ThreadPoolExecutor(1) as pool:
    for through in (lambda: make(), lambda: pool.submit(make).result()):
        for _ in range(8):
            through()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(16):
            through()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", code, str(kept)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    pages = 16 * (64 << 20) // resource.getpagesize()
    faults = [int(line) for line in ran.stdout.split()]
    assert len(faults) == 2
    # A small block now and then takes a piece of a kept one, which is then too small. Huge pages: a fault has 512.
    assert max(faults) < pages / 4 if kept else min(faults) >= pages / 512
