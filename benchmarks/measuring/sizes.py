"""The two sizes that are measured: those of the half-cheetah's configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarl import config
from metarl.building import make_problem
from metarl.problems.rl import RLProblem
from metarl.schema import Config

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
FILES = {"paper": "cheetah_vel.yaml", "gym": "cheetah_vel_gym.yaml"}
FULL = ("outer.tasks=40", "problem.episodes=20", "device=cpu")
QUICK = ("outer.tasks=3", "problem.episodes=2", "problem.horizon=5", "device=cpu")


def settings_of(preset: str, quick: bool, overrides: Sequence[str] = ()) -> Config:
    """The configuration of one preset: 40 tasks of 20 episodes, or a few short ones."""
    return config.load(CONFIGS / FILES[preset], [*(QUICK if quick else FULL), *overrides])


def problem_of(settings: Config, threads: int) -> RLProblem:
    """The problem as training makes it, on the CPU."""
    problem = make_problem(settings, "cpu", threads)
    assert isinstance(problem, RLProblem)
    return problem


def describe(settings: Config) -> str:
    """The size in words."""
    network = settings.network
    return (
        f"{settings.outer.tasks} tasks x {settings.problem.episodes} episodes x "
        f"{settings.problem.horizon} steps, {'x'.join(map(str, network.hidden_sizes))} "
        f"{network.activation}"
    )
