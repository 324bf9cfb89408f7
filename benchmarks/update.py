"""What does each part of an outer step cost, against the published way, and against the processor's limit?

Four ways to compute the same numbers: ``closed_form`` (ours), the same by torch where nothing was compiled,
``by_autograd`` (ours for any module) and the loop over tasks with double backward of published implementations. Their
agreement is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from measuring import matmul, rounds, sizes, solvers
from measuring.fallback import objective_without_library
from measuring.report import Report, parser
from published import update as published
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.building import trust_region
from metarl.data import Episodes, Meta, MetaBatch
from metarl.errors import run_command
from metarl.functional import closed_form, objectives
from metarl.functional.objectives import Objective
from metarl.functional.params import flatten_meta, for_tasks
from metarl.functional.tasks import count_tasks, take
from metarl.functional.trpo import TrustRegion, trust_region_step
from metarl.problems.protocol import Variant
from metarl.problems.rl import RLProblem
from metarl.schema import Config
from metarl.seeding import Key, Stream, generator

OURS, FALLBACK, AUTOGRAD, PUBLISHED = "closed form", "not compiled", "autograd", "published"
WAYS = (OURS, FALLBACK, AUTOGRAD, PUBLISHED)
GRADIENT, FIRST = "surrogate gradient", "gradient and first product"
PRODUCT, TRIAL, STEP = "one product", "line-search trial", "outer step"
ALONE, SGEMM = "matrix products alone", "sgemm"
QUANTITIES = {
    "gradient": GRADIENT,
    "first": FIRST,
    "product": PRODUCT,
    "trial": TRIAL,
    "step": STEP,
}
SOLVERS = "solvers"
CHECKED_TASKS = 4
# Conjugate gradient takes one product after the other: a product is timed among as many of its kind.
IN_SUCCESSION = 5
Timings = dict[str, list[rounds.Timing]]
TOLERANCE = 1e-5


class Size:
    """One preset: settings, data, and the ways on it.

    Args:
        preset: ``paper`` or ``gym``.
        options: of the command line.
    """

    def __init__(self, preset: str, options: argparse.Namespace) -> None:
        # The step that all ways can take: plain conjugate gradient.
        plain = ("outer.kfac_damping=null", "outer.cg_iterations=10")
        self.settings: Config = sizes.settings_of(preset, options.quick, plain)
        self.region: TrustRegion = trust_region(self.settings.outer)
        self.problems = {n: sizes.problem_of(self.settings, n) for n in options.threads}
        self.problem: RLProblem = self.problems[options.threads[0]]
        self.meta: Meta = self.problem.initial_meta(generator(options.seed, Stream.INITIALISATION))
        rng = generator(options.seed, Stream.TRAIN_TASKS)
        tasks = self.problem.sample_tasks(self.settings.outer.tasks, rng)
        key = Key(options.seed, Stream.TRAIN_DATA)
        self.batch: MetaBatch[Episodes] = self.problem.collect(self.meta, tasks, key)[0]
        numbers = torch.Generator().manual_seed(options.seed)
        self.direction = torch.randn(flatten_meta(self.meta).shape, generator=numbers)
        family, problem = self.problem.environments, self.settings.problem
        self.layers = [family.obs_size, *self.settings.network.hidden_sizes, family.action_size]
        self.states = problem.episodes * problem.horizon
        self.counts = self.settings.inner.steps, self.settings.outer.tasks
        self.operations = matmul.operations(self.layers, self.states, *self.counts)
        self.sgemm_repeats = 1 if options.quick else 8
        self.sgemm_operations: dict[int, int] = {}

    def limits(self, threads: int) -> dict[str, Callable[[], None]]:
        """What bounds a product from below: its matrix products alone, and the rate of large ones."""
        mapper = self.problems[threads].mapper
        square, self.sgemm_operations[threads] = matmul.sgemm(threads, mapper, self.sgemm_repeats)
        alone = matmul.products_alone(self.layers, self.states, *self.counts, mapper)
        return {ALONE: alone, SGEMM: square}

    def ways(
        self, problem: RLProblem, meta: Meta, batch: MetaBatch[Episodes]
    ) -> dict[str, Objective]:
        """The objective, in every way."""
        estimator, inner, arch = problem.estimator, problem.adaptation.update, problem.arch
        assert arch is not None
        task_objective = problem.task_objective(Variant(), inner)
        given = arch, estimator, inner, batch, meta.theta, problem.mapper
        return {
            OURS: closed_form.objective(*given),
            FALLBACK: objective_without_library(closed_form.objective(*given)),
            AUTOGRAD: objectives.by_autograd(task_objective, batch, meta, problem.mapper),
            PUBLISHED: published.objective(
                batch, meta.theta, inner.lr, arch.activation, arch.min_log_std
            ),
        }

    def close(self) -> None:
        for problem in self.problems.values():
            problem.close()


def step_with(way: str, chosen: Objective, vector: Tensor, region: TrustRegion) -> Tensor:
    """The outer step as each way takes it."""
    if way == PUBLISHED:
        return published.step(vector, chosen, region)
    return trust_region_step(vector, chosen.linearise(vector), chosen.evaluate, region)[0]


def quantities(
    way: str, chosen: Objective, vector: Tensor, region: TrustRegion
) -> dict[str, Tensor]:
    """All results of one way."""
    start = chosen.linearise(vector)
    trial = vector - 0.01 * start.gradient / start.gradient.norm()
    return {
        GRADIENT: start.gradient,
        PRODUCT: start.curvature(start.gradient),
        TRIAL: torch.stack(chosen.evaluate(trial)[:2]),
        STEP: step_with(way, chosen, vector, region) - vector,
    }


def on_policy(problem: RLProblem, meta: Meta, batch: MetaBatch[Episodes]) -> MetaBatch[Episodes]:
    """The query's behaviour policy anew in the precision of ``meta``: what was kept is rounded to float32."""
    params = for_tasks(meta.theta, count_tasks(batch))
    for episodes in batch.support:
        params = problem.adapt(params, episodes, problem.adaptation.update.lr)
    mean, log_std = problem.act(params, batch.query.obs.flatten(1, 2))
    return batch._replace(
        query=batch.query._replace(mean=mean.reshape(batch.query.mean.shape), log_std=log_std)
    )


def check(preset: str, size: Size, dtype: torch.dtype) -> list[dict[str, Any]]:
    """‖theirs − ours‖ / ‖ours‖ of every quantity, on a few tasks."""
    cast = lambda tree: pytree.tree_map(lambda leaf: leaf.to(dtype), tree)  # noqa: E731
    meta, batch = cast(size.meta), cast(take(size.batch, slice(0, CHECKED_TASKS)))
    batch = on_policy(size.problem, meta, batch)
    vector = flatten_meta(meta)
    found = {
        way: quantities(way, chosen, vector, size.region)
        for way, chosen in size.ways(size.problem, meta, batch).items()
    }
    rows = []
    for name, ours in found[OURS].items():
        precision = str(dtype).removeprefix("torch.")
        row: dict[str, Any] = {"preset": preset, "dtype": precision, "what": name}
        for way in WAYS[1:]:
            row[way] = float((found[way][name] - ours).norm() / ours.norm())
        rows.append(row | {"tasks": count_tasks(batch)})
    return rows


def prepare(
    what: str, way: str, chosen: Objective, vector: Tensor, size: Size
) -> Callable[[], object]:
    """The work that is timed for one quantity and way; everything before it is done already."""
    if what == GRADIENT:
        return lambda: chosen.linearise(vector).gradient
    if what == FIRST:
        return lambda: chosen.linearise(vector).curvature(size.direction)
    if what == PRODUCT:
        start = chosen.linearise(vector)
        start.curvature(size.direction)
        return lambda: start.curvature(size.direction)
    if what == TRIAL:
        return lambda: chosen.evaluate(vector)
    return lambda: step_with(way, chosen, vector, size.region)


def time_quantity(what: str, size: Size, options: argparse.Namespace) -> Timings:
    """All ways and numbers of threads, side by side; the published way's threads are torch's own."""
    vector = flatten_meta(size.meta)
    alternatives: dict[str, Callable[[], Any]] = {}
    shared: Callable[[], object] | None = None
    count = IN_SUCCESSION if what == PRODUCT and not options.quick else 1
    for threads, problem in size.problems.items():
        for way, chosen in size.ways(problem, size.meta, size.batch).items():
            work = (
                prepare(what, way, chosen, vector, size)
                if way != PUBLISHED or shared is None
                else shared
            )
            if way == PUBLISHED:
                shared = work
            alternatives[f"{threads} {way}"] = rounds.within(
                threads if way == PUBLISHED else 1, work, count
            )
        if what == PRODUCT:
            limits = size.limits(threads)
            limits[ALONE] = rounds.within(1, limits[ALONE], count)
            alternatives |= {f"{threads} {name}": each for name, each in limits.items()}
    taken = rounds.interleave(alternatives, options.rounds)
    return {
        name: timings if name.endswith(SGEMM) else [each.of_one(count) for each in timings]
        for name, timings in taken.items()
    }


def compare_ways(
    preset: str, what: str, taken: Timings, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of one quantity."""
    rows = []
    for threads in options.threads:
        walls = {way: rounds.walls(taken[f"{threads} {way}"]) for way in WAYS}
        cpus = {way: rounds.cpus(taken[f"{threads} {way}"]) for way in WAYS}
        first = rounds.walls(taken[f"{options.threads[0]} {OURS}"])
        rows.append(
            {"preset": preset, "threads": threads, "what": what}
            | {f"{way} [ms]": 1000 * rounds.median(wall) for way, wall in walls.items()}
            | {"published / ours": rounds.ratio(walls[PUBLISHED], walls[OURS])}
            | {"in CPU": rounds.ratio(cpus[PUBLISHED], cpus[OURS])}
            | {f"x {options.threads[0]} thread": rounds.ratio(first, walls[OURS])}
            | {"walls": walls, "cpus": cpus}
        )
    return rows


def compare_limits(
    preset: str, size: Size, taken: Timings, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One product against what its matrix products alone need."""
    rows = []
    for threads in options.threads:
        ours, alone, square = (
            rounds.walls(taken[f"{threads} {name}"]) for name in (OURS, ALONE, SGEMM)
        )
        rates = [size.sgemm_operations[threads] / wall / 1e9 for wall in square]
        bound = [size.operations / 1e9 / rate for rate in rates]
        rows.append(
            {"preset": preset, "threads": threads, "GFLOP": size.operations / 1e9}
            | {"sgemm [GFLOP/s]": rounds.median(rates), "bound [ms]": 1000 * rounds.median(bound)}
            | {"products alone [ms]": 1000 * rounds.median(alone)}
            | {"ours [ms]": 1000 * rounds.median(ours), "ours / bound": rounds.ratio(ours, bound)}
            | {"ours / alone": rounds.ratio(ours, alone)}
        )
    return rows


def measure(preset: str, options: argparse.Namespace, report: Report) -> bool:
    """All of one preset; whether all ways agree."""
    size = Size(preset, options)
    print(f"{preset}: {sizes.describe(size.settings)}\n")
    checks = [row for dtype in (torch.float64, torch.float32) for row in check(preset, size, dtype)]
    report.table("Agreement, relative", checks, ("preset", "dtype", "what", *WAYS[1:]))
    rows, limits = [], []
    for what in (QUANTITIES[part] for part in options.parts if part in QUANTITIES):
        taken = time_quantity(what, size, options)
        rows += compare_ways(preset, what, taken, options)
        if what == PRODUCT:
            limits = compare_limits(preset, size, taken, options)
    if rows:
        times, scaling = [f"{way} [ms]" for way in WAYS], f"x {options.threads[0]} thread"
        columns = ("preset", "threads", "what", *times, "published / ours", "in CPU", scaling)
        report.table("Parts of an outer step", rows, columns)
    if limits:
        columns = ("preset", "threads", "GFLOP", "sgemm [GFLOP/s]", "bound [ms]")
        ours = ("products alone [ms]", "ours [ms]", "ours / bound", "ours / alone")
        report.table("One product and its limit", limits, (*columns, *ours))
    size.close()
    exact = (row for row in checks if row["dtype"] == "float64")
    return all(row[way] <= TOLERANCE for row in exact for way in WAYS[1:])


def main() -> int:
    arguments, parts = parser(__doc__), [*QUANTITIES, SOLVERS]
    arguments.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to time")
    arguments.add_argument("--after", metavar="RUN", help="solvers: from this run's policy on")
    options = arguments.parse_args()
    if options.after:
        solvers.check_start(options)
    report = Report("update-after" if options.after else "update", options)
    torch.set_num_threads(1)
    agreed = [measure(preset, options, report) for preset in options.presets]
    for preset in options.presets if SOLVERS in options.parts else ():
        rows = solvers.compare(preset, options)
        report.table("Conjugate gradient, plain and preconditioned", rows, solvers.COLUMNS)
    if not all(agreed):
        print(f"the ways differ by more than {TOLERANCE} in float64", file=sys.stderr)
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
