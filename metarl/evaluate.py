"""``python -m metarl.evaluate runs/<run>``: returns by gradient step, on held-out tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl import config
from metarl.building import opened_problem
from metarl.curves import Curve, aggregate
from metarl.errors import UserError, run_command
from metarl.metastate import meta_from_tensors
from metarl.schema import Config, RLConfig
from metarl.seeding import Key, Stream, generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from metarl.checkpoints import Checkpoint
    from metarl.data import Meta, Params
    from metarl.problems.protocol import Problem, Share, Split

RANDOM = "random"
SETTINGS = (
    "evaluation.steps",
    "evaluation.tasks",
    "evaluation.episodes",
    "evaluation.queries",
    "seed",
    "device",
    "threads",
)


def evaluate_meta(
    problem: Problem,
    meta: Meta,
    settings: Config,
    iteration: int,
    split: Split = "test",
    share: Share | None = None,
) -> Curve:
    """Adapt to tasks that training never sees, as ``settings.evaluation`` says; measure after every gradient step.

    The same arguments give the same numbers, whoever asks.

    Args:
        problem: that of the settings.
        meta: what was learned.
        settings: the configuration.
        iteration: meta-iterations trained; names the random numbers, too.
        split: which tasks: ``validation`` on the way, ``test`` for results.
        share: the tasks that this process adapts to, where several share them; no number depends on it.
    """
    evaluation, seed = settings.evaluation, settings.seed
    stream = Stream.EVALUATION_TASKS if split == "test" else Stream.VALIDATION_TASKS
    tasks = problem.sample_tasks(evaluation.tasks, generator(seed, stream), split)
    rates = rate_schedule(settings)
    schedule = in_steps(meta, rates)
    key = Key(seed, Stream.EVALUATION_DATA, iteration)
    values = problem.adaptation_curve(meta, tasks, schedule, evaluation.amount, key, share)
    return Curve(
        env=settings.problem.title,
        measure=problem.measure,
        iteration=iteration,
        seed=seed,
        episodes=evaluation.amount or settings.problem.amount,
        rates=rates,
        tasks=tasks,
        per_task_return=values,
        protocol=settings.protocol,
    )


def examples_figure(problem: Problem, meta: Meta, settings: Config, curve: Curve) -> Figure | None:
    """The picture of a few of the held-out tasks of an evaluation, if the problem draws one."""
    key = Key(settings.seed, Stream.EVALUATION_DATA, curve.iteration)
    return problem.examples_figure(meta, curve.tasks, in_steps(meta, curve.rates), key)


def in_steps(meta: Meta, rates: Sequence[float | None]) -> tuple[float | Params, ...]:
    """The rate of each gradient step, the learned ones in the place of None."""
    from metarl.functional.params import rates_at

    return tuple(rates_at(meta, step) if rate is None else rate for step, rate in enumerate(rates))


def rate_schedule(settings: Config) -> tuple[float | None, ...]:
    """The rate of each gradient step, as configured or by the protocol; None for learned ones."""
    steps = settings.evaluation.steps
    if settings.inner.learn_rates:
        return (None,) * steps
    if settings.evaluation.lr is not None:
        return settings.evaluation.lr
    alpha, later = settings.inner.lr, settings.evaluation.LATER_RATE
    return tuple(alpha if step == 0 else alpha * later for step in range(steps))


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
    add("--episodes", metavar="N", help="episodes of each task at each step, where it has some")
    add(
        "--queries",
        metavar="N",
        help="query examples of each task (and class), where it has examples",
    )
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
    evaluated = []
    for run in options.run:
        print(f"evaluating {run}", flush=True)
        evaluated.append(_evaluate_run(run, options))
    if len(evaluated) > 1:
        _aggregate(evaluated, options.output)
    return 0


def overrides(options: argparse.Namespace) -> list[str]:
    """The options as settings, so that they are checked where settings are."""
    given = {key: getattr(options, key.rpartition(".")[2]) for key in SETTINGS}
    if options.lr is not None:
        given["evaluation.lr"] = f"[{options.lr}]"
        given["evaluation.steps"] = options.steps or str(options.lr.count(",") + 1)
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _evaluate_run(run: str, options: argparse.Namespace) -> tuple[Config, Curve]:
    """Evaluate a run's checkpoint, print the table and write the files."""
    import torch

    from metarl import report

    # The matrices of one task are small: threads over tasks are faster than threads inside one.
    torch.set_num_threads(1)
    path, checkpoint, settings = _load(run, overrides(options))
    chosen, evaluation = settings.problem, settings.evaluation
    print(
        f"{checkpoint.path}: {chosen.title}, seed {settings.seed}, {evaluation.tasks} tasks\n"
        f"protocol: {settings.protocol}",
        flush=True,
    )
    if options.render is not None and not isinstance(settings, RLConfig):
        raise UserError(f"--render: {chosen.title} has no episodes to film; leave it out.")
    if options.render is not None and not 0 <= options.render < evaluation.tasks:
        raise UserError(
            f"--render {options.render}: the held-out tasks are 0 to {evaluation.tasks - 1}."
        )
    beside = [
        name if name == RANDOM else _load_reference(name, settings) for name in options.reference
    ]
    folder = path / "evaluation"
    if options.output is not None:
        folder = options.output / path.name if len(options.run) > 1 else options.output
    with opened_problem(settings) as problem:
        untrained = problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        curve = evaluate_meta(problem, meta, settings, checkpoint.iteration)
        references: dict[str, Curve] = {}
        for name, other in zip(options.reference, beside, strict=True):
            if isinstance(other, str):
                references[name] = evaluate_meta(problem, untrained, settings, 0)
            else:
                title = _title(*other)
                references[name if title in references else title] = _reference(*other)
        rows = chosen.published()
        found = report.Report(path.name, curve, settings.model_dump(mode="json"), references, rows)
        report.show(*report.table(found))
        written = report.write(found, folder)
        if (drawn := examples_figure(problem, meta, settings, curve)) is not None:
            written.append(report.write_examples(drawn, folder, curve.iteration))
        if options.render is not None:
            gif = _film(problem, meta, settings, curve, options.render)
            written.append(report.write_film(gif, folder, curve.iteration))
    print(f"written to {folder}: {', '.join(file.name for file in written)}")
    return settings, curve


def _load(run: str, changes: Sequence[str]) -> tuple[Path, Checkpoint, Config]:
    """The run's folder, its checkpoint, and its settings with changes."""
    from metarl import runs

    checkpoint, refused = runs.find_checkpoint(run)
    for reason in refused:
        print(f"warning: {reason}", file=sys.stderr)
    path = runs.find_run(checkpoint.path)
    return path, checkpoint, config.load(path / runs.CONFIG, changes)


def _load_reference(name: str, beside: Config) -> tuple[Path, Checkpoint, Config]:
    """Another run on the same tasks, at its own steps and rates."""
    evaluation, problem = beside.evaluation, beside.problem
    changes = {"seed": beside.seed, "device": beside.device, "threads": beside.threads}
    changes["evaluation.tasks"] = evaluation.tasks
    changes[f"evaluation.{evaluation.AMOUNT}"] = evaluation.amount or problem.amount
    found = _load(name, [f"{key}={value}" for key, value in changes.items()])
    if found[2].problem.tasks != problem.tasks:
        raise UserError(f"{found[0]}: its tasks differ, so it is no reference here.")
    return found


def _reference(path: Path, checkpoint: Checkpoint, settings: Config) -> Curve:
    with opened_problem(settings) as opened:
        untrained = opened.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        return evaluate_meta(opened, meta, settings, checkpoint.iteration)


def _title(path: Path, _: Checkpoint, settings: Config) -> str:
    """What a run is as a reference: one of the paper's, by the paper's word; else its group."""
    if getattr(settings.problem, "observe_task", False):
        return "oracle"
    return "pretrained" if settings.inner.steps == 0 else path.parent.name


def _film(problem: Any, meta: Meta, settings: Config, curve: Curve, index: int) -> bytes:
    """The GIF of one held-out task."""
    from metarl.render import adaptation_gif

    rates = in_steps(meta, curve.rates)
    key = Key(settings.seed, Stream.RENDERING, 2 * index)
    return adaptation_gif(problem, meta, curve.tasks[index], rates, curve.episodes, key)


def _aggregate(evaluated: Sequence[tuple[Config, Curve]], folder: Path | None) -> None:
    """Show several seeds as one, and write that to the folder if there is one."""
    from metarl import report

    curves = [curve for _, curve in evaluated]
    first = evaluated[0][0].problem.tasks, curves[0].rates
    if any((settings.problem.tasks, curve.rates) != first for settings, curve in evaluated):
        raise UserError("the runs differ in tasks or rates, so they have no aggregate.")
    found = aggregate(curves, generator(0, Stream.EVALUATION_DATA))
    report.show(*report.aggregate_table(curves, found))
    if folder is not None:
        print(f"written to {folder}: {report.write_aggregate(curves, found, folder).name}")


if __name__ == "__main__":
    sys.exit(main())
