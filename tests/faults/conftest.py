"""The fault suite: `import driver` and the like work, every test is marked `faults`, one server runs the commands."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

for _name in ("driver", "endurance", "fuzz"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
_driver = sys.modules["driver"]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = _driver.Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole(server, tmp_path_factory):
    """Runs that nothing happened to, by their iterations; made when first asked for."""
    made = {}

    def whole(iterations, *overrides):
        key = (iterations, *overrides)
        if key not in made:
            directory = tmp_path_factory.mktemp("whole")
            ended = server.run(*_driver.new(directory, f"iterations={iterations}", *overrides))
            assert ended.code == 0, ended
            made[key] = _driver.runs.find_run("latest", directory)
        return made[key]

    return whole
