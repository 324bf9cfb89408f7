"""Meta-training: ``python -m metarl.train configs/cheetah_vel.yaml``. The whole program, from the settings to the run.

Read :func:`train` for the loop and :func:`meta_iteration` for the algorithm; what stands above does as the command line
says.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metarl import config
from metarl.command_line import read_command_line
from metarl.distributed.ranks import ALONE, Ranks, Unrecorded, connected, silence
from metarl.presentation.plaintext import writable
from metarl.schema import Config, config_of
from metarl.training import Training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from metarl.errors import run_command

    options, overrides = read_command_line(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _main(options, overrides), options.traceback)


def _main(options: argparse.Namespace, overrides: list[str]) -> int:
    with connected() as ranks:
        ranks.check_alike()
        return (_resume if options.resume else _start)(options, overrides, ranks)


def _start(options: argparse.Namespace, overrides: list[str], ranks: Ranks) -> int:
    settings = _agreed(ranks, lambda: _load(options, overrides))
    if options.print_config:
        return _print_config(settings, ranks)
    name = "fast-dev-run" if options.fast_dev_run else Path(options.config).stem
    return start(settings, name, options.run_dir, ranks)[0]


def _load(options: argparse.Namespace, overrides: list[str]) -> Config:
    if options.config is None:
        raise config.ConfigError(
            "name a configuration, such as configs/cheetah_vel.yaml, or a run to --resume."
        )
    settings = config.load(options.config, overrides)
    if options.fast_dev_run:
        settings = config.load(options.config, [*settings.FAST_DEV_RUN, *overrides])
    return settings


def _resume(options: argparse.Namespace, overrides: list[str], ranks: Ranks) -> int:
    from metarl import runs

    if options.fast_dev_run:
        raise config.ConfigError("--fast-dev-run is for a new run: leave it or --resume out.")
    path = ranks.on_first(lambda: _find_run(options), Path)
    settings = _agreed(ranks, lambda: config.load(path / runs.CONFIG, overrides))
    if options.print_config:
        return _print_config(settings, ranks)
    return resume(path, settings, ranks)


def _find_run(options: argparse.Namespace) -> Path:
    from metarl import runs

    if options.config and options.resume != "latest":
        raise config.ConfigError(
            f"{options.config}: a run goes on with its own settings; leave the file out, and change "
            "settings by key=value."
        )
    root = options.run_dir or (
        config.load(options.config).run.directory if options.config else "runs"
    )
    return runs.find_run(options.resume, root)


def _agreed(ranks: Ranks, load: Callable[[], Config]) -> Config:
    """The settings as the first process reads them: the others need no file."""
    pack = lambda settings: settings.model_dump_json().encode()  # noqa: E731
    settings = ranks.from_first(load, pack, config_of)
    ranks.check_gpus(settings.device)
    return settings


def _print_config(settings: Config, ranks: Ranks) -> int:
    if ranks.first:
        # Text beyond ASCII stands between double quotes, where YAML reads escapes: it stays the same setting.
        print(writable(config.dump(settings, explain=True), sys.stdout, "backslashreplace"), end="")
    return 0


def start(
    settings: Config, name: str, directory: str | Path | None = None, ranks: Ranks = ALONE
) -> tuple[int, Path]:
    """Train in a new run of the group ``name``; the exit code of `train`, and the run's folder."""
    from metarl.runs import Run

    create = lambda: Run.create(settings, name, directory)  # noqa: E731
    with Training(settings, ranks) as training, ranks.on_first(create, Unrecorded) as run:
        return train(training, run), run.path


def resume(path: Path, settings: Config, ranks: Ranks = ALONE) -> int:
    """Go on with a run from its newest checkpoint that can be used; the exit code of `train`."""
    from metarl import runs

    with Training(settings, ranks) as training:
        origin = ranks.on_first(lambda: training.restore_newest(path), lambda: None)
        training.spread()
        if settings.iterations < training.iteration:
            raise config.ConfigError(
                f"iterations is {settings.iterations}, but {path} has {training.iteration} already; "
                "raise it."
            )
        reopen = lambda: runs.Run.reopen(path, training.iteration, settings, origin)  # noqa: E731
        with ranks.on_first(reopen, Unrecorded) as run:
            return train(training, run)


def train(training: Training, run: Any) -> int:
    """Meta-train until the last iteration or a signal.

    Returns:
        Exit code: 0, or 128 plus the signal that ended it; its checkpoint is saved then.
    """
    from metarl.checks.guard import validated
    from metarl.interrupts import Interrupts
    from metarl.presentation.display import Display

    settings, ranks = training.settings, training.ranks
    stream = ranks.on_first(lambda: None, silence)
    with (
        Display(settings.iterations, training.iteration, stream) as display,
        Interrupts() as interrupts,
    ):
        display.note(describe(training, run))
        if advice := slow_kernels(training):
            display.note(advice)
        while training.iteration < settings.iterations:
            metrics = meta_iteration(training)
            training.agree()
            i, done = training.iteration, training.iteration == settings.iterations
            evaluates = is_due(settings.evaluation.every, i, done)
            reports = evaluates or is_due(settings.run.log_every, i, done)
            if reports:
                display.update(i, metrics)
            score, failure = None, None
            if evaluates:
                measure = partial(evaluate, training, run, metrics, display)
                score, failure = validated(measure, settings.on_nonfinite == "skip_task")
            stop = ranks.at_boundary(int(interrupts.received or 0), training.fingerprint)
            with ranks.writing():
                if reports or stop:
                    run.log(i - 1, metrics)
                if stop or evaluates or is_due(settings.run.checkpoint_every, i, done):
                    training.save(run, score)
            if failure is not None:
                raise failure
            if stop and not done:
                name = signal.Signals(stop).name
                display.note(f"stopped by {name}; continue with --resume {run.path}")
                return 128 + stop
        display.note(f"done; adaptation curve: python -m metarl.evaluate {run.path}")
    return 0


def meta_iteration(training: Training) -> dict[str, float]:
    """Sample tasks, collect their data, take one outer step; returns what to log."""
    from metarl.checks.guard import Guard
    from metarl.seeding import Key, Stream, generator

    settings, problem, meta = training.settings, training.problem, training.meta
    seed, i = settings.seed, training.iteration
    began = time.perf_counter()
    tasks = problem.sample_tasks(settings.outer.tasks, generator(seed, Stream.TRAIN_TASKS, i))
    guard = Guard(problem, tasks, settings.on_nonfinite == "skip_task", i, training.ranks)
    batch, metrics = guard.collect(meta, Key(seed, Stream.TRAIN_DATA, i))
    collected = time.perf_counter()
    training.meta, info = guard.step(training.outer, meta, batch)
    metrics |= info
    metrics["time/collect"] = collected - began
    metrics["time/outer"] = time.perf_counter() - collected
    training.iteration += 1
    count_steps(training, metrics)
    return metrics


def count_steps(training: Training, metrics: dict[str, float]) -> None:
    """Replace the iteration's environment steps by the total so far, and add their rate."""
    if "env_steps" in metrics:
        metrics["time/env_steps_per_second"] = metrics["env_steps"] / metrics["time/collect"]
        training.env_steps += int(metrics["env_steps"])
        metrics["env_steps"] = training.env_steps


def is_due(every: int, iteration: int, done: bool) -> bool:
    """Whether something happens now that happens every so often, and at the end; 0 is never."""
    return every > 0 and (iteration % every == 0 or done)


def evaluate(training: Training, run: Any, metrics: dict[str, float], display: Any) -> float:
    """Adapt to validation tasks, add the curve to ``metrics``, and return the score: its value after K steps.

    They are not the tasks of ``metarl.evaluate``: what a run looks like on the way may decide which checkpoint
    is the best, or when to stop, and the held-out tasks must have no part in that.
    """
    from metarl.evaluate import evaluate_meta

    settings, measure, ranks = training.settings, training.problem.measure, training.ranks
    share = ranks.share(settings.evaluation.tasks)
    curve = evaluate_meta(
        training.problem, training.meta, settings, training.iteration, "validation", share
    )
    names = [f"eval/{measure}_step_{step}" for step in curve.steps]
    metrics |= dict(zip(names, curve.mean, strict=True))
    with ranks.writing():
        if ranks.first:
            draw(training, run, curve)
        shown = ", ".join(map(curve.kind.text, curve.mean))
        steps = " after 0.. steps" if len(names) > 1 else ""
        conditions = f" ({curve.conditions})" if curve.conditions else ""
        display.note(
            f"iteration {training.iteration}: {measure}{steps} on validation tasks: {shown}{conditions}"
        )
    after = curve.mean[min(settings.inner.steps, len(curve.mean) - 1)]
    return float(after if curve.kind.higher_is_better else -after)


def draw(training: Training, run: Any, curve: Any) -> None:
    """Keep the pictures of an evaluation."""
    from metarl.evaluate import examples_figure
    from metarl.presentation.figures import adaptation_figure
    from metarl.selection import published_beside

    settings, i = training.settings, training.iteration
    run.figure("adaptation", adaptation_figure(curve, published=published_beside(settings)), i)
    if (drawn := examples_figure(training.problem, training.meta, settings, curve)) is not None:
        run.figure("examples", drawn, i)


def slow_kernels(training: Training) -> str:
    """What a user should know whose updates could be faster; usually nothing."""
    from metarl.kernels import compiled
    from metarl.problems.rl import RLProblem

    problem = training.problem
    closed = isinstance(problem, RLProblem) and problem.arch is not None
    if training.device != "cpu" or not closed or compiled.MISSING in {"", compiled.UNSUITED}:
        return ""
    return (
        f"metarl's compiled kernels are {compiled.MISSING}: updates take longer than they need to; "
        "python -m metarl.doctor says what to do"
    )


def describe(training: Training, run: Any) -> str:
    """The first line a user sees."""
    settings, size = training.settings, training.ranks.size
    processes = f"{size} processes of " if size > 1 else ""
    return (
        f"{settings.problem.title}, {settings.outer.tasks} tasks x {settings.problem.data_text}, "
        f"on {training.device} with {processes}{training.threads} threads, in {run.path}"
    )


if __name__ == "__main__":
    sys.exit(main())
