"""What every test sees: `import support` and the like work, and torch uses one thread, so that sums repeat.

The folder itself stays off the path: `tests/envs` would hide the package `envs`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

NAMES = "oracles", "support", "pairs", "instruction_sets", "native_target"
NAMES += "folders", "allocations", "launching"
for _name in NAMES:
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
_folders, _launching = sys.modules["folders"], sys.modules["launching"]

torch.set_num_threads(1)


def pytest_configure(config):
    """Hide GPUs unless `-m gpu` asks for them: `device: auto` would take one, and numbers are held against a CPU's."""
    asked = config.getoption("markexpr").replace("not gpu", "")
    if "gpu" not in asked:
        # Torch is imported already, but asks for devices only when the first test module does; processes inherit it.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and -m gpu"))


@pytest.fixture
def settings(tmp_path):
    """Of a run that is never trained."""
    return _folders.run_settings(tmp_path)


@pytest.fixture
def run(settings, tmp_path):
    """A run of these settings, new and open."""
    with _folders.new_run(settings, tmp_path) as run:
        yield run


@pytest.fixture(scope="session")
def one_process(tmp_path_factory):
    """A run of four iterations by one process, for those of several; whoever asks first makes it."""
    from metarl.train import main

    directory = tmp_path_factory.mktemp("one_process")
    program = _launching.train("nav2d", "iterations=4", "--run-dir", str(directory))
    assert main(program[2:]) == 0
    return _folders.runs.find_run("latest", directory)


@pytest.fixture
def benchmarks_on_the_path(monkeypatch):
    """Scripts see the packages beside them; so do the tests of them."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
