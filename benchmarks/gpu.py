"""What does a GPU change: physics by number of worlds, the parts of an update, whole iterations, and where time goes?

The processor's rows use as many threads as the largest of --threads. On a GPU every figure ends with a wait for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from measuring import rounds, sizes, solvers, stages
from measuring.report import Report, parser
from torch.utils import _pytree as pytree

from metarl.building import make_problem
from metarl.errors import MISTAKE
from metarl.functional.params import flatten_meta
from metarl.functional.trpo import trust_region_step
from metarl.problems.protocol import Variant
from metarl.problems.rl import RLProblem
from metarl.resources import resolve_threads
from metarl.schema import Config
from metarl.seeding import Key, Stream, generator
from metarl.train import meta_iteration
from metarl.training import Training

PARTS = ("physics", "update", "iteration")
WORLDS, CPU_WORLDS, QUICK_WORLDS = (800, 4_000, 16_000, 65_536), (800, 4_000), (2, 4)
STEPS, CPU_BUDGET, QUICK_STEPS = 100, 100_000, 3
IDS = {"paper": {"preset": "paper"}, "gym": {"preset": "gym"}}


def settle(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed_rows(
    works: dict[str, Callable[[], Any]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each round of every alternative, side by side, each awaited."""

    def awaited(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            settle(options.device)

        return run

    alternatives = {name: awaited(work) for name, work in works.items()}
    taken = rounds.interleave(alternatives, options.rounds)
    return {name: rounds.walls(timings) for name, timings in taken.items()}


class OnThreads:
    """So many worlds in MuJoCo's own engine, shared out over threads as training shares them."""

    def __init__(self, preset: str, worlds: int, threads: int) -> None:
        edges = np.linspace(0, worlds, threads + 1).astype(int)
        self.pool = ThreadPoolExecutor(threads)
        self.envs = [make_env("envs:HalfCheetahVel-v0", preset, int(n)) for n in np.diff(edges)]
        rng = np.random.default_rng(0)
        self.actions = [rng.normal(size=(env.num_envs, 6)) for env in self.envs]

    def run(self, steps: int) -> None:
        """Step all of them."""

        def advance(item: tuple[Any, np.ndarray]) -> None:
            env, actions = item
            for _ in range(steps):
                env.step(actions)

        list(self.pool.map(advance, zip(self.envs, self.actions, strict=True)))


class OnDevice:
    """So many worlds in MuJoCo Warp."""

    def __init__(self, preset: str, worlds: int, device: str) -> None:
        self.env = make_env("envs:warp/HalfCheetahVel-v0", preset, worlds, device=device)
        self.actions = torch.randn(worlds, 6, device=device)

    def run(self, steps: int) -> None:
        """Step all of them; returns before a GPU has done so."""
        for _ in range(steps):
            self.env.step(self.actions)


def make_env(name: str, preset: str, worlds: int, **kwargs: Any) -> Any:
    """A vector environment at the start of endless episodes."""
    endless = {"max_episode_steps": -1} | IDS[preset] | kwargs
    env = gym.make_vec(name, worlds, vectorization_mode="vector_entry_point", **endless)
    env.reset(seed=0)
    return env


def physics(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Environment steps per second, without a policy, by engine and number of worlds."""
    rows = []
    for worlds in QUICK_WORLDS if options.quick else WORLDS:
        steps = QUICK_STEPS if options.quick else STEPS
        began = time.perf_counter()
        there = OnDevice(preset, worlds, options.device)
        there.run(1)
        settle(options.device)
        ready = time.perf_counter() - began
        works, counts = {"mujoco-warp": lambda there=there, n=steps: there.run(n)}, [steps]
        if options.quick or worlds in CPU_WORLDS:
            here, fewer = OnThreads(preset, worlds, max(options.threads)), CPU_BUDGET // worlds
            fewer = QUICK_STEPS if options.quick else fewer
            works["threads"] = lambda here=here, n=fewer: here.run(n)
            counts.append(fewer)
        for (name, taken), count in zip(timed_rows(works, options).items(), counts, strict=True):
            row = {"preset": preset, "worlds": worlds, "engine": name, "seconds": taken}
            row["ms / step"] = 1000 * rounds.median(taken) / count
            row["steps/s"] = worlds * count / rounds.median(taken)
            rows.append(row | ({"ready after [s]": ready} if name == "mujoco-warp" else {}))
    return rows


def problem_on(settings: Config, device: str, threads: int) -> RLProblem:
    """The problem as training makes it on a device."""
    problem = make_problem(settings, device, threads)
    assert isinstance(problem, RLProblem)
    return problem


def update(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Parts of an outer step on the same episodes: on threads, on the device."""
    settings = sizes.settings_of(preset, options.quick, [f"seed={options.seed}"])
    threads = max(options.threads)
    here = problem_on(settings, "cpu", threads)
    meta = here.initial_meta(generator(options.seed, Stream.INITIALISATION))
    tasks = here.sample_tasks(settings.outer.tasks, generator(options.seed, Stream.TRAIN_TASKS))
    batch, _ = here.collect(meta, tasks, Key(options.seed, Stream.TRAIN_DATA))
    problems = {f"cpu, {threads} threads": here}
    problems[f"{options.device}, on the device"] = problem_on(settings, options.device, 1)
    works: dict[str, dict[str, Callable[[], Any]]] = {"one product": {}, "whole update": {}}
    for name, problem in problems.items():
        move = lambda leaf, to=problem.device: leaf.to(to)  # noqa: E731
        own_meta, own_batch = pytree.tree_map(move, meta), pytree.tree_map(move, batch)
        vector, region = flatten_meta(own_meta), solvers.region_of(settings)
        objective = problem.objective(own_meta, own_batch, Variant())
        curvature = objective.linearise(vector).curvature
        works["one product"][name] = lambda product=curvature, v=vector: product(v)
        works["whole update"][name] = lambda o=objective, v=vector, r=region: trust_region_step(
            v, o.linearise(v), o.evaluate, r
        )
    rows = []
    for what, ways in works.items():
        taken = timed_rows(ways, options)
        base = next(iter(taken.values()))
        for name, seconds in taken.items():
            row = {"preset": preset, "what": what, "where": name, "seconds": seconds}
            row["ms"] = 1000 * rounds.median(seconds)
            rows.append(row | {"x cpu": rounds.ratio(base, seconds)})
    for problem in problems.values():
        problem.close()
    return rows


def iteration(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole meta-iterations: all on threads, updates on the device, all on the device."""
    threads, device = max(options.threads), options.device
    ways = {
        f"cpu, {threads} threads": ["device=cpu"],
        f"{device}, physics on threads": [f"device={device}"],
        f"{device}, physics there too": [f"device={device}", "problem.physics=warp"],
    }
    rows = []
    for name, given in ways.items():
        overrides = [*given, f"threads={threads}", f"seed={options.seed}"]
        settings = sizes.settings_of(preset, options.quick, overrides)
        taken = whole_iterations(settings, options)
        found = split_iterations(settings, options)
        row = {"preset": preset, "what": name, "seconds": rounds.median(taken), "walls": taken}
        rows.append(row | found)
    base = rows[0]["walls"]
    return [row | {"x cpu": rounds.ratio(base, row["walls"])} for row in rows]


def whole_iterations(settings: Config, options: argparse.Namespace) -> list[float]:
    """Seconds of each iteration after a first one."""
    with Training(settings) as training:
        work = lambda: meta_iteration(training) and None  # noqa: E731
        (taken,) = timed_rows({"iteration": work}, options).values()
    return taken


def split_iterations(settings: Config, options: argparse.Namespace) -> dict[str, float]:
    """Seconds by stage, each awaited, which makes their sum more than an iteration."""
    split = []
    with Training(settings) as training:
        assert isinstance(training.problem, RLProblem)
        settled = lambda: settle(options.device)  # noqa: E731
        with stages.watched(training.problem, settled) as watch:
            for _ in range(1 + options.rounds):
                watch.take()
                meta_iteration(training)
                split.append(watch.take())
    return {name: rounds.median([each[name] for each in split[1:]]) for name in stages.STAGES}


def obstacle(device: str) -> str | None:
    """Why nothing can be measured here, in a sentence."""
    if device == "cuda" and not torch.cuda.is_available():
        return "there is no usable GPU here; --quick --device cpu shows whether this runs at all."
    if find_spec("mujoco_warp") is None:
        return "mujoco-warp is not installed; install it with pip install -e '.[gpu]'."
    return None


def main() -> int:
    arguments = parser(__doc__)
    arguments.set_defaults(threads=[resolve_threads("auto")])
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="to measure")
    arguments.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure"
    )
    options = arguments.parse_args()
    if (reason := obstacle(options.device)) is not None:
        print(f"gpu: {reason}", file=sys.stderr)
        return MISTAKE
    if options.rounds is None and not options.quick:
        options.rounds = 3
    report = Report("gpu", options)
    torch.set_num_threads(1)
    tables: dict[str, Any] = {
        "physics": (
            "Environment steps per second, without a policy",
            physics,
            ("preset", "worlds", "engine", "ms / step", "steps/s", "ready after [s]"),
        ),
        "update": ("Parts of an update", update, ("preset", "what", "where", "ms", "x cpu")),
        "iteration": (
            "Iterations, and seconds by stage",
            iteration,
            ("preset", "what", "seconds", "x cpu", *stages.STAGES),
        ),
    }
    for part in options.parts:
        title, work, columns = tables[part]
        for preset in options.presets:
            began = time.perf_counter()
            report.table(title, work(preset, options), columns)
            print(f"({part} of {preset} took {time.perf_counter() - began:.0f} s)\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
