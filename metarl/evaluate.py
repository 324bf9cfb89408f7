"""``python -m metarl.evaluate runs/<run>``: returns, errors or accuracies by gradient step, on held-out tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.building import opened_problem
from metarl.curves import Curve, aggregate
from metarl.errors import UserError, run_command
from metarl.presentation.progress import Progress
from metarl.schema import Config, ExamplesConfig, FineTuning, Inner, RLConfig
from metarl.seeding import Key, Stream, generator
from metarl.selection import Selected, published_beside, references, select
from metarl.storage.metastate import meta_from_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from metarl.data import Meta, Params
    from metarl.problems.protocol import Problem, Share, Split

AMOUNTS = {"episodes", "queries"}
"""Options of which a problem has one: what its held-out tasks are measured on."""


def evaluate_meta(
    problem: Problem,
    meta: Meta,
    settings: Config,
    iteration: int,
    split: Split = "test",
    share: Share | None = None,
    drawn_at: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Curve:
    """Adapt to tasks that training never sees, as ``settings.evaluation`` says; measure after every gradient step.

    The same arguments give the same numbers, whoever asks.

    Args:
        problem: that of the settings.
        meta: what was learned.
        settings: the configuration.
        iteration: meta-iterations trained; names the random numbers, too, unless ``drawn_at`` does.
        split: which tasks: ``validation`` on the way, ``test`` for results.
        share: the tasks that this process adapts to, where several share them; no number depends on it.
        drawn_at: the iteration of another evaluation, to adapt on the same data.
        advance: told how many more of the tasks' numbers have been found: ``steps + 1`` for each.
    """
    evaluation, seed = settings.evaluation, settings.seed
    stream = Stream.EVALUATION_TASKS if split == "test" else Stream.VALIDATION_TASKS
    tasks = problem.sample_tasks(evaluation.tasks, generator(seed, stream), split)
    rates = rate_schedule(settings)
    schedule = in_steps(meta, rates)
    key = Key(seed, Stream.EVALUATION_DATA, iteration if drawn_at is None else drawn_at)
    amount = evaluation.amount
    values = problem.adaptation_curve(meta, tasks, schedule, amount, key, share, advance)
    return Curve(
        title=settings.problem.title,
        measure=problem.measure,
        iteration=iteration,
        seed=seed,
        amount=evaluation.amount or settings.problem.amount,
        rates=rates,
        tasks=tasks,
        per_task=values,
        protocol=settings.protocol,
        transductive=settings.network.transductive
        if isinstance(settings, ExamplesConfig)
        else None,
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
    if not isinstance(settings.inner, Inner | FineTuning) or settings.inner.learn_rates:
        return (None,) * steps
    if settings.evaluation.lr is not None:
        return settings.evaluation.lr
    alpha, later = settings.inner.lr, settings.evaluation.LATER_RATE
    return tuple(alpha if step == 0 else alpha * later for step in range(steps))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.evaluate",
        description="Adapt to held-out tasks; write returns, errors or accuracies, whatever the run "
        "is measured by, for every gradient step to <run>/evaluation/.",
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
    add("--run-dir", default="runs", metavar="DIR", help="folder that holds the runs, for 'latest'")
    add("--output", type=Path, metavar="DIR", help="instead of <run>/evaluation")
    add(
        "--reference",
        action="append",
        default=[],
        metavar="RUN",
        help="show another run on the same tasks, or 'random': the untrained network; repeatable",
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
    print(f"evaluating {', '.join(options.run)}", flush=True)
    import torch

    # The matrices of one task are small: threads over tasks are faster than threads inside one.
    torch.set_num_threads(1)
    chosen = [_chosen(run, options) for run in options.run]
    _check_aggregate(chosen)
    beside = [references(options.reference, each.settings, options.run_dir) for each in chosen]
    curves = [
        _evaluate_run(each, others, options) for each, others in zip(chosen, beside, strict=True)
    ]
    if len(chosen) > 1:
        _aggregate(curves, [each.seed for each in chosen], options.output)
    return 0


def overrides(options: argparse.Namespace, settings: Config) -> list[str]:
    """The options as settings, so that they are checked where settings are.

    Raises:
        UserError: they ask for data that the run's problem does not have.
    """
    has = settings.evaluation.AMOUNT
    for name in AMOUNTS - {has}:
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name}: {settings.problem.title} is measured on {has}, not on {name}; "
                f"use --{has}."
            )
    given = {key: getattr(options, key) for key in ("seed", "device", "threads")}
    given |= {f"evaluation.{key}": getattr(options, key) for key in ("steps", "tasks", has)}
    if options.lr is not None:
        given["evaluation.lr"] = f"[{options.lr}]"
        given["evaluation.steps"] = options.steps or str(options.lr.count(",") + 1)
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _chosen(run: str, options: argparse.Namespace) -> Selected:
    """A run's checkpoint, and the settings that the options make of its own."""
    found = select(run, options.run_dir)
    found = found.changed(overrides(options, found.settings))
    title, tasks = found.settings.problem.title, found.settings.evaluation.tasks
    if options.render is not None and not isinstance(found.settings, RLConfig):
        raise UserError(f"--render: {title} has no episodes to film; leave it out.")
    if options.render is not None and not 0 <= options.render < tasks:
        raise UserError(f"--render {options.render}: the held-out tasks are 0 to {tasks - 1}.")
    return found


def _evaluate_run(
    chosen: Selected, beside: Mapping[str, Selected | None], options: argparse.Namespace
) -> Curve:
    """Evaluate a run's checkpoint, print the table and write the files."""
    from metarl.presentation import report

    path, checkpoint, settings, _ = chosen
    print(
        f"{checkpoint.path}: {settings.problem.title}, seed {settings.seed}, "
        f"{settings.evaluation.tasks} tasks\nprotocol: {settings.protocol}",
        flush=True,
    )
    folder = path / "evaluation"
    if options.output is not None:
        folder = options.output / path.name if len(options.run) > 1 else options.output
    with opened_problem(settings) as problem:
        untrained = problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        curve = _measured("evaluating", problem, meta, settings, checkpoint.iteration)
        others = {
            name: _measured(name, problem, untrained, settings, 0, curve.iteration)
            if other is None
            else _reference(name, other, curve.iteration)
            for name, other in beside.items()
        }
        rows = published_beside(settings)
        found = report.Report(path.name, curve, settings.model_dump(mode="json"), others, rows)
        report.show(*report.table(found))
        if line := report.published_line(found):
            print(line)
        written = report.write(found, folder)
        if (drawn := examples_figure(problem, meta, settings, curve)) is not None:
            written.append(report.write_examples(drawn, folder, curve.iteration))
        if options.render is not None:
            gif = _film(problem, meta, settings, curve, options.render)
            written.append(report.write_film(gif, folder, curve.iteration))
    print(f"written to {folder}: {', '.join(file.name for file in written)}")
    return curve


def _measured(
    title: str,
    problem: Problem,
    meta: Meta,
    settings: Config,
    iteration: int,
    drawn_at: int | None = None,
) -> Curve:
    """:func:`evaluate_meta`, and how far it is."""
    total = settings.evaluation.tasks * (settings.evaluation.steps + 1)
    with Progress(title, total, "measurements", patient=True) as progress:
        return evaluate_meta(
            problem, meta, settings, iteration, drawn_at=drawn_at, advance=progress.advance
        )


def _reference(name: str, other: Selected, drawn_at: int) -> Curve:
    settings, checkpoint = other.settings, other.checkpoint
    with opened_problem(settings) as opened:
        untrained = opened.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        meta = meta_from_tensors(checkpoint.tensors, untrained)
        return _measured(name, opened, meta, settings, checkpoint.iteration, drawn_at)


def _film(problem: Any, meta: Meta, settings: Config, curve: Curve, index: int) -> bytes:
    """The GIF of one held-out task."""
    from metarl.render import adaptation_gif

    rates = in_steps(meta, curve.rates)
    key = Key(settings.seed, Stream.RENDERING, 2 * index)
    return adaptation_gif(problem, meta, curve.tasks[index], rates, curve.amount, key)


def _check_aggregate(chosen: Sequence[Selected]) -> None:
    """Refuse runs that cannot be shown as one, before any of them is evaluated."""
    alike = [(each.settings.problem.tasks, rate_schedule(each.settings)) for each in chosen]
    if any(each != alike[0] for each in alike):
        raise UserError(
            "the runs differ in tasks or rates, so they have no aggregate; evaluate them one by one."
        )


def _aggregate(curves: Sequence[Curve], seeds: Sequence[int], folder: Path | None) -> None:
    """Show runs of several seeds as one, and write that to the folder if there is one."""
    from metarl.presentation import report

    found = report.Seeds(seeds, curves, aggregate(curves, generator(0, Stream.EVALUATION_DATA)))
    report.show(*report.aggregate_table(found))
    if folder is not None:
        print(f"written to {folder}: {report.write_aggregate(found, folder).name}")


if __name__ == "__main__":
    sys.exit(main())
