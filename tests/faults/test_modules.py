"""Modules and arguments of an environment that cannot be used: named before anything is trained."""

from __future__ import annotations

import driver
import pytest

BROKEN = """
import gymnasium

class Broken(gymnasium.Env):
    def __init__(self):
        raise RuntimeError("no licence")

gymnasium.register("Mine-v0", entry_point=Broken)
"""
FEW = """
import gymnasium, numpy

class Few(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def set_task(self, task):
        pass

    def sample_tasks(self, count, rng):
        return numpy.zeros((count - 1, 1))

gymnasium.register("Mine-v0", entry_point=Few)
"""
MODULES = {
    "raises when imported": ("1 / 0", "ZeroDivisionError"),
    "leaves when imported": ("import sys; sys.exit()", "cannot be found (SystemExit"),
    "is not Python": ("def", "SyntaxError"),
    "registers nothing": ("", "NameNotFound"),
    "raises when made": (BROKEN, "RuntimeError: no licence"),
    "leaves when made": (
        BROKEN.replace("RuntimeError", "SystemExit"),
        "from problem.env_kwargs and problem.horizon: SystemExit: no licence",
    ),
    "leaves when it draws tasks": (
        FEW.replace("return", "raise SystemExit(0)  #"),
        "sample_tasks(2, rng) failed: SystemExit: 0",
    ),
    "draws too few tasks": (FEW, "must return 2 rows of finite numbers, but returned an array of"),
}


@pytest.mark.parametrize("case", MODULES)
def test_a_module_that_cannot_be_used_is_named(server, tmp_path, case):
    code, said = MODULES[case]
    name = f"mine_{list(MODULES).index(case)}"
    (tmp_path / f"{name}.py").write_text(code)
    settings = [f"problem.env={name}:Mine-v0", "outer.tasks=8"]
    arguments = driver.new(tmp_path / "runs", *settings)
    ended = server.run(*arguments, hook=("import_from", str(tmp_path)))
    driver.assert_one_sentence(ended, "Mine-v0", said)


def test_an_argument_that_the_environment_does_not_know_is_named(server, tmp_path):
    ended = server.run(*driver.new(tmp_path / "runs", "problem.env_kwargs.speed=3"))
    driver.assert_one_sentence(ended, "envs:Navigation2D-v0", "problem.env_kwargs", "speed")
    assert not (tmp_path / "runs").exists()
