"""The settings that trade exactness for speed, or speed for exactness: what they change, and what they leave."""

from __future__ import annotations

from pathlib import Path

import folders
import pytest
import torch

from metarl import config, runs
from metarl.train import main

CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = {
    "nav2d": (
        *("outer.tasks=3", "problem.episodes=4", "problem.horizon=12", "network.hidden_sizes=[8]"),
        "evaluation={every: 2, tasks: 2, episodes: 2, steps: 1}",
    ),
    "cheetah_vel_gym": (
        *("outer.tasks=2", "problem.episodes=4", "problem.horizon=10", "network.hidden_sizes=[8]"),
        "evaluation={every: 2, tasks: 2, episodes: 2, steps: 1}",
    ),
    "sinusoid_5shot": (
        *("outer.tasks=3", "run.log_every=1", "network.initialisation=xavier_uniform"),
        "evaluation={every: 2, tasks: 2, queries: 5, steps: 2}",
    ),
}


def train(name: str, directory: Path, *overrides: str) -> Path:
    path = str(CONFIGS / f"{name}.yaml")
    assert main([path, *SMALL[name], *overrides, "--run-dir", str(directory)]) == 0
    return runs.find_run("latest", directory)


@pytest.mark.parametrize("name", SMALL)
def test_float64_begins_where_float32_does_and_stays_near(name, tmp_path):
    single, double = (
        train(name, tmp_path / each, "iterations=2", f"precision={each}")
        for each in ("float32", "float64")
    )
    for run, dtype in ((single, torch.float32), (double, torch.float64)):
        found = [each for each in folders.weights(run).values() if each.is_floating_point()]
        assert {each.dtype for each in found if each.ndim} == {dtype}
    measure = "loss/pre" if name == "sinusoid_5shot" else "return/pre"
    pairs = zip(folders.record(single), folders.record(double), strict=True)
    values = [(one[measure], other[measure]) for one, other in pairs]
    for one, other in values:
        assert one == pytest.approx(other, rel=1e-3)
    assert values[1][0] != values[1][1]


@pytest.mark.parametrize("name", SMALL)
def test_a_run_in_float64_is_continued_to_the_bit(name, tmp_path):
    whole = train(name, tmp_path / "whole", "iterations=3", "precision=float64")
    part = train(name, tmp_path / "part", "iterations=2", "precision=float64")
    assert main(["--resume", str(part), "iterations=3"]) == 0
    folders.assert_same_run(whole, part)


def test_a_share_of_the_episodes_changes_the_step_and_nothing_before_it(tmp_path):
    exact, *half = (
        train("cheetah_vel_gym", tmp_path / str(number), "iterations=2", *overrides)
        for number, overrides in enumerate(
            (
                ["threads=1"],
                ["threads=1", "outer.curvature_share=0.5"],
                ["threads=2", "outer.curvature_share=0.5"],
            )
        )
    )
    first, later = zip(folders.record(exact), folders.record(half[0]), strict=True)
    for tag in ("return/pre", "return/post", "outer/grad_norm"):
        assert first[0][tag] == first[1][tag]
        assert later[0][tag] != later[1][tag]
    folders.assert_same_run(*half)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("outer.curvature_share=0", "outer.curvature_share is 0, but must be"),
        ("outer.curvature_share=1.1", "outer.curvature_share is 1.1, but must be"),
        ("precision=float16", "precision is \"float16\", but must be 'float32' or 'float64'"),
        ("inner.adapt=head", "outer.curvature_share is 0.5, but it needs the closed form"),
        ("outer.curvature=autograd", "outer.curvature_share is 0.5, but it needs the closed form"),
    ],
)
def test_a_mistake_is_one_sentence(override, said):
    share = [] if "share" in override else ["outer.curvature_share=0.5"]
    with pytest.raises(config.ConfigError) as caught:
        config.load(CONFIGS / "nav2d.yaml", [*share, override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
