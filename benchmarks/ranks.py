"""How long does a meta-iteration take on two processes, what do they exchange, and what would many machines take?

Each row is a process, or two, of its own: the same iterations, by one Python thread in each. A model is fitted to the
single processes alone, and held against the two.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from measuring import rounds, scaling, sizes
from measuring.report import Report, parser
from measuring.scaling import Cluster, Model, Traffic

from metarl.distributed.ranks import Ranks, connected
from metarl.schema import Config
from metarl.train import meta_iteration
from metarl.training import Training

BIG = 4_000_000
CLUSTERS = (
    # 16 cores to each GPU for sampling, at 0.85 of their number; matrices of 100 columns at 10 TFLOP/s, where a core
    # here has some 30 GFLOP/s; gathers of 2 MB over NVLink.
    Cluster("8 GPUs", 8, 0.85 * 16, 300.0, 30e-6, 50e9),
    # 16 cores in each node, at 0.85 of their number; gloo over 10 Gb/s Ethernet.
    Cluster("64 CPU nodes", 64, 0.85 * 16, 0.85 * 16, 100e-6, 1.0e9),
)


class Counter:
    """Counts what a process exchanges, and what all of them gather."""

    def __init__(self) -> None:
        self.exchanges = self.bytes = 0

    def watch(self, ranks: Any) -> Any:
        """Count from now on; a context manager."""
        exchange = ranks._all

        def counted(tensor: torch.Tensor) -> list[torch.Tensor]:
            found: list[torch.Tensor] = exchange(tensor)
            self.exchanges += 1
            self.bytes += sum(each.numel() * each.element_size() for each in found)
            return found

        return mock.patch.object(ranks, "_all", counted)


def measure_here(settings: Config, count: int, ranks: Ranks) -> dict[str, Any]:
    """Iterate ``count`` times after a warm-up: seconds, what is exchanged, and how fast."""
    lines, counter = [], Counter()
    with Training(settings, ranks) as training:
        watched = counter.watch(ranks) if ranks.size > 1 else mock.MagicMock()
        with watched:
            for index in range(1 + count):
                if index == 1:
                    counter.exchanges = counter.bytes = 0
                lines.append(meta_iteration(training))
        kept = lines[1:]
        found = {
            "collect": rounds.median([line["time/collect"] for line in kept]),
            "outer": rounds.median([line["time/outer"] for line in kept]),
            "products": rounds.median([line["outer/cg_iterations"] for line in kept]),
            "walls": [line["time/collect"] + line["time/outer"] for line in kept],
            "exchanges": round(counter.exchanges / count),
            "bytes": round(counter.bytes / count),
        }
        return found | (line_speed(ranks, count) if ranks.size > 1 else {})


def line_speed(ranks: Any, count: int) -> dict[str, float]:
    """Latency of an exchange of nothing much, bytes per second of a large one, and of its ordering and summing."""
    taken = {}
    for name, size in (("small", 8), ("large", BIG)):
        tensor = torch.zeros(size, dtype=torch.uint8)
        times = []
        for _ in range(10 * count + 5):
            began = time.perf_counter()
            ranks._all(tensor)
            times.append(time.perf_counter() - began)
        taken[name] = rounds.median(times)
    rows, times = torch.zeros(2, 20, BIG // 40, dtype=torch.uint8), []
    for _ in range(10 * count + 5):
        began = time.perf_counter()
        torch.cat(list(rows)).contiguous().view(torch.float32).sum(0)
        times.append(time.perf_counter() - began)
    moved = BIG * (ranks.size - 1)
    return {
        "summing": rows.numel() / rounds.median(times),
        "latency": taken["small"] / (ranks.size - 1),
        "bandwidth": moved / max(taken["large"] - taken["small"], 1e-9),
    }


def measure_in_children(
    processes: int, preset: str, overrides: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """The same in so many processes of their own; what the first one finds."""
    order = json.dumps([preset, options.quick, list(overrides), options.rounds])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", order],
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed; see above")
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def child(order: str) -> None:
    """What each process does."""
    preset, quick, overrides, count = json.loads(order)
    with connected() as ranks:
        settings = sizes.settings_of(preset, quick, overrides)
        found = measure_here(settings, count, ranks)
    if ranks.first:
        print(json.dumps(found))


def layers(settings: Config) -> list[int]:
    """Sizes of the policy's layers."""
    problem = sizes.problem_of(settings, 1)
    inner = problem.environments.obs_size, problem.environments.action_size
    problem.close()
    return [inner[0], *settings.network.hidden_sizes, inner[1]]  # type: ignore[union-attr]


def measured(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One process with all tasks and with half of them, two processes with all; the last row also by the model."""
    settings = sizes.settings_of(preset, options.quick)
    tasks, given = settings.outer.tasks, ["threads=1", f"seed={options.seed}"]
    rows = []
    for processes, count in ((1, tasks), (1, max(tasks // 2, 1)), (2, tasks)):
        own = [*given, f"outer.tasks={count}"]
        found = measure_in_children(processes, preset, own, options)
        row = {"preset": preset, "processes": processes, "tasks": count}
        row["seconds"] = rounds.median(found["walls"])
        rows.append(row | {"MB": found["bytes"] / 1e6} | found)
    model = model_of(rows)
    traffic = Traffic(rows[2]["exchanges"], rows[2]["bytes"])
    rows[2]["model"] = scaling.seconds(model, 2, tasks, traffic)
    rows[2]["speed-up"] = rows[0]["seconds"] / rows[2]["seconds"]
    rows[2]["parameters"] = model._asdict()
    return rows


def model_of(rows: Sequence[dict[str, Any]]) -> Model:
    """From the rows of `measured`."""
    whole, half = ((row["tasks"], row["collect"], row["outer"]) for row in rows[:2])
    speed = {name: rows[2][name] for name in ("latency", "bandwidth", "summing")}
    return scaling.fit(whole, half)._replace(**speed)


def traffic_of(preset: str, quick: bool, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bytes by cause, from the shapes, beside what was counted."""
    settings = sizes.settings_of(preset, quick)
    shape, tasks = layers(settings), settings.outer.tasks
    product = scaling.product_bytes(shape, tasks)
    conditioned = getattr(settings.outer, "kfac_damping", None) is not None
    factors = scaling.preconditioner_bytes(shape, tasks) if conditioned else 0
    products = int(rows[2]["products"])
    return [
        {
            "preset": preset,
            "P": scaling.parameters(shape),
            "product [MB]": product / 1e6,
            "products": products,
            "preconditioner [MB]": factors / 1e6,
            "all [MB]": ((1 + products) * product + factors) / 1e6,
            "counted [MB]": rows[2]["bytes"] / 1e6,
            "exchanges": rows[2]["exchanges"],
        }
    ]


def predicted(
    preset: str, options: argparse.Namespace, rows: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Assumed machines by the model; with 16 times the tasks too, which 64 nodes need to be busy."""
    tasks = sizes.settings_of(preset, options.quick).outer.tasks
    counted, model = rows[2], model_of(rows)
    found = []
    for cluster in CLUSTERS:
        for count in (tasks, 16 * tasks):
            there = cluster.applied(model)
            moved = Traffic(counted["exchanges"], counted["bytes"] * count // tasks)
            took = scaling.seconds(there, cluster.processes, count, moved)
            alone = scaling.seconds(there, 1, count, moved)
            busy = there.fixed + -(-count // cluster.processes) * (there.sampling + there.update)
            found.append(
                {"preset": preset, "machines": cluster.name, "tasks": count, "seconds": took}
                | {"exchanging": 1.0 - busy / took, "x one of them": alone / took}
                | {"assumed": cluster._asdict()}
            )
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
        return
    options = parser(__doc__, without=["threads"]).parse_args()
    report = Report("ranks", options)
    for preset in options.presets:
        rows = measured(preset, options)
        report.table(
            "Measured",
            rows,
            (
                *("preset", "processes", "tasks", "seconds", "model", "speed-up"),
                *("collect", "outer", "exchanges", "MB"),
            ),
        )
        report.table(
            "What is gathered in an iteration",
            traffic_of(preset, options.quick, rows),
            (
                *("preset", "P", "product [MB]", "products", "preconditioner [MB]"),
                *("all [MB]", "counted [MB]", "exchanges"),
            ),
        )
        report.table(
            "Predicted for assumed machines",
            predicted(preset, options, rows),
            ("preset", "machines", "tasks", "seconds", "exchanging", "x one of them"),
        )


if __name__ == "__main__":
    main()
