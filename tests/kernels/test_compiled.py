"""The compiled library: found where it can be used, and told from what cannot."""

from __future__ import annotations

import _ctypes
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from metarl import system
from metarl.doctor import devices
from metarl.kernels import compiled, passes, sources
from metarl.processor import described

ROOT = Path(__file__).parent.parent.parent
# What setuptools would build it with, and what it asks of the processor.
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
VECTORS = platform.machine() in {"aarch64", "arm64"} or {"avx2", "fma"} <= set(
    described("flags").split()
)


@pytest.mark.skipif(
    shutil.which(COMPILER) is None or not VECTORS,
    reason="needs a C compiler and a processor with vectors",
)
def test_it_is_there_where_it_could_be_built():
    assert not compiled.MISSING
    assert system.describe()["kernels"] == compiled.NAME in {"avx512", "avx2", "neon"}


@pytest.mark.parametrize(
    ("other", "reason"),
    [(passes.__file__, "for another kind of machine"), (_ctypes.__file__, "other sources")],
)
def test_what_is_not_the_library_is_not_taken_for_it(other, reason):
    """A file that is no library at all, and a library of other functions."""
    with pytest.raises(compiled.MissingError, match=reason):
        compiled.load(Path(other))


@pytest.mark.skipif(compiled.LIBRARY is None, reason="needs the compiled library")
def test_one_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "fingerprint", lambda: 0)
    with pytest.raises(compiled.MissingError, match="other sources"):
        compiled.load(compiled.built())


@pytest.mark.skipif(compiled.LIBRARY is None, reason="needs the compiled library")
def test_one_without_its_sources_is_refused(monkeypatch, tmp_path):
    """As in a package that left them out: nothing tells whether it is theirs."""
    monkeypatch.setattr(sources, "MAIN", tmp_path / "compiled.c")
    with pytest.raises(compiled.MissingError, match="without sources to check them by"):
        compiled.load(compiled.built())


def test_one_that_was_not_built_is_missing(monkeypatch):
    monkeypatch.setattr(compiled, "MODULE", "metarl.kernels._no_such_module")
    with pytest.raises(compiled.MissingError, match="not built"):
        compiled.built()
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(compiled.MissingError, match="not for this processor"):
        compiled.built()


def test_any_change_of_the_sources_is_told(monkeypatch, tmp_path):
    for path in (sources.MAIN, *sources.headers()):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(sources, "MAIN", tmp_path / "compiled.c")
    before = sources.fingerprint()
    for path in (sources.MAIN, *sources.headers()):
        text = path.read_text()
        path.write_text(text + " ")
        assert sources.fingerprint() != before
        path.write_text(text)
    assert sources.fingerprint() == before


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
