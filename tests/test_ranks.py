"""Several processes give what one gives, to the last bit; here ranks are threads, each with all that a process has."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import support
import torch
import torch.distributed as dist

from metarl import config, processes, runs, system
from metarl.data import Meta
from metarl.errors import UserError
from metarl.evaluate import evaluate_meta
from metarl.functional.params import flatten_meta
from metarl.guard import Guard
from metarl.nonfinite import NonFiniteError
from metarl.outer import Adam, Descent, Schedule
from metarl.problems.protocol import Share
from metarl.processes import RankShare
from metarl.ranks import ALONE, connected, own_gpu
from metarl.train import main, meta_iteration
from metarl.training import Training

ROOT = Path(__file__).parent.parent
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


def without_clocks(metrics):
    return {tag: value for tag, value in metrics.items() if not tag.startswith("time")}


def trained(case, ranks, one_by_one=False):
    """Two iterations and an evaluation: the record, all that was learned, the curve."""
    _, name, overrides = CASES[case]
    settings = config.load(CONFIGS / f"{name}.yaml", overrides)
    with Training(settings, ranks) as training:
        if one_by_one:
            training.problem.tasks_at_once = 1
        record = [without_clocks(meta_iteration(training)) for _ in range(settings.iterations)]
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
    for each in support.in_ranks(CASES[case][0], lambda ranks: trained(case, ranks)):
        assert_same(each, single)


@pytest.mark.parametrize("case", ["examples", "reptile"])
def test_examples_that_are_taken_task_by_task_change_no_bit(case):
    single = trained(case, ALONE, one_by_one=True)
    for each in support.in_ranks(
        CASES[case][0], lambda ranks: trained(case, ranks, one_by_one=True)
    ):
        assert_same(each, single)


@pytest.mark.parametrize("case", ["examples", "reptile"])
def test_stacked_examples_differ_by_the_rounding_of_a_sum_over_tasks(case):
    """A stack's gradient is summed over its tasks by the backward pass, and a rank's stack is smaller."""
    record, vector, curve, _ = trained(case, ALONE)
    found = support.in_ranks(CASES[case][0], lambda ranks: trained(case, ranks))
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
    for found, messages in support.in_ranks(3, work):
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

    assert all(torch.equal(each, torch.tensor(left)) for each in support.in_ranks(3, work))
    rows, whole = Share(0, 7).keep(left)
    assert (rows, whole.count) == (left, len(left))


TASKS = np.array([[0.1], [0.9], [-0.3], [0.4], [0.8], [-0.7]])  # fails in the tasks above 0.5


def skipping(fault, ranks):
    problem = support.target_problem({"fault": fault})
    found = support.double_meta(problem)
    meta = Meta({name: value.float() for name, value in found.theta.items()}, {})
    guard = Guard(problem, TASKS, skip=True, ranks=ranks)
    batch, metrics = guard.collect(meta, support.KEY)
    stepped, info = guard.step(Descent(Adam(Schedule(0.01))), meta, batch)
    problem.close()
    return guard.tasks, metrics, flatten_meta(stepped), info


@pytest.mark.parametrize("fault", ["nan_reward", "huge_reward", "broken"])
def test_all_ranks_leave_the_same_tasks_out_as_one_process_does(fault, caplog):
    with caplog.at_level(logging.CRITICAL, logger="metarl"):
        tasks, metrics, vector, info = skipping(fault, ALONE)
        assert len(tasks) == 4
        for each in support.in_ranks(3, lambda ranks: skipping(fault, ranks)):
            np.testing.assert_array_equal(each[0], tasks)
            assert each[1] == metrics
            assert torch.equal(each[2], vector)
            assert each[3] == info


class Spoilt:
    """A problem whose data are sound, and whose gradient is NaN for some of the tasks."""

    def __init__(self, bad):
        self.problem, self.bad = support.target_problem(), bad
        self.name = self.problem.name

    def collect(self, meta, tasks, key, share):
        batch, metrics = self.problem.collect(meta, tasks, key, share)
        advantages = batch.query.advantages.clone()
        for row, task in enumerate(range(share.first, share.first + share.count)):
            if task in self.bad:
                advantages[row, 0, 0] = torch.nan
        return batch._replace(query=batch.query._replace(advantages=advantages)), metrics

    def objective(self, *arguments):
        return self.problem.objective(*arguments)


@pytest.mark.parametrize("bad", [[1], [0, 1], [2, 5], [0, 1, 2, 3, 5]])
def test_a_gradient_that_is_not_finite_is_left_out_by_all_as_by_one(bad, caplog):
    """Also where it was all that a rank had."""

    def work(ranks):
        problem = Spoilt(bad)
        meta = support.double_meta(problem.problem)
        guard = Guard(problem, TASKS, skip=True, ranks=ranks)
        batch, _ = guard.collect(meta, support.KEY)
        found, info = guard.step(Descent(Adam(Schedule(0.01))), meta, batch)
        problem.problem.close()
        return guard.tasks, flatten_meta(found), info

    with caplog.at_level(logging.CRITICAL, logger="metarl"):
        tasks, vector, info = work(ALONE)
        assert info["outer/skipped_tasks"] == len(bad)
        for each in support.in_ranks(3, work):
            np.testing.assert_array_equal(each[0], tasks)
            assert torch.equal(each[1], vector)
            assert each[2] == info


def test_an_error_in_one_rank_is_raised_in_all_with_the_task_of_the_whole_meta_batch():
    def work(ranks):
        guard = Guard(support.target_problem({"fault": "nan_reward"}), TASKS, False, ranks=ranks)
        with pytest.raises(NonFiniteError) as caught:
            guard.collect(support.double_meta(guard.problem), support.KEY)
        guard.problem.close()
        return str(caught.value), caught.value.tasks

    for said, tasks in support.in_ranks(3, work):
        assert "rewards not finite in task 1 [0.9], episode 0, step 2" in said
        assert tasks == (1, 4)


def test_ranks_agree_on_a_signal_and_notice_when_they_drift_apart():
    assert support.in_ranks(3, lambda ranks: ranks.at_boundary(15 * (ranks.rank == 1), lambda: "a")) == [
        15, 15, 15,
    ]  # fmt: skip

    def drifted(ranks):
        with pytest.raises(UserError, match="rank 2 has other parameters than rank 0"):
            ranks.at_boundary(0, lambda: "ab"[ranks.rank == 2])

    support.in_ranks(3, drifted)


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

    first, other = support.in_ranks(2, work)
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

    first, other = support.in_ranks(2, work)
    assert first[0] == first[1] != other[0]
    assert (other[1:] == first[1:]) == agreed


def test_a_single_process_starts_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert connected() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert connected() is ALONE
    code = "import sys, metarl.train, metarl.ranks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert not dist.is_initialized()


def test_processes_without_an_address_are_refused_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main([str(CONFIGS / "nav2d.yaml")]) == 2
    said = capsys.readouterr().err
    assert "MASTER_ADDR" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("visible", "own"),
    [
        (None, "2"),
        ("", ""),
        ("5", ""),
        ("4,5,6,7", "6"),
        ("4,5", ""),
        ("GPU-a,GPU-b,GPU-c", "GPU-c"),
    ],
)
def test_each_process_of_a_host_sees_one_gpu_of_its_own_or_none(visible, own):
    given = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert own_gpu({"LOCAL_RANK": "2"} | given) == own


@pytest.fixture
def with_gpus(monkeypatch):
    """What ``work`` does in ranks, of which each sees the GPU that is named, or none."""
    own = threading.local()
    monkeypatch.setattr(system, "gpu", lambda: own.gpu)

    def run(gpus, work):
        def begin(ranks):
            own.gpu = gpus[ranks.rank]
            return work(ranks)

        return support.in_ranks(len(gpus), begin)

    return run


@pytest.mark.parametrize(
    ("gpus", "device"),
    [
        (("A", None), "cpu"),
        (("A", "B"), "cpu"),
        ((None, None), "auto"),
        (("A", "A"), "auto"),
        (("A", "A"), "cuda"),
    ],
)
def test_gpus_matter_where_they_are_used(with_gpus, gpus, device):
    with_gpus(gpus, lambda ranks: (ranks.check_alike(), ranks.check_gpus(device)))


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (("A", None, None), r"3 processes on \S+, 1 GPU: start 1 there, or set device=cpu\."),
        (("A", "A", None), r"3 processes on \S+, 2 GPUs: start 2 there, or set device=cpu\."),
        (("A", "A", "B"), r"rank 2 on \S+ has gpu B, but rank 0 has A; "),
    ],
)
def test_processes_without_a_gpu_of_their_own_are_refused(with_gpus, gpus, said, device):
    def work(ranks):
        with pytest.raises(UserError, match=said):
            ranks.check_gpus(device)

    with_gpus(gpus, work)


def test_a_host_without_any_gpu_is_named(with_gpus):
    def work(ranks):
        ranks.vigil.people[1] = ranks.vigil.people[1]._replace(host="bare")
        with pytest.raises(UserError, match=r"1 processes on bare, 0 GPUs: start none there"):
            ranks.check_gpus("auto")

    with_gpus(("A", None), work)


def test_a_process_that_never_starts_is_not_waited_for_long(monkeypatch):
    """Under torchrun, whose store is there before the processes are."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "START", timedelta(seconds=0.5))
    with pytest.raises(UserError, match=r"rank 0 of 2 cannot meet the others at 127\.0\.0\.1:"):
        processes.connect()
    assert not dist.is_initialized()
    assert not [each for each in threading.enumerate() if each.name == "vigil 0"]


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
    clock = lambda run: [without_clocks(line) for line in runs.read_metrics(run)]  # noqa: E731
    assert clock(one) == clock(two)
    tensors = [runs.find_checkpoint(run)[0].tensors for run in (one, two)]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
