"""``python -m metarl.evaluate runs/<run>``: returns by gradient step, on held-out tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl import config, published
from metarl.building import opened_problem
from metarl.curves import Curve, aggregate
from metarl.errors import UserError, run_command
from metarl.metastate import meta_from_tensors
from metarl.schema import Config
from metarl.seeding import Key, Stream, generator

if TYPE_CHECKING:
    from metarl.checkpoints import Checkpoint
    from metarl.data import Meta
    from metarl.problems.protocol import Problem
    from metarl.report import Report

RANDOM = "random"
SETTINGS = (
    "evaluation.steps",
    "evaluation.tasks",
    "evaluation.episodes",
    "seed",
    "device",
    "threads",
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
    schedule = tuple(meta.rates if rate is None else rate for rate in rates)
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
    add = result.add_argument
    add("run", nargs="+", help="a run, one of its checkpoints, or 'latest'")
    add("--steps", metavar="S", help="gradient steps")
    add("--tasks", metavar="M", help="held-out tasks")
    add("--episodes", metavar="N", help="episodes of each task at each step")
    add("--lr", metavar="A,B,...", help="rate of each gradient step")
    add("--seed", metavar="SEED", help="of the held-out tasks and their data")
    add("--device", help="auto, cpu or cuda")
    add("--threads", help="auto or a number; no result depends on it")
    add("--output", type=Path, metavar="DIR", help="instead of <run>/evaluation")
    add(
        "--reference",
        action="append",
        default=[],
        metavar="RUN",
        help="show another run on the same tasks, or 'random': the untrained policy; repeatable",
    )
    add(
        "--render",
        nargs="?",
        const=0,
        type=int,
        metavar="TASK",
        help="write a GIF of a held-out task before and after adaptation; the first, or this one",
    )
    add("--traceback", action="store_true", help="show where an error came from")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return run_command(lambda: _main(options), options.traceback)


def _main(options: argparse.Namespace) -> int:
    curves = []
    for run in options.run:
        print(f"evaluating {run}", flush=True)
        found = _evaluate_run(run, options)
        curves.append(found.curve)
    if len(curves) > 1:
        _aggregate(curves, options.output)
    return 0


def overrides(options: argparse.Namespace) -> list[str]:
    """The options as settings, so that they are checked where settings are."""
    given = {key: getattr(options, key.rpartition(".")[2]) for key in SETTINGS}
    if options.lr is not None:
        given["evaluation.lr"] = f"[{options.lr}]"
        given["evaluation.steps"] = options.steps or str(options.lr.count(",") + 1)
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _evaluate_run(run: str, options: argparse.Namespace) -> Report:
    """Evaluate a run's checkpoint, print the table and write the files."""
    import torch

    from metarl import report

    # The matrices of one task are small: threads over tasks are faster than threads inside one.
    torch.set_num_threads(1)
    path, checkpoint, settings = _load(run, overrides(options))
    chosen, evaluation = settings.problem, settings.evaluation
    print(
        f"{checkpoint.path}: {chosen.env}, {evaluation.tasks} held-out tasks, "
        f"{evaluation.episodes or chosen.episodes} episodes at each of {evaluation.steps + 1} "
        f"points, seed {settings.seed}",
        flush=True,
    )
    folder = path / "evaluation"
    if options.output is not None:
        folder = options.output / path.name if len(options.run) > 1 else options.output
    with opened_problem(settings) as problem:
        untrained = problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        curve = evaluate_meta(problem, meta, settings, checkpoint.iteration)
        references: dict[str, Curve] = {}
        for name in options.reference:
            if name == RANDOM:
                references[name] = evaluate_meta(problem, untrained, settings, 0)
            else:
                title, other = _reference(name, settings)
                references[name if title in references else title] = other
        rows = published.find(chosen.env, chosen.env_kwargs, chosen.horizon)
        found = report.Report(path.name, curve, settings.model_dump(mode="json"), references, rows)
        report.show(*report.table(found))
        written = report.write(found, folder)
        if options.render is not None:
            gif = _film(problem, meta, settings, curve, options.render)
            written.append(report.write_film(gif, folder, curve.iteration))
    print(f"written to {folder}: {', '.join(file.name for file in written)}")
    return found


def _load(run: str, changes: Sequence[str]) -> tuple[Path, Checkpoint, Config]:
    """The run's folder, its checkpoint, and its settings with changes."""
    from metarl import runs

    checkpoint, refused = runs.find_checkpoint(run)
    for reason in refused:
        print(f"warning: {reason}", file=sys.stderr)
    path = runs.find_run(checkpoint.path)
    return path, checkpoint, config.load(path / runs.CONFIG, changes)


def _reference(name: str, beside: Config) -> tuple[str, Curve]:
    """Another run's title and its curve on the same tasks, at its own steps and rates."""
    evaluation, problem = beside.evaluation, beside.problem
    changes = {"seed": beside.seed, "device": beside.device, "threads": beside.threads}
    changes["evaluation.tasks"] = evaluation.tasks
    changes["evaluation.episodes"] = evaluation.episodes or problem.episodes
    path, checkpoint, settings = _load(name, [f"{key}={value}" for key, value in changes.items()])
    compared = ("env", "env_kwargs", "horizon")
    if any(getattr(settings.problem, name) != getattr(problem, name) for name in compared):
        raise UserError(f"{path}: its environment or horizon differs, so it is no reference here.")
    with opened_problem(settings) as opened:
        untrained = opened.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        return _title(path, settings), evaluate_meta(opened, meta, settings, checkpoint.iteration)


def _title(path: Path, settings: Config) -> str:
    """What a run is as a reference: one of the paper's, by the paper's word; else its group."""
    if settings.problem.observe_task:
        return "oracle"
    return "pretrained" if settings.inner.steps == 0 else path.parent.name


def _film(problem: Any, meta: Meta, settings: Config, curve: Curve, index: int) -> bytes:
    """The GIF of one held-out task."""
    from metarl.render import adaptation_gif

    if not 0 <= index < len(curve.tasks):
        raise UserError(f"--render {index}: the held-out tasks are 0 to {len(curve.tasks) - 1}.")
    rates = [meta.rates if rate is None else rate for rate in curve.rates]
    key = Key(settings.seed, Stream.RENDERING, 2 * index)
    return adaptation_gif(problem, meta, curve.tasks[index], rates, curve.episodes, key)


def _aggregate(curves: Sequence[Curve], folder: Path | None) -> None:
    """Show several seeds as one, and write that to the folder if there is one."""
    from metarl import report

    if len({(curve.env, curve.rates) for curve in curves}) > 1:
        raise UserError("the runs differ in environment or rates, so they have no aggregate.")
    found = aggregate(curves, generator(0, Stream.EVALUATION_DATA))
    report.show(*report.aggregate_table(curves, found))
    if folder is not None:
        print(f"written to {folder}: {report.write_aggregate(curves, found, folder).name}")


if __name__ == "__main__":
    sys.exit(main())
