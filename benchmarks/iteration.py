"""How long does a meta-iteration take, where does the time go, how does it grow, and how do others compare?

Memory and growth are measured in one child process for each size, so that no size sees what another left behind.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import torch
from measuring import children, rounds, sizes, stages
from measuring.report import Part, Report, parser
from published import update as published
from published.sampling import Workers

from metarl.building import trust_region
from metarl.functional.params import flatten_meta, unflatten_meta
from metarl.functional.trpo import TrustRegion
from metarl.schema import Config
from metarl.seeding import Stream, generator
from metarl.train import meta_iteration
from metarl.training import Training

OURS, PLAIN = "ours", "ours, plain CG"
PARTS = ("split", "growth", "published", "approximations")
GROWTH = {
    "outer.tasks": (10, 20, 40, 80, 160),
    "problem.episodes": (5, 10, 20, 40),
    "problem.horizon": (50, 100, 200, 400),
    "inner.steps": (1, 2, 3),
    "network.hidden_sizes": ("[32,32]", "[64,64]", "[100,100]", "[200,200]"),
}
QUICK_GROWTH = {"outer.tasks": (2,), "inner.steps": (2,)}
WORKERS = 2
APPROXIMATIONS = {
    "as it is": (),
    "outer.curvature_share=0.25": ("outer.curvature_share=0.25",),
    "inner.first_order=true": ("inner.first_order=true",),
    "precision=float64": ("precision=float64",),
}


def split(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The configured size, by number of threads."""
    rows = []
    for threads in options.threads:
        given = [f"threads={threads}", f"seed={options.seed}"]
        found = children.measure(preset, options.quick, given, options.rounds)
        rows.append({"preset": preset, "threads": threads} | found.pop("stages") | found)
    return rows


def growth(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One setting after another away from the configured size, by number of threads."""
    rows = []
    grown = QUICK_GROWTH if options.quick else GROWTH
    for key, values in grown.items():
        for value, threads in product(values, options.threads):
            given = [f"threads={threads}", f"seed={options.seed}", f"{key}={value}"]
            found = children.measure(preset, options.quick, given, options.rounds)
            spent = found.pop("stages")
            update = sum(spent[name] for name in stages.STAGES[3:])
            row = {"preset": preset, "setting": key, "value": str(value), "threads": threads}
            row |= {"sampling": spent["sampling"], "update": update}
            rows.append(row | found | {"stages": spent})
    return rows


class PublishedIteration:
    """A meta-iteration as published implementations are written: two parts, timed apart."""

    def __init__(self, settings: Config, seed: int) -> None:
        self.settings, self.seed, self.count = settings, seed, 0
        self.problem = sizes.problem_of(settings, 1)
        self.meta = self.problem.initial_meta(generator(seed, Stream.INITIALISATION))
        self.region: TrustRegion = trust_region(settings.outer)
        self.workers = Workers(settings, WORKERS)

    def collect(self) -> float:
        """Sample new data; CPU-seconds of the workers."""
        self.count += 1
        rng = generator(self.seed, Stream.TRAIN_TASKS, self.count)
        tasks = self.problem.sample_tasks(self.settings.outer.tasks, rng)
        first = 1_000_000 * self.count
        self.batch, spent = self.workers.collect(self.meta.theta, tasks, first)
        return spent

    def update(self, threads: int, keep: bool = False) -> None:
        """Take an outer step with so many threads inside torch's operations."""
        arch = self.problem.arch
        assert arch is not None
        with rounds.torch_threads(threads):
            vector, lr = flatten_meta(self.meta), self.settings.inner.lr
            chosen = published.objective(
                self.batch, self.meta.theta, lr, arch.activation, arch.min_log_std
            )
            found = published.step(vector, chosen, self.region)
        if keep:
            self.meta = unflatten_meta(found, self.meta)

    def close(self) -> None:
        self.workers.close()
        self.problem.close()


def against_published(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole iterations side by side: ours as configured, ours with the published solver, the published way."""
    threads = max(options.threads)
    given = [f"threads={threads}", f"seed={options.seed}"]
    plain = [*given, "outer.kfac_damping=null", "outer.cg_iterations=10"]
    ours = {
        OURS: Training(sizes.settings_of(preset, options.quick, given)),
        PLAIN: Training(sizes.settings_of(preset, options.quick, plain)),
    }
    other = PublishedIteration(sizes.settings_of(preset, options.quick, plain), options.seed)
    works: dict[str, Any] = {
        name: (lambda each=each: meta_iteration(each) and None) for name, each in ours.items()
    }
    works["collect"] = other.collect
    for count in options.threads:
        last = count == options.threads[-1]
        works[f"update {count}"] = lambda count=count, last=last: other.update(count, keep=last)
    taken = rounds.interleave(works, options.rounds)
    for each in ours.values():
        each.__exit__()
    other.close()
    for count in options.threads:
        parts = zip(taken["collect"], taken[f"update {count}"], strict=True)
        taken[f"published, {count} torch threads"] = [
            rounds.Timing(a.wall + b.wall, a.cpu + b.cpu) for a, b in parts
        ]
    rows = []
    for name, each in taken.items():
        row: dict[str, Any] = {"preset": preset, "threads": threads, "what": name}
        for unit, read in (("wall", rounds.walls), ("cpu", rounds.cpus)):
            row[f"{unit} [s]"] = rounds.median(read(each))
            for own, short in ((OURS, "ours"), (PLAIN, "plain")):
                row[f"{unit} / {short}"] = rounds.ratio(read(each), read(taken[own]))
        rows.append(row | {"timings": each})
    return rows


def approximations(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What an outer step takes less without exactness, and more in double precision: trainings side by side."""
    rows = []
    for threads in options.threads:
        given = [f"threads={threads}", f"seed={options.seed}"]
        trainings = {
            name: Training(sizes.settings_of(preset, options.quick, [*given, *changes]))
            for name, changes in APPROXIMATIONS.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in trainings}
        for _ in range(1 + options.rounds):
            for name, training in trainings.items():
                taken[name].append(meta_iteration(training)["time/outer"])
        for training in trainings.values():
            training.__exit__()
        base = taken["as it is"][1:]
        rows += [
            {"preset": preset, "threads": threads, "setting": name}
            | {
                "outer step [s]": rounds.median(each[1:]),
                "x as it is": rounds.ratio(each[1:], base),
            }
            | {"seconds": each[1:]}
            for name, each in taken.items()
        ]
    return rows


def main() -> None:
    options = parser(__doc__, PARTS).parse_args()
    report = Report("iteration", options)
    torch.set_num_threads(1)
    memory = ("peak MiB", "before MiB")
    compared = [
        f"{unit} {what}" for what in ("[s]", "/ ours", "/ plain") for unit in ("wall", "cpu")
    ]
    parts: dict[str, Part] = {
        "split": (
            "Seconds by stage",
            split,
            ("preset", "threads", "seconds", "cpu", *stages.STAGES, *memory),
        ),
        "growth": (
            "Growth",
            growth,
            ("preset", "setting", "value", "threads", "seconds", "sampling", "update", *memory),
        ),
        "published": (
            "Against the published way",
            against_published,
            ("preset", "threads", "what", *compared),
        ),
        "approximations": (
            "Without exactness, and with more of it",
            approximations,
            ("preset", "threads", "setting", "outer step [s]", "x as it is"),
        ),
    }
    report.measure(parts, options)


if __name__ == "__main__":
    main()
