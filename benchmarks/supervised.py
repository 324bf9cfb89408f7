"""How long does a meta-step of few-shot learning take, against the published way?

Sinusoid: 25 tasks, 10 points; Omniglot's size: 5-way 1-shot, 32 tasks, Conv-4. Images are noise: no time depends on
what they show. The results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import rounds
from measuring.report import Report, parser
from measuring.sizes import CONFIGS
from published import supervised as published
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarl import config
from metarl.building import make_outer
from metarl.data import Examples, Meta, MetaBatch
from metarl.functional.adapt import InnerUpdate
from metarl.functional.params import flatten_meta
from metarl.nets.conv import Conv
from metarl.nets.mlp import MLP
from metarl.problems.images import EpisodeSizes, FewShotImages
from metarl.problems.learners import Adaptation
from metarl.problems.protocol import Variant
from metarl.problems.sinusoid import Sinusoid
from metarl.problems.supervised import SupervisedProblem
from metarl.schema import ExamplesConfig
from metarl.seeding import Key, Stream, generator

TOLERANCE = 1e-5
LOOP, STACKED, STEP, PUBLISHED = "loop", "stacked", "whole step", "published"
IMAGES_OF_A_CLASS, CLASSES = 20, 40


class Noise(NamedTuple):
    """Random images, sorted by class."""

    images: np.ndarray
    starts: np.ndarray
    names: tuple[str, ...]


def noise(seed: int) -> Noise:
    """As many as the largest task could want."""
    count = CLASSES * IMAGES_OF_A_CLASS
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 28, 28), np.uint8)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Noise(images, np.arange(CLASSES + 1) * IMAGES_OF_A_CLASS, names)


class Case(NamedTuple):
    """What is measured of one problem.

    Attributes:
        settings: of the configuration.
        source: of tasks and examples.
        make_network: the module.
        theirs: the same network, as published implementations write it.
        configured: ``loop`` or ``stacked``, what training does on a CPU.
    """

    settings: ExamplesConfig
    source: Sinusoid | FewShotImages
    make_network: Callable[[torch.Generator], nn.Module]
    theirs: published.Network
    configured: str


def case(name: str, options: argparse.Namespace) -> Case:
    """The sinusoid or Omniglot's size, with the paper's number of tasks."""
    file, tasks = {"sinusoid": ("sinusoid_10shot", 25), "omniglot": ("omniglot_5way_1shot", 32)}[
        name
    ]
    given = [f"outer.tasks={2 if options.quick else tasks}", f"seed={options.seed}", "device=cpu"]
    settings = config.load(CONFIGS / f"{file}.yaml", given)
    assert isinstance(settings, ExamplesConfig)
    problem, network = settings.problem, settings.network
    if name == "sinusoid":
        sinusoid = Sinusoid(problem.shots, problem.queries or problem.shots)
        make = lambda rng: MLP((1,), 1, network.hidden_sizes, generator=rng)  # noqa: E731
        return Case(settings, sinusoid, make, published.mlp, STACKED)
    episodes = EpisodeSizes(problem.ways, problem.shots, problem.queries)
    images = FewShotImages({"train": noise(options.seed)}, episodes, rotated=["train"])
    make = lambda rng: Conv((1, 28, 28), problem.ways, network.filters, generator=rng)  # noqa: E731
    return Case(settings, images, make, published.conv, LOOP)


def problem_of(chosen: Case, way: str, threads: int) -> SupervisedProblem:
    """One way of ours."""
    inner = chosen.settings.inner
    names = [name for name, _ in chosen.make_network(torch.Generator()).named_parameters()]
    adapted = frozenset(name for name in names if not name.startswith("norms"))
    learner = Adaptation(inner.steps, InnerUpdate(inner.lr, adapted=adapted))
    at_once = 1 if way == LOOP else None
    source, loss = chosen.source, chosen.source.loss
    return SupervisedProblem(source, chosen.make_network, loss, learner, at_once, "cpu", threads)


def their_gradient(
    chosen: Case, problem: SupervisedProblem, meta: Meta, batch: MetaBatch[Examples]
) -> Tensor:
    update = problem.learner.update
    loss = published.functional.mse_loss
    if chosen.source.loss == "cross_entropy":
        loss = published.functional.cross_entropy
    return published.meta_gradient(
        chosen.theirs, loss, meta.theta, batch, update.lr, update.names(meta.theta)
    )


def our_gradient(problem: SupervisedProblem, meta: Meta, batch: MetaBatch[Examples]) -> Tensor:
    return problem.objective(meta, batch, Variant()).linearise(flatten_meta(meta)).gradient


def measure(name: str, options: argparse.Namespace, report: Report) -> bool:
    """All ways of one problem; whether their results are the same."""
    chosen = case(name, options)
    problems = {
        (way, n): problem_of(chosen, way, n) for n in options.threads for way in (LOOP, STACKED)
    }
    first = problems[LOOP, options.threads[0]]
    meta = first.initial_meta(generator(options.seed, Stream.INITIALISATION))
    rng, key = generator(options.seed, Stream.TRAIN_TASKS), Key(options.seed, Stream.TRAIN_DATA)
    tasks = first.sample_tasks(chosen.settings.outer.tasks, rng)
    batch, _ = first.collect(meta, tasks, key)
    agreed = check(name, chosen, problems, meta, batch, report)

    alternatives: dict[tuple[str, int], Callable[[], object]] = {}
    for threads in options.threads:
        for way in (LOOP, STACKED):
            alternatives[way, threads] = partial(our_gradient, problems[way, threads], meta, batch)
        problem, outer = problems[chosen.configured, threads], make_outer(chosen.settings)
        alternatives[STEP, threads] = partial(whole_step, problem, outer, meta, tasks, key)
        theirs = partial(their_gradient, chosen, first, meta, batch)
        alternatives[PUBLISHED, threads] = rounds.within(threads, theirs)
    taken = rounds.interleave(alternatives, options.rounds)
    rows = []
    for threads in options.threads:
        walls = {way: rounds.walls(taken[way, threads]) for way in (LOOP, STACKED, STEP, PUBLISHED)}
        before = rounds.walls(taken[chosen.configured, options.threads[0]])
        ours = walls[chosen.configured]
        rows.append(
            {"problem": name, "threads": threads, "configured": chosen.configured}
            | {f"{way} [ms]": 1000 * rounds.median(each) for way, each in walls.items()}
            | {"published / ours": rounds.ratio(walls[PUBLISHED], ours)}
            | {f"x {options.threads[0]} thread": rounds.ratio(before, ours), "walls": walls}
        )
    report.table(
        "Meta-gradient of one meta-batch, and the whole step",
        rows,
        (
            "problem",
            "threads",
            "configured",
            *(f"{way} [ms]" for way in (LOOP, STACKED, PUBLISHED)),
            "published / ours",
            f"x {options.threads[0]} thread",
            f"{STEP} [ms]",
        ),
    )
    for problem in problems.values():
        problem.close()
    return agreed


def whole_step(
    problem: SupervisedProblem, outer: Any, meta: Meta, tasks: np.ndarray, key: Key
) -> None:
    """Drawing the examples, the meta-gradient and the optimiser's step."""
    batch, _ = problem.collect(meta, tasks, key)
    outer.step(meta, lambda variant: problem.objective(meta, batch, variant))


def check(
    name: str,
    chosen: Case,
    problems: dict[tuple[str, int], SupervisedProblem],
    meta: Meta,
    batch: MetaBatch[Examples],
    report: Report,
) -> bool:
    """Whether the gradients of all ways agree in float64."""
    exact = lambda leaf: leaf.double() if leaf.is_floating_point() else leaf  # noqa: E731
    meta, batch = pytree.tree_map(exact, (meta, batch))
    threads = min(number for _, number in problems)
    expected = their_gradient(chosen, problems[LOOP, threads], meta, batch)
    row: dict[str, Any] = {"problem": name}
    for way in (LOOP, STACKED):
        found = our_gradient(problems[way, threads], meta, batch)
        row[way] = float((found - expected).norm() / expected.norm())
    report.table("Difference from the published way's result, float64", [row], list(row))
    return max(row[LOOP], row[STACKED]) <= TOLERANCE


def main() -> int:
    arguments = parser(__doc__, without=["presets"])
    arguments.add_argument(
        "--problems", nargs="+", choices=("sinusoid", "omniglot"), default=["sinusoid", "omniglot"]
    )
    options = arguments.parse_args()
    report = Report("supervised", options)
    torch.set_num_threads(1)
    agreed = [measure(name, options, report) for name in options.problems]
    if not all(agreed):
        print(f"the ways differ by more than {TOLERANCE} in float64", file=sys.stderr)
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
