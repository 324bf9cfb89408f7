"""Several processes give what one gives, to the last bit; here ranks are threads, each with all that a process has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import folders
import launching
import numpy as np
import pytest
import support
import torch

from metarl import config, runs
from metarl.distributed.ranks import ALONE
from metarl.distributed.sharing import RankShare
from metarl.errors import UserError
from metarl.evaluate import evaluate_meta
from metarl.functional.params import flatten_meta
from metarl.problems.protocol import Share
from metarl.train import main, meta_iteration
from metarl.training import Training

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
RL = [
    *("problem.episodes=2", "problem.horizon=7", "network.hidden_sizes=[8]", "threads=1"),
    *("iterations=2", "evaluation.tasks=3", "evaluation.episodes=2", "evaluation.steps=2"),
]
SUPERVISED = [
    *("threads=1", "iterations=2", "network.hidden_sizes=[6]", "outer.tasks=5"),
    *("evaluation.tasks=3", "evaluation.queries=4", "evaluation.steps=2"),
]
REPTILE = "outer={method: sgd, objective: reptile, lr: 0.5, schedule: linear, tasks: 5}"
CASES = {
    "preconditioned": (2, "cheetah_vel", [*RL, "outer.tasks=5"]),
    "a task each": (4, "cheetah_vel", [*RL, "outer.tasks=4"]),
    "more ranks than tasks": (4, "nav2d", [*RL, "outer.tasks=3", "evaluation.tasks=2"]),
    "autograd": (4, "nav2d", [*RL, "outer.tasks=5", "outer.curvature=autograd"]),
    "two steps, two threads": (2, "nav2d", [*RL, "outer.tasks=5", "inner.steps=2", "threads=2"]),
    "oracle": (2, "nav2d", [*RL, "outer.tasks=4", "inner.steps=0", "problem.observe_task=true"]),
    "ppo": (2, "nav2d", [*RL, "outer={method: ppo, tasks: 5, lr: 0.01, epochs: 2}"]),
    "vpg": (2, "nav2d", [*RL, "outer={method: vpg, tasks: 5, lr: 0.01, exploration: 0.1}"]),
    "learned rates": (4, "nav2d", [*RL, "outer.tasks=5", "inner.learn_rates=true"]),
    "examples": (4, "sinusoid_5shot", [*SUPERVISED, "inner.steps=2"]),
    "reptile": (2, "sinusoid_5shot", [*SUPERVISED, REPTILE, "inner.fresh_support=true"]),
}


def trained(case, ranks, one_by_one=False):
    """Two iterations and an evaluation: the record, all that was learned, the curve."""
    _, name, overrides = CASES[case]
    settings = config.load(CONFIGS / f"{name}.yaml", overrides)
    with Training(settings, ranks) as training:
        if one_by_one:
            training.problem.tasks_at_once = 1
        record = [
            folders.without_clocks(meta_iteration(training)) for _ in range(settings.iterations)
        ]
        share = ranks.share(settings.evaluation.tasks)
        curve = evaluate_meta(training.problem, training.meta, settings, 2, "validation", share)
        stop = ranks.at_boundary(0, training.fingerprint)
        assert stop == 0
        return record, flatten_meta(training.meta), curve.per_task, training.fingerprint()


def assert_same(one, other):
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])
    assert np.array_equal(one[2], other[2])
    assert one[3] == other[3]


@pytest.mark.parametrize("case", [case for case in CASES if "sinusoid" not in CASES[case][1]])
def test_ranks_change_no_bit(case):
    single = trained(case, ALONE)
    for each in launching.in_ranks(CASES[case][0], lambda ranks: trained(case, ranks)):
        assert_same(each, single)


@pytest.mark.parametrize("case", ["examples", "reptile"])
def test_examples_that_are_taken_task_by_task_change_no_bit(case):
    single = trained(case, ALONE, one_by_one=True)
    for each in launching.in_ranks(
        CASES[case][0], lambda ranks: trained(case, ranks, one_by_one=True)
    ):
        assert_same(each, single)


@pytest.mark.parametrize("case", ["examples", "reptile"])
def test_stacked_examples_differ_by_the_rounding_of_a_sum_over_tasks(case):
    """A stack's gradient is summed over its tasks by the backward pass, and a rank's stack is smaller."""
    record, vector, curve, _ = trained(case, ALONE)
    found = launching.in_ranks(CASES[case][0], lambda ranks: trained(case, ranks))
    assert all(each[3] == found[0][3] for each in found), "the ranks agree to the bit"
    support.close(found[0][1], vector, 1e-6)
    np.testing.assert_allclose(found[0][2], curve, rtol=1e-5)
    for kept, expected in zip(found[0][0], record, strict=True):
        assert kept.keys() == expected.keys()
        assert kept == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 1, 0]])
def test_rows_of_any_kind_and_number_are_joined_in_order(counts):

    def tree(rank):
        rows = torch.arange(10 * rank, 10 * rank + counts[rank])
        return {
            "flag": rows % 2 == 0,
            "row": rows.double() / 7,
            "matrix": rows[:, None, None].expand(-1, 2, 3).float().mT,
            "count": rows,
        }

    def work(ranks):
        share = RankShare(ranks, 0, 1)
        return share.join(tree(ranks.rank)), ranks.exchange(b"x" * ranks.rank)

    expected = {name: torch.cat([tree(rank)[name] for rank in range(3)]) for name in tree(0)}
    for found, messages in launching.in_ranks(3, work):
        assert messages == [b"", b"x", b"xx"]
        for name, value in expected.items():
            assert torch.equal(found[name], value)
            assert found[name].dtype == value.dtype


@pytest.mark.parametrize("left", [[0, 1, 2, 3, 4, 5, 6], [1, 5], [0, 2, 3, 6], [6], [3, 4]])
def test_what_is_left_after_leaving_out_is_shared_in_order(left):
    tasks = torch.arange(7)

    def work(ranks):
        share = ranks.share(7)
        rows, kept = share.keep(left)
        own = tasks[share.rows][rows]
        assert kept.count == len(own)
        if not kept.idle:
            assert torch.equal(own, torch.tensor(left)[kept.rows])
        return kept.join(own)

    assert all(torch.equal(each, torch.tensor(left)) for each in launching.in_ranks(3, work))
    rows, whole = Share(0, 7).keep(left)
    assert (rows, whole.count) == (left, len(left))


def test_ranks_agree_on_a_signal_and_notice_when_they_drift_apart():
    assert launching.in_ranks(3, lambda ranks: ranks.at_boundary(15 * (ranks.rank == 1), lambda: "a")) == [
        15, 15, 15,
    ]  # fmt: skip

    def drifted(ranks):
        with pytest.raises(UserError, match="rank 2 has other parameters than rank 0"):
            ranks.at_boundary(0, lambda: "ab"[ranks.rank == 2])

    launching.in_ranks(3, drifted)


def test_what_the_first_rank_restored_is_taken_over_by_the_others():
    _, name, overrides = CASES["preconditioned"]
    settings = config.load(CONFIGS / f"{name}.yaml", overrides)

    def work(ranks):
        with Training(settings, ALONE if ranks.first else ranks) as training:
            if ranks.first:
                meta_iteration(training)
                training.ranks = ranks
            training.spread()
            return training.iteration, training.env_steps, training.fingerprint()

    first, other = launching.in_ranks(2, work)
    assert first == other
    assert first[0] == 1


@pytest.mark.parametrize(("device", "agreed"), [("cuda", True), ("cpu", False)])
def test_gpus_go_on_from_the_numbers_of_the_first(device, agreed):
    """Here the tensors are on a CPU, and one process is made to differ in the last bit of some."""
    _, name, overrides = CASES["preconditioned"]
    # Without momentum an outer step remembers nothing that would be put on the device.
    settings = config.load(CONFIGS / f"{name}.yaml", [*overrides, "outer.momentum=0"])

    def work(ranks):
        with Training(settings, ranks) as training:
            meta_iteration(training)
            if not ranks.first:
                for value in training.meta.theta.values():
                    value.mul_(1 + 2**-23)
            differed = training.fingerprint()
            training.device = device
            training.agree()
            return differed, training.fingerprint(), training.iteration, training.env_steps

    first, other = launching.in_ranks(2, work)
    assert first[0] == first[1] != other[0]
    assert (other[1:] == first[1:]) == agreed


def test_two_processes_write_one_run_of_the_same_bits(tmp_path):
    arguments = [
        *("-m", "metarl.train", str(CONFIGS / "nav2d.yaml"), *RL, "outer.tasks=3"),
        *("evaluation.every=0", "--run-dir"),
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, *arguments, str(tmp_path / "two")],
            env=os.environ | place | {"RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert "with 2 processes of 1 threads" in said[0]
    assert said[1] == ""
    assert main([*arguments[2:], str(tmp_path / "one")]) == 0
    one, two = (runs.find_run("latest", tmp_path / name) for name in ("one", "two"))
    assert len(list((tmp_path / "two").glob("*/*/config.yaml"))) == 1
    folders.assert_same_run(one, two)
