"""Plain conjugate gradient against the Kronecker-factored preconditioner: what does a step cost, and what is it worth?

Both start from the same parameters with the same data, over successive iterations of a training that takes the
configured step. A step is worth what it improves on episodes that it was not computed from.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from measuring import rounds, sizes
from metarl.building import trust_region
from metarl.data import Meta
from metarl.functional.objectives import Linearisation, Objective
from metarl.functional.params import flatten_meta, unflatten_meta
from metarl.functional.trpo import TrustRegion, trust_region_step
from metarl.problems.protocol import Variant
from metarl.problems.rl import RLProblem
from metarl.schema import Config
from metarl.seeding import Key, Stream, generator
from metarl.storage.finding import find_checkpoint
from metarl.storage.metastate import meta_from_tensors

COLUMNS = (
    *("preset", "threads", "solver", "products", "step [ms]", "x plain", "residual"),
    *("predicted", "in sample", "fresh predicted", "fresh", "fresh KL"),
)
DAMPING = 0.1
# Fresh data bear the numbers of iterations that no training reaches.
FRESH = 1_000_000


def regions(settings: Config) -> dict[str, TrustRegion]:
    """Plain with ten products, preconditioned with fewer."""
    given = trust_region(settings.outer)
    damping = given.kfac_damping or DAMPING
    plain = given._replace(kfac_damping=None, cg_iterations=10)
    found = {"plain": plain}
    label = f"K-FAC {damping:g}"
    for count in (1, 2, 3, 4, 6):
        found[f"{label}, {count}"] = given._replace(kfac_damping=damping, cg_iterations=count)
    return found


def objective_at(problem: RLProblem, meta: Meta, settings: Config, iteration: int) -> Objective:
    """The objective on new tasks with new episodes, named by ``iteration``."""
    seed = settings.seed
    rng = generator(seed, Stream.TRAIN_TASKS, iteration)
    tasks = problem.sample_tasks(settings.outer.tasks, rng)
    batch, _ = problem.collect(meta, tasks, Key(seed, Stream.TRAIN_DATA, iteration))
    return problem.objective(meta, batch, Variant())


def try_solver(
    region: TrustRegion, meta: Meta, own: Objective, fresh: Objective, unseen: Linearisation
) -> tuple[Meta, dict[str, float]]:
    """One step, from the gradient on: its time, and its worth on both sets of episodes."""
    vector = flatten_meta(meta)
    began = time.perf_counter()
    start = own.linearise(vector)
    found, info = trust_region_step(vector, start, own.evaluate, region)
    took = time.perf_counter() - began
    there = fresh.evaluate(found)
    return unflatten_meta(found, meta), {
        "products": float(info.cg_iterations),
        "step [ms]": 1000 * took,
        "residual": info.cg_residual,
        "predicted": info.predicted_improvement,
        "in sample": float(start.outcome.loss - info.outcome.loss),
        "fresh predicted": float(unseen.gradient @ (vector - found)),
        "fresh": float(unseen.outcome.loss - there.loss),
        "fresh KL": float(there.kl),
    }


def start(problem: RLProblem, options: argparse.Namespace) -> Meta:
    """What the first iteration begins at: the policy of a run, or an untrained one."""
    meta = problem.initial_meta(generator(options.seed, Stream.INITIALISATION))
    if options.after is None:
        return meta
    trained, _ = find_checkpoint(options.after)
    return meta_from_tensors(trained.tensors, meta)


def check_start(options: argparse.Namespace) -> None:
    """Whether the run's policy is of every size that is asked for: before anything is measured.

    Raises:
        RunError: there is no such run.
        CheckpointError: it has no checkpoint that can be used, or one of another size.
    """
    for preset in options.presets:
        problem = sizes.problem_of(sizes.settings_of(preset, quick=True), 1)
        start(problem, options)
        problem.close()


def compare(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each solver's medians over the iterations, with the most threads asked for."""
    settings = sizes.settings_of(preset, options.quick, [f"seed={options.seed}"])
    threads = max(options.threads)
    problem = sizes.problem_of(settings, threads)
    meta = start(problem, options)
    chosen = regions(settings)
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for iteration in range(options.rounds):
        own = objective_at(problem, meta, settings, iteration)
        fresh = objective_at(problem, meta, settings, FRESH + iteration)
        unseen = fresh.linearise(flatten_meta(meta))
        moved = {}
        for name, region in chosen.items():
            moved[name], row = try_solver(region, meta, own, fresh, unseen)
            kept[name].append(row)
        meta = moved[configured(settings, chosen)]
    problem.close()
    plain = [row["step [ms]"] for row in kept["plain"]]
    rows = []
    for name, trials in kept.items():
        medians = {key: rounds.median([trial[key] for trial in trials]) for key in trials[0]}
        own_times = [trial["step [ms]"] for trial in trials]
        rows.append(
            {"preset": preset, "threads": threads, "solver": name}
            | medians
            | {"x plain": rounds.ratio(plain, own_times), "trials": trials}
        )
    return rows


def configured(settings: Config, chosen: dict[str, TrustRegion]) -> str:
    """The solver that the configuration names, or the plain one."""
    own = trust_region(settings.outer)
    return next((name for name, region in chosen.items() if region == own), "plain")
