"""The same seed gives the same bits, in any process and on any number of threads; another seed does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl import runs
from metarl.train import main

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).with_name("golden_metrics.json")
TOLERANCE = 2e-3
SMALL = (
    "outer.tasks=8",
    "problem.episodes=4",
    "problem.horizon=20",
    "network.hidden_sizes=[16]",
    "iterations=3",
    "evaluation={every: 3, tasks: 2, episodes: 2, steps: 1}",
)
CONFIGS = ("nav2d", "cheetah_vel")


def arguments(name, directory, *overrides):
    config = str(ROOT / "configs" / f"{name}.yaml")
    return [config, *SMALL, "threads=1", *overrides, "--run-dir", str(directory)]


def result(directory):
    """The record of a run without what a clock measured, and its weights."""
    run = runs.find_run("latest", directory)
    lines = [
        {tag: value for tag, value in line.items() if not tag.startswith("time")}
        for line in runs.read_metrics(run)
    ]
    return lines, runs.find_checkpoint(run)[0].tensors


def train(name, directory, *overrides):
    assert main(arguments(name, directory, *overrides)) == 0
    return result(directory)


def assert_same_bits(one, other):
    assert one[0] == other[0]
    assert list(one[1]) == list(other[1])
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request, tmp_path_factory):
    return request.param, train(request.param, tmp_path_factory.mktemp("runs"))


def test_another_process_gives_the_same_bits(trained, tmp_path):
    name, expected = trained
    environment = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-m", "metarl.train", *arguments(name, tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    assert_same_bits(result(tmp_path), expected)


@pytest.mark.parametrize("threads", [2, 4])
def test_the_threads_change_no_bit(trained, tmp_path, threads):
    name, expected = trained
    assert_same_bits(train(name, tmp_path, f"threads={threads}"), expected)


def test_another_seed_gives_other_numbers(trained, tmp_path):
    name, (expected, _) = trained
    lines, _ = train(name, tmp_path, "seed=2", "iterations=1")
    for tag in ("return/pre", "return/post", "outer/loss", "outer/grad_norm"):
        assert lines[0][tag] != expected[0][tag]


def test_the_golden_metrics_are_met(trained):
    """Recorded with torch 2.13.0 (CPU), MuJoCo 4.0.0, Gymnasium 1.4.0: other versions may round otherwise.

    |value − golden| ≤ 2e-3 · max(1, |golden|) in the first iteration: in later ones the rounding of float32 has grown
    through conjugate gradient and the line search to a hundredth. Conjugate gradient's residual is made of it.
    Whoever changes a number on purpose runs `PYTHONPATH=. python tests/test_determinism.py` and says why.
    """
    name, (lines, _) = trained
    golden = json.loads(GOLDEN.read_text())[name]
    assert lines[0].keys() == golden.keys()
    for tag in golden.keys() - {"outer/cg_residual"}:
        assert lines[0][tag] == pytest.approx(golden[tag], rel=TOLERANCE, abs=TOLERANCE), tag


def record_golden() -> None:
    """Write the golden metrics anew."""
    import tempfile

    torch.set_num_threads(1)
    golden = {name: train(name, tempfile.mkdtemp())[0][0] for name in CONFIGS}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    record_golden()
