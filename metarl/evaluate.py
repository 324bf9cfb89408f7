"""``python -m metarl.evaluate runs/<run>``: returns by gradient step, on held-out tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl import config
from metarl.curves import Curve, aggregate
from metarl.data import Meta
from metarl.errors import UserError, run_command
from metarl.functional.objectives import InnerUpdate
from metarl.metastate import meta_from_tensors, meta_to_tensors
from metarl.problems.protocol import Problem
from metarl.schema import TRPO, Config
from metarl.seeding import Key, Stream, generator

__all__ = [
    "evaluate_meta",
    "main",
    "make_problem",
    "meta_from_tensors",
    "meta_to_tensors",
    "resolve_device",
    "resolve_threads",
]


def resolve_device(name: str) -> str:
    """``cpu`` or ``cuda`` for a setting that may be ``auto``.

    Raises:
        UserError: a GPU is asked for where there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise UserError(
            "device is cuda, but this machine has no usable GPU; set device=cpu or auto."
        )
    return name


def resolve_threads(setting: str | int) -> int:
    """The threads of a setting that may be ``auto``: one for each core this process may use."""
    if isinstance(setting, int):
        return setting
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_problem(settings: Config, device: str, threads: int) -> Problem:
    """The problem that a configuration describes.

    Args:
        settings: the configuration.
        device: ``cpu`` or ``cuda``.
        threads: Python threads that share the tasks.
    """
    from metarl.problems.rl import RLProblem

    problem, network, inner = settings.problem, settings.network, settings.inner
    return RLProblem(
        env=problem.env,
        env_kwargs=dict(problem.env_kwargs),
        horizon=problem.horizon,
        episodes=problem.episodes,
        discount=problem.discount,
        gae_lambda=problem.gae_lambda,
        hidden_sizes=network.hidden_sizes,
        activation=network.activation,
        initial_std=network.initial_std,
        min_std=network.min_std,
        inner_steps=inner.steps,
        inner=InnerUpdate(inner.lr, inner.first_order),
        estimator=inner.estimator,
        learn_rates=inner.learn_rates,
        curvature=settings.outer.curvature if isinstance(settings.outer, TRPO) else "auto",
        device=device,
        threads=threads,
    )


def evaluate_meta(problem: Problem, meta: Meta, settings: Config, iteration: int) -> Curve:
    """Adapt to the held-out tasks of ``settings.evaluation`` and measure after every gradient step.

    The same settings, meta-parameters and iteration give the same numbers, whoever asks: an
    evaluation during training can be repeated from its checkpoint.

    Args:
        problem: that of the settings.
        meta: what was learned.
        settings: the configuration.
        iteration: meta-iterations trained; names the random numbers, too.
    """
    evaluation, seed = settings.evaluation, settings.seed
    tasks = problem.sample_tasks(evaluation.tasks, generator(seed, Stream.EVALUATION_TASKS))
    rates = rate_schedule(settings)
    # Learned rates are tensors, one per parameter, for every step alike.
    schedule: Any = tuple(meta.rates if rate is None else rate for rate in rates)
    values = problem.adaptation_curve(
        meta, tasks, schedule, evaluation.episodes, Key(seed, Stream.EVALUATION_DATA, iteration)
    )
    return Curve(
        env=settings.problem.env,
        measure=problem.measure,
        iteration=iteration,
        seed=seed,
        episodes=evaluation.episodes or settings.problem.episodes,
        rates=rates,
        tasks=tasks,
        per_task_return=values,
    )


def rate_schedule(settings: Config) -> tuple[float | None, ...]:
    """The rate of each gradient step: α, then α/2, or as configured; None for learned ones."""
    steps = settings.evaluation.steps
    if settings.inner.learn_rates:
        return (None,) * steps
    if settings.evaluation.lr is not None:
        return settings.evaluation.lr
    alpha = settings.inner.lr
    return tuple(alpha if step == 0 else alpha / 2.0 for step in range(steps))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.evaluate",
        description="Adapt to held-out tasks; write returns by gradient step to <run>/evaluation/.",
        epilog="What is left out is as the run was configured. Several runs: also their aggregate.",
    )
    result.add_argument("run", nargs="+", help="a run, one of its checkpoints, or 'latest'")
    result.add_argument("--steps", help="gradient steps (evaluation.steps)")
    result.add_argument("--tasks", help="held-out tasks (evaluation.tasks)")
    result.add_argument("--episodes", help="episodes of each task at each step")
    result.add_argument("--lr", metavar="A,B,...", help="rate of each gradient step")
    result.add_argument("--seed", help="of the held-out tasks and their data")
    result.add_argument("--device", help="auto, cpu or cuda")
    result.add_argument("--threads", help="auto or a number; no result depends on it")
    result.add_argument("--output", type=Path, metavar="DIR", help="instead of <run>/evaluation")
    result.add_argument("--traceback", action="store_true", help="show where an error came from")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return run_command(lambda: _main(options), options.traceback)


def overrides(options: argparse.Namespace) -> list[str]:
    """The options as settings, so that they are checked where settings are."""
    names = {"steps": "evaluation.steps", "tasks": "evaluation.tasks", "seed": "seed"}
    names |= {"episodes": "evaluation.episodes", "device": "device", "threads": "threads"}
    given = [
        f"{key}={getattr(options, name)}" for name, key in names.items() if getattr(options, name)
    ]
    if options.lr:
        given.append(f"evaluation.lr=[{options.lr}]")
        if options.steps is None:
            given.append(f"evaluation.steps={options.lr.count(',') + 1}")
    return given


def _main(options: argparse.Namespace) -> int:
    import torch

    from metarl import report

    torch.set_num_threads(1)
    reports = []
    for run in options.run:
        found, folder = evaluate_run(run, overrides(options))
        if options.output is not None:
            folder = options.output / found.run if len(options.run) > 1 else options.output
        report.show(*report.table(found))
        print(f"written: {', '.join(str(path) for path in report.write(found, folder))}")
        reports.append(found)
    if len(reports) > 1:
        _show_aggregate([each.curve for each in reports])
    return 0


def evaluate_run(run: str, changes: Sequence[str]) -> Any:
    """Evaluate a run's checkpoint; its report, and the folder it belongs in."""
    from metarl import published, runs
    from metarl.report import Report

    checkpoint, refused = runs.find_checkpoint(run)
    path = runs.find_run(checkpoint.path)
    settings = config.load(path / runs.CONFIG, changes)
    for reason in refused:
        print(f"warning: {reason}", file=sys.stderr)
    with opened_problem(settings) as problem:
        evaluation = settings.evaluation
        print(
            f"{checkpoint.path}: {settings.problem.env}, {evaluation.tasks} held-out tasks, "
            f"{evaluation.episodes or settings.problem.episodes} episodes at each of "
            f"{evaluation.steps + 1} steps, seed {settings.seed}",
            flush=True,
        )
        like = problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, like)
        curve = evaluate_meta(problem, meta, settings, checkpoint.iteration)
    chosen = settings.problem
    rows = published.find(chosen.env, chosen.env_kwargs, chosen.horizon)
    return Report(path.name, curve, settings.model_dump(mode="json"), {}, rows), path / "evaluation"


@contextmanager
def opened_problem(settings: Config) -> Iterator[Problem]:
    """The problem of a configuration, closed at the end."""
    device, threads = resolve_device(settings.device), resolve_threads(settings.threads)
    problem = make_problem(settings, device, threads)
    try:
        yield problem
    finally:
        problem.close()


def _show_aggregate(curves: Sequence[Curve]) -> None:
    from metarl import report

    if len({(curve.env, curve.rates) for curve in curves}) > 1:
        raise UserError("the runs differ in environment or rates, so they have no aggregate.")
    rng = generator(0, Stream.EVALUATION_DATA)
    report.show(*report.aggregate_table(curves, aggregate(curves, rng)))


if __name__ == "__main__":
    sys.exit(main())
