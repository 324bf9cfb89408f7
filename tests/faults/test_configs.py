"""Configurations that cannot be used: one sentence, exit code 2, and nothing is created or run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import driver
import pytest

GOOD = """\
iterations: 3
problem:
  kind: rl
  env: envs:Navigation2D-v0
  horizon: 100
  episodes: 2
inner: {lr: 0.5}
outer: {method: trpo, max_kl: 0.02}
"""
BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "empty": ("", "the file is empty"),
    "a list": ("- 1\n", "holds a list at the top"),
    "tabs": (GOOD.replace("  kind", "\tkind"), "a tab where YAML wants spaces"),
    "a key twice": (GOOD + "iterations: 3\n", "iterations stands twice"),
    "a key twice in a section": (
        GOOD.replace("  horizon: 100\n", "  horizon: 100\n  horizon: 100\n"),
        "problem.horizon stands twice",
    ),
    "a key twice in one line": (
        GOOD.replace("{lr: 0.5}", "{lr: 0.5, lr: 0.1}"),
        "inner.lr stands twice",
    ),
    "an unknown key": (GOOD + "itertions: 3\n", "did you mean iterations?"),
    "a wrong type": (GOOD.replace("horizon: 100", "horizon: '100'"), "must be a whole number"),
    "nan": (GOOD.replace("lr: 0.5", "lr: .nan"), "must be a finite number"),
    "inf": (GOOD.replace("max_kl: 0.02", "max_kl: .inf"), "must be a finite number"),
    "a path that is none": (GOOD + 'run: {directory: "a\\0b"}\n', "must be a path"),
    "half a character": (GOOD + 'run: {directory: "\\uD800"}\n', "must be a valid string"),
    "a tag that runs code": (GOOD + "seed: !!python/object/apply:os.mkdir [trap]\n", "tags (!)"),
    "another": (GOOD + "seed: !!python/object/new:os.system ['mkdir trap']\n", "tags (!)"),
    "aliases that expand": (BOMB, "anchors and aliases"),
    "no text": ("\x00\x01", "is not YAML"),
}
OVERRIDES = {
    "what does not fit together": (["inner.learn_rates=true", "inner.steps=0"], "no rate to learn"),
    "a rate too few": (["evaluation.lr=[1.0]"], "one rate for each"),
    "an unknown policy on numbers": (["on_nonfinite=ignore"], "'raise' or 'skip_task'"),
    "no such environment": (["problem.env=envs:Nowhere-v0"], "envs:Nowhere-v0"),
    "a parameter to adapt that is none": (
        ["inner.adapt=[elbow.*]"],
        "no parameter of this network",
    ),
    "a very long one": ([f"problem.env_kwargs.a={'x' * 300}"], "got an unexpected keyword"),
}


def test_a_gpu_where_there_is_none_is_an_error_never_a_silent_cpu(tmp_path):
    """In an interpreter of its own, because one that has counted its GPUs keeps them."""
    done = subprocess.run(
        [sys.executable, "-m", "metarl.train", driver.CONFIG, "device=cuda"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(driver.ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    ended = driver.Ended(done.returncode, done.stdout, done.stderr)
    driver.assert_one_sentence(ended, "device is cuda", "no usable GPU")
    assert_nothing_was_made(tmp_path)


def assert_nothing_was_made(folder: Path, *allowed: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(allowed)


@pytest.mark.parametrize("case", FILES)
def test_a_file(server, tmp_path, case):
    content, said = FILES[case]
    path = tmp_path / "a.yaml"
    path.write_text(content)
    ended = server.run(str(path), cwd=tmp_path)
    driver.assert_one_sentence(ended, str(path), said)
    assert_nothing_was_made(tmp_path, "a.yaml")


def test_the_file_that_the_others_are_made_of_is_good(server, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(GOOD)
    assert server.run(str(path), "--print-config", cwd=tmp_path).code == 0


def test_a_file_that_is_not_there(server, tmp_path):
    ended = server.run("nowhere.yaml", cwd=tmp_path)
    driver.assert_one_sentence(ended, "nowhere.yaml", "there is no such file")
    assert_nothing_was_made(tmp_path)


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_setting(server, tmp_path, case):
    overrides, said = OVERRIDES[case]
    ended = server.run(driver.CONFIG, *overrides, cwd=tmp_path)
    driver.assert_one_sentence(ended, said)
    assert_nothing_was_made(tmp_path)
