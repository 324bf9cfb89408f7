"""The compiled library: found where it can be used, and told from what cannot."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl import system
from metarl.doctor import devices
from metarl.kernels import compiled, passes
from metarl.processor import described

ROOT = Path(__file__).parent.parent.parent
CAN_BUILD = shutil.which("cc") is not None and (
    platform.machine() in {"aarch64", "arm64"} or "avx2" in described("flags").split()
)


@pytest.mark.skipif(not CAN_BUILD, reason="needs a C compiler and a processor with vectors")
def test_it_is_there_where_it_could_be_built():
    assert not compiled.MISSING
    assert system.describe()["kernels"] == compiled.NAME in {"avx512", "avx2", "neon"}


@pytest.mark.skipif(not CAN_BUILD, reason="needs a C compiler and a processor with vectors")
def test_it_compiles_without_a_warning(tmp_path):
    strict = ("-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    source = ROOT / "metarl" / "kernels" / "compiled.c"
    command = ("cc", *strict, "-shared", "-fPIC", "-o", tmp_path / "library.so", source)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("metarl.kernels._no_such_module", "not built"),
        ("metarl.kernels.passes", "another kind of machine"),  # no library at all
        ("_ctypes", "another kind of machine"),  # of other functions
    ],
)
def test_what_is_not_the_library_is_not_taken_for_it(module, reason):
    with pytest.raises(compiled.MissingError, match=reason):
        compiled.find(module)


@pytest.mark.skipif(compiled.LIBRARY is None, reason="needs the compiled library")
def test_one_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(compiled, "INTERFACE_VERSION", -1)
    with pytest.raises(compiled.MissingError, match="other sources"):
        compiled.find()


def test_where_there_is_no_memory_is_an_error(monkeypatch):
    library = compiled.Library("none", {("layer", torch.float32): lambda sizes, tensors: 1})
    monkeypatch.setattr(compiled, "LIBRARY", library)
    with pytest.raises(MemoryError, match="layer"):
        passes.layer(torch.ones(1, 2, 3), torch.ones(1, 4, 2))


def test_it_serves_what_it_is_made_for_alone(monkeypatch):
    monkeypatch.setattr(compiled, "LIBRARY", compiled.Library("any", {}))
    assert compiled.serving(torch.ones(1)) is not None
    assert compiled.serving(torch.ones(1, dtype=torch.float16)) is None
    assert compiled.serving(torch.ones(1, device="meta")) is None


@pytest.mark.parametrize(
    ("missing", "advised"), [("", False), ("not built", True), (compiled.UNSUITED, False)]
)
def test_the_doctor_says_whether_it_is_there(monkeypatch, missing, advised):
    monkeypatch.setattr(compiled, "MISSING", missing)
    (finding,) = (each for each in devices() if each.subject == "compiled kernels")
    assert finding.found.startswith(missing or compiled.NAME)
    assert bool(finding.advice) == ("C compiler" in finding.advice) == advised
    assert not finding.serious


SCRIPT = """
import sys
from metarl.kernels import compiled
compiled.LIBRARY, compiled.MISSING = None, "not built"
from metarl.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("changes", "said"), [((), True), (("outer.curvature=autograd",), False)])
def test_training_says_that_it_could_be_faster(tmp_path, changes, said):
    small = ("iterations=1", "outer.tasks=2", "problem.episodes=2", "problem.horizon=5")
    given = (*small, "evaluation.tasks=2", f"run.directory={tmp_path}", *changes)
    config = ROOT / "configs" / "nav2d.yaml"
    command = (sys.executable, "-c", SCRIPT, config, *given)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert ("compiled kernels are not built: updates take" in done.stdout) == said
