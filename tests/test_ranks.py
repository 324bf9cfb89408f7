"""Several processes give what one gives, to the last bit; the ranks here are threads, each with what a process has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import support
import torch
import torch.distributed as dist

from metarl import config
from metarl.evaluate import evaluate_meta
from metarl.functional.params import flatten_meta
from metarl.nonfinite import Guard, NonFiniteError
from metarl.processes import Ranks, RankShare
from metarl.ranks import ALONE
from metarl.seeding import Key, Stream
from metarl.train import Training, meta_iteration

CONFIGS = Path(__file__).parent.parent / "configs"


def in_ranks(size, work):
    """``work(ranks)`` in every rank at once: the results by rank."""
    store = dist.HashStore()

    def run(rank):
        group = dist.ProcessGroupGloo(
            dist.PrefixStore("group", store), rank, size, timedelta(seconds=60)
        )
        ranks = Ranks(group, dist.PrefixStore("vigil", store), rank, size)
        try:
            return work(ranks)
        except BaseException as error:
            ranks.vigil.report(rank, repr(error))
            raise
        finally:
            ranks.vigil.stop()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


RL = [
    *("problem.episodes=2", "problem.horizon=7", "network.hidden_sizes=[8]", "threads=1"),
    *("iterations=2", "evaluation.tasks=3", "evaluation.episodes=2", "evaluation.steps=2"),
]
SUPERVISED = [
    *("threads=1", "iterations=2", "network.hidden_sizes=[6]", "evaluation.tasks=3"),
    *("evaluation.queries=4", "evaluation.steps=2"),
]
CASES = {
    "trpo, K-FAC": ("cheetah_vel", [*RL, "outer.tasks=5"]),
    "trpo, autograd": ("nav2d", [*RL, "outer.tasks=4", "outer.curvature=autograd"]),
    "two steps": ("nav2d", [*RL, "outer.tasks=5", "inner.steps=2"]),
    "ppo": ("nav2d", [*RL, "outer={method: ppo, tasks: 5, lr: 0.01, epochs: 2}"]),
    "vpg": ("nav2d", [*RL, "outer={method: vpg, tasks: 5, lr: 0.01, exploration: 0.1}"]),
    "learned rates": ("nav2d", [*RL, "outer.tasks=5", "inner.learn_rates=true"]),
    "more threads": ("nav2d", [*RL, "outer.tasks=5", "threads=2"]),
    "sinusoid": ("sinusoid_5shot", [*SUPERVISED, "outer.tasks=5"]),
    "reptile": (
        "sinusoid_5shot",
        [
            *(*SUPERVISED, "inner.fresh_support=true", "inner.steps=3"),
            "outer={method: sgd, objective: reptile, lr: 0.5, schedule: linear, tasks: 5}",
        ],
    ),
}


def trained(case, ranks):
    """Two iterations and an evaluation: the record without clocks, the vector, the curve."""
    name, overrides = CASES[case]
    settings = config.load(CONFIGS / f"{name}.yaml", overrides)
    with Training(settings, ranks) as training:
        record = [meta_iteration(training) for _ in range(settings.iterations)]
        curve = evaluate_meta(
            *(training.problem, training.meta, settings, 2, "validation"),
            ranks.share(settings.evaluation.tasks),
        )
        kept = [
            {tag: value for tag, value in each.items() if not tag.startswith("time")}
            for each in record
        ]
        return kept, flatten_meta(training.meta), curve.per_task_return, training.fingerprint()


@pytest.fixture(scope="module")
def single():
    return {case: trained(case, ALONE) for case in CASES}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_probe(single, case, size):
    record, vector, curve, _ = single[case]
    for kept, found, values, _ in in_ranks(size, lambda ranks: trained(case, ranks)):
        print(case, size, kept == record, torch.equal(found, vector), np.array_equal(values, curve), float((found-vector).abs().max()))
        if kept != record:
            for a, b in zip(kept, record):
                print({t: (a.get(t), b.get(t)) for t in a.keys() | b.keys() if a.get(t) != b.get(t)})
