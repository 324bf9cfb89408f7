"""The compiled library keeps to its tensors and to the memory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from instruction_sets import BEST, SETS

from metarl.kernels import compiled, sources


def guarded(library: Path, **environment: str) -> None:
    """Call everything with tensors that end at a page that nobody may touch."""
    command = [sys.executable, Path(__file__).parent / "guarded.py", library, *SETS[1:]]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(SETS[1:])


@pytest.mark.skipif(BEST is None, reason="needs the compiled library")
def test_nothing_is_read_or_written_beyond_a_tensor():
    guarded(compiled.built())


@pytest.mark.skipif(BEST is None, reason="needs the compiled library")
def test_nor_beyond_the_memory_of_its_own(tmp_path):
    """By the compiler's own checks of every access, and of what C leaves undefined."""
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    there = {name: run(["gcc", f"-print-file-name=lib{name}.so"]) for name in ("asan", "ubsan")}
    found = {name: done.stdout.strip() for name, done in there.items()}
    if not all(Path(path).is_absolute() for path in found.values()):
        pytest.skip("needs gcc with its sanitizers")
    library = tmp_path / "checked.so"
    checks = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    mark = f"-DSOURCES={sources.fingerprint()}ULL"
    built = run(["gcc", "-O1", *checks, mark, "-shared", "-fPIC", "-o", library, sources.MAIN])
    assert built.returncode == 0, built.stderr
    guarded(library, LD_PRELOAD=":".join(found.values()), ASAN_OPTIONS="detect_leaks=0")
