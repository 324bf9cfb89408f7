"""What does a GPU change: physics by number of worlds, the parts of an update, whole iterations, and where time goes?

The processor's rows use as many threads as the largest of --threads. On a GPU every figure ends with a wait for it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any

import torch
from measuring import rounds, sizes, stages
from measuring.clock import Clock
from measuring.engines import OnDevice, OnThreads
from measuring.report import Part, Report, parser
from torch.utils import _pytree as pytree

from metarl.building import make_problem, trust_region
from metarl.errors import MISTAKE
from metarl.functional.params import flatten_meta, for_tasks
from metarl.functional.trpo import trust_region_step
from metarl.problems.protocol import Variant
from metarl.problems.rl import RLProblem
from metarl.resources import resolve_threads
from metarl.schema import Config
from metarl.seeding import Key, Stream, generator
from metarl.train import meta_iteration
from metarl.training import Training

PARTS = ("physics", "waves", "update", "iteration")
WORLDS, CPU_WORLDS, QUICK_WORLDS = (800, 4_000, 16_000, 65_536), (800, 4_000), (2, 4)
STEPS, CPU_BUDGET, QUICK_STEPS = 100, 100_000, 3


def settle(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed_rows(
    works: dict[str, Callable[[], Any]],
    options: argparse.Namespace,
    spare: Collection[str] = (),
    where: str = "",
) -> dict[str, list[float]]:
    """Seconds of each round of every alternative, side by side, each awaited.

    Args:
        works: the alternatives.
        options: of the command line, with the clock.
        spare: those that are left out if time is short.
        where: of what size they are.
    """

    def awaited(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            settle(options.device)

        return run

    clock: Clock = options.clock
    alternatives = {name: awaited(work) for name, work in works.items()}
    begun = [name for name in works if name not in spare or clock.left() > 0]
    warm_up = {name: rounds.timed(alternatives[name]).wall for name in begun}
    kept, count = clock.fit(warm_up, spare, options.rounds)
    clock.left_out += [f"{name}{where}" for name in works if name not in kept]
    chosen = {name: alternatives[name] for name in kept}
    taken = rounds.interleave(chosen, count, warm_ups=0)
    return {name: rounds.walls(timings) for name, timings in taken.items()}


def compiling(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the first step of a preset costs where no kernel has been compiled yet, or none must be."""
    began = time.perf_counter()
    OnDevice(preset, QUICK_WORLDS[0], options.device).run(1)
    settle(options.device)
    return [{"preset": preset, "seconds": time.perf_counter() - began}]


def physics(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Environment steps per second, without a policy, by engine and number of worlds."""
    options.clock.begin()
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
        found = timed_rows(works, options, {"threads"}, f" with {worlds} worlds")
        for (name, taken), count in zip(found.items(), counts, strict=False):
            row = {"preset": preset, "worlds": worlds, "engine": name, "seconds": taken}
            row["ms / step"] = 1000 * rounds.median(taken) / count
            row["steps/s"] = worlds * count / rounds.median(taken)
            rows.append(row | ({"ready after [s]": ready} if name == "mujoco-warp" else {}))
    return rows


def waves(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole waves with a policy for each task: environments and policies on the device, and both on the processor."""
    options.clock.begin()
    rows, threads = [], max(options.threads)
    tasks = QUICK_WORLDS[0] if options.quick else 40
    for least in QUICK_WORLDS if options.quick else WORLDS:
        episodes = least // tasks
        worlds = tasks * episodes
        given = [f"outer.tasks={tasks}", f"problem.episodes={episodes}"]
        there = [*given, "problem.physics=warp", f"device={options.device}"]
        problems = {"mujoco-warp": problem_of(preset, options, there, options.device, 1)}
        if options.quick or least in CPU_WORLDS:
            problems["threads"] = problem_of(preset, options, given, "cpu", threads)
        works = {name: wave_of(problem, tasks, options) for name, problem in problems.items()}
        steps = worlds * problems["mujoco-warp"].environments.horizon
        found = timed_rows(works, options, {"threads"}, f" with {worlds} worlds and a policy")
        for name, taken in found.items():
            row = {"preset": preset, "worlds": worlds, "engine": name, "walls": taken}
            row["seconds"] = rounds.median(taken)
            rows.append(row | {"steps/s": steps / rounds.median(taken)})
        for problem in problems.values():
            problem.close()
    return rows


def problem_of(
    preset: str, options: argparse.Namespace, overrides: list[str], device: str, threads: int
) -> RLProblem:
    """The problem of a preset with some settings replaced."""
    return problem_on(sizes.settings_of(preset, options.quick, overrides), device, threads)


def wave_of(problem: RLProblem, tasks: int, options: argparse.Namespace) -> Callable[[], Any]:
    """What samples a wave of the problem, as training does."""
    meta = problem.initial_meta(generator(options.seed, Stream.INITIALISATION))
    drawn = problem.sample_tasks(tasks, generator(options.seed, Stream.TRAIN_TASKS))
    params, key = for_tasks(meta.theta, tasks), Key(options.seed, Stream.TRAIN_DATA)
    sampler = problem.samplers(tasks, problem.sampling.episodes)
    return lambda: sampler.wave(params, drawn, key, 0)


def problem_on(settings: Config, device: str, threads: int) -> RLProblem:
    """The problem as training makes it on a device."""
    problem = make_problem(settings, device, threads)
    assert isinstance(problem, RLProblem)
    return problem


def update(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Parts of an outer step on the same episodes: on threads, on the device."""
    options.clock.begin()
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
        vector, region = flatten_meta(own_meta), trust_region(settings.outer)
        objective = problem.objective(own_meta, own_batch, Variant())
        curvature = objective.linearise(vector).curvature
        works["one product"][name] = lambda product=curvature, v=vector: product(v)
        works["whole update"][name] = lambda o=objective, v=vector, r=region: trust_region_step(
            v, o.linearise(v), o.evaluate, r
        )
    rows = []
    for what, ways in works.items():
        first = next(iter(ways))
        taken = timed_rows(ways, options, {first}, f", {what}")
        base = taken.get(first)
        for name, seconds in taken.items():
            row = {"preset": preset, "what": what, "where": name, "seconds": seconds}
            row["ms"] = 1000 * rounds.median(seconds)
            rows.append(row | {"x cpu": times_faster(base, seconds)})
    for problem in problems.values():
        problem.close()
    return rows


def iteration(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole meta-iterations: all on threads, updates on the device, all on the device."""
    options.clock.begin()
    threads, device = max(options.threads), options.device
    ways = {
        f"cpu, {threads} threads": ["device=cpu"],
        f"{device}, physics on threads": [f"device={device}"],
        f"{device}, physics there too": [f"device={device}", "problem.physics=warp"],
    }
    rows = []
    first = next(iter(ways))
    for name, given in ways.items():
        overrides = [*given, f"threads={threads}", f"seed={options.seed}"]
        settings = sizes.settings_of(preset, options.quick, overrides)
        with Training(settings) as training:
            work = lambda training=training: meta_iteration(training) and None  # noqa: E731
            found = timed_rows({name: work}, options, {first}, ", whole iterations")
        for taken in found.values():
            row = {"preset": preset, "what": name, "seconds": rounds.median(taken), "walls": taken}
            rows.append(row | split_iterations(settings, options, len(taken)))
    base = rows[0]["walls"] if rows[0]["what"] == first else None
    return [row | {"x cpu": times_faster(base, row["walls"])} for row in rows]


def times_faster(base: list[float] | None, seconds: list[float]) -> float | None:
    """Than the processor, where that was measured."""
    return None if base is None else rounds.ratio(base, seconds)


def split_iterations(settings: Config, options: argparse.Namespace, count: int) -> dict[str, float]:
    """Seconds by stage, each awaited, which makes their sum more than an iteration; of so many after a first one."""
    split = []
    with Training(settings) as training:
        assert isinstance(training.problem, RLProblem)
        settled = lambda: settle(options.device)  # noqa: E731
        with stages.watched(training.problem, settled) as watch:
            for _ in range(1 + count):
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
    arguments = parser(__doc__, PARTS)
    arguments.set_defaults(threads=[resolve_threads("auto")])
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="to measure")
    arguments.add_argument(
        "--minutes", type=float, default=7.0, help="after compiling; what does not fit is left out"
    )
    options = arguments.parse_args()
    if (reason := obstacle(options.device)) is not None:
        print(f"gpu: {reason}", file=sys.stderr)
        return MISTAKE
    if options.rounds is None and not options.quick:
        options.rounds = 3
    report = Report("gpu", options)
    torch.set_num_threads(1)
    for preset in options.presets:
        title = "Compiling the kernels, or finding them, before the clock starts"
        report.table(title, compiling(preset, options), ("preset", "seconds"))
    seconds = math.inf if options.quick else 60 * options.minutes
    options.clock = Clock(seconds, len(options.parts) * len(options.presets))
    parts: dict[str, Part] = {
        "physics": (
            "Environment steps per second, without a policy",
            physics,
            ("preset", "worlds", "engine", "ms / step", "steps/s", "ready after [s]"),
        ),
        "waves": (
            "Whole waves with a policy",
            waves,
            ("preset", "worlds", "engine", "seconds", "steps/s"),
        ),
        "update": ("Parts of an update", update, ("preset", "what", "where", "ms", "x cpu")),
        "iteration": (
            "Iterations, and seconds by stage",
            iteration,
            ("preset", "what", "seconds", "x cpu", *stages.STAGES),
        ),
    }
    report.measure(parts, options)
    report.record["left_out"] = options.clock.left_out
    report.write()
    if options.clock.left_out:
        print(f"left out for want of time: {'; '.join(options.clock.left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
