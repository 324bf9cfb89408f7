"""Sweeps with Optuna: ``python -m metarl.sweep configs/nav2d.yaml --set inner.lr=0.05..0.5:log --seeds 1 2 3``.

A trial trains with the same settings once for every seed, by the functions of :mod:`metarl.train`. Its value is the
mean over the seeds of what the last evaluation measured on validation tasks, after as many gradient steps as training
takes: the held-out tasks of :mod:`metarl.evaluate` have no part in the choice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from metarl import config
from metarl.errors import UserError, is_expected, run_command
from metarl.schema import Config
from metarl.search_space import Space, read_space
from metarl.storage import disk

STUDY, BEST = "study.db", "best.yaml"


class Sweep(NamedTuple):
    """What is tried.

    Attributes:
        path: the configuration.
        overrides: settings of every trial.
        space: settings that trials differ in.
        seeds: of the runs of each trial.
        folder: where the study and the runs are kept.
    """

    path: str
    overrides: tuple[str, ...]
    space: Space
    seeds: tuple[int, ...]
    folder: Path

    def settings(self, chosen: Mapping[str, Any], seed: int) -> Config:
        """Of one run."""
        pairs = [f"{key}={value}" for key, value in chosen.items()]
        return config.load(self.path, [*self.overrides, *pairs, f"seed={seed}"])

    def check(self) -> Config:
        """Refuse what no trial could train with, before the first one does; the first settings there are."""
        if "seed" in self.space:
            raise UserError("--set seed: a trial is the mean over seeds; name them by --seeds.")
        first = {key: each.examples[0] for key, each in self.space.items()}
        for key, each in self.space.items():
            for value in each.examples:
                self.settings(first | {key: value}, self.seeds[0])
        for seed in self.seeds:
            settings = self.settings(first, seed)
        if settings.evaluation.every == 0:
            raise UserError(
                "evaluation.every is 0, but a sweep goes by evaluations; set it to at least 1."
            )
        return settings

    def definition(self) -> dict[str, Any]:
        """What makes it this sweep and no other: a study goes on with the same alone."""
        first = {key: each.examples[0] for key, each in self.space.items()}
        return {
            "settings": config.dump(self.settings(first, self.seeds[0])),
            "space": {key: str(each) for key, each in self.space.items()},
            "seeds": list(self.seeds),
        }


class TrialFailedError(Exception):
    """A trial has no value; one sentence that says why."""


class StoppedError(Exception):
    """A signal ended a run; holds the exit code."""


def run(sweep: Sweep, trials: int) -> int:
    """Train until the study has so many trials; what an earlier call began is finished first.

    A run that was interrupted goes on from its checkpoint, and trial n is the same whether or not the sweep was.

    Returns:
        Exit code: 0, or 128 plus the signal that ended it.

    Raises:
        UserError: the sweep cannot be, or no trial has a value.
    """
    settings = sweep.check()
    with _opened(sweep, higher_is_better(settings)) as study:
        try:
            while (number := _next(study, sweep, trials)) is not None:
                _try(study, sweep, number)
        except StoppedError as stopped:
            print(f"continue the sweep with the same command; it is kept in {sweep.folder}")
            return int(stopped.args[0])
        return _conclude(study, sweep)


def higher_is_better(settings: Config) -> bool:
    """Whether adaptation should raise what the problem measures."""
    from metarl.curves import MEASURES

    return MEASURES[settings.problem.measure].higher_is_better


@contextmanager
def _opened(sweep: Sweep, maximise: bool) -> Iterator[Any]:
    """The study in the sweep's folder, which no other process may have open."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise UserError(
            "a sweep needs Optuna, which is not installed; install the extra: "
            "pip install -c constraints.txt -e '.[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = sweep.folder / STUDY
    with disk.failures_as(UserError, sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = disk.lock(sweep.folder / ".lock")
        except BlockingIOError:
            raise UserError(f"{sweep.folder}: another process runs this sweep.") from None
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{file.absolute()}",
            study_name=sweep.folder.name,
            direction="maximize" if maximise else "minimize",
            load_if_exists=True,
        )
        if study.user_attrs.setdefault("sweep", sweep.definition()) != sweep.definition():
            raise UserError(
                f"{sweep.folder}: holds a sweep of other settings, ranges or seeds; "
                "choose another --name."
            )
        study.set_user_attr("sweep", sweep.definition())
        yield study
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"{file}: cannot be used ({said}); move it away, or choose another --name."
        ) from error
    finally:
        os.close(lock)


def _next(study: Any, sweep: Sweep, trials: int) -> int | None:
    """The number of the trial to train: one that was interrupted, or a new one; None when there are enough."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    from metarl.seeding import Stream, generator

    for begun in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if set(begun.params) == set(sweep.space):
            return int(begun.number)
        study.tell(begun.number, state=TrialState.FAIL)
    number = len(study.trials)
    if number >= trials:
        return None
    # By its number, so that it does not matter which process asks.
    seed = generator(sweep.seeds[0], Stream.SWEEP, number).integers(2**32)
    study.sampler = TPESampler(seed=int(seed))
    trial = study.ask()
    for key, each in sweep.space.items():
        each.suggest(trial, key)
    return int(trial.number)


def _try(study: Any, sweep: Sweep, number: int) -> None:
    """Train with a trial's settings and every seed, and tell the study the value."""
    from optuna.trial import TrialState

    chosen = study.trials[number].params
    print(f"trial {number}: {_text(chosen)}", flush=True)
    try:
        values = [_value(sweep, number, chosen, seed) for seed in sweep.seeds]
    except Exception as error:
        if not _fails_trial(error):
            raise
        # A MemoryError may say nothing.
        print(f"trial {number} failed: {str(error) or type(error).__name__}", flush=True)
        study.tell(number, state=TrialState.FAIL)
    else:
        value = statistics.fmean(values)
        print(f"trial {number}: {value:.6g}, mean of {len(values)} seeds", flush=True)
        study.tell(number, value)


def _fails_trial(error: Exception) -> bool:
    """Whether it is put down to a trial's settings, and not a mistake of this program or a signal.

    What another call of the sweep would come upon again must be: it takes up the same trial first.
    """
    from torch import OutOfMemoryError

    own = TrialFailedError, MemoryError, OutOfMemoryError
    return isinstance(error, own) or is_expected(error)


def _value(sweep: Sweep, number: int, chosen: Mapping[str, Any], seed: int) -> float:
    """Train one run of a trial, or what is left of it, and read its value."""
    from metarl import runs, train

    settings, group = sweep.settings(chosen, seed), f"trial-{number:04d}"
    begun = sorted((sweep.folder / group).glob(f"*-s{seed}/{runs.CONFIG}"))
    if begun:
        path = begun[-1].parent
        code = train.resume(path, settings)
    else:
        code, path = train.start(settings, group, sweep.folder)
    if code:
        raise StoppedError(code)
    steps = min(settings.inner.steps, settings.evaluation.steps)
    value = runs.read_metrics(path)[-1].get(f"eval/{settings.problem.measure}_step_{steps}")
    if value is None:
        raise TrialFailedError(f"{path}: the last evaluation has no value.")
    return float(value)


def _conclude(study: Any, sweep: Sweep) -> int:
    """Print the best trial, and write its settings."""
    found = [trial for trial in study.trials if trial.value is not None]
    if not found:
        raise UserError(f"{sweep.folder}: no trial has a value; see above why each failed.")
    best = study.best_trial
    settings = sweep.settings(best.params, sweep.seeds[0])
    path = sweep.folder / BEST
    with disk.failures_as(UserError, path):
        disk.replace(path, config.dump(settings).encode())
    print(
        f"best of {len(found)} trials: trial {best.number}, {settings.problem.measure} "
        f"{best.value:.6g} with {_text(best.params)}\n"
        f"train with it: python -m metarl.train {path}"
    )
    return 0


def _text(chosen: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in chosen.items())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.sweep",
        description="Try settings by Optuna, each with several seeds; print the best, write it as YAML.",
        epilog="The same command goes on with a sweep that was interrupted, or adds --trials to it.",
    )
    add = result.add_argument
    add("config", help="YAML file, such as configs/nav2d.yaml")
    add("overrides", nargs="*", metavar="key=value", help="a setting of every trial")
    add(
        "--set",
        action="append",
        required=True,
        metavar="KEY=VALUES",
        help="what is tried: inner.lr=0.05..0.5, inner.lr=0.05..0.5:log, inner.steps=1..3 or "
        "'inner.estimator=[lvc, dice]'; repeatable",
    )
    add("--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="each trial's runs")
    add(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="in all, those of earlier calls included",
    )
    add("--name", help="of the sweep; without, that of the configuration")
    add("--run-dir", metavar="DIR", help="holds the folder sweeps/, instead of run.directory")
    add("--traceback", action="store_true", help="show where an error came from")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_intermixed_args(arguments)
    return run_command(lambda: _main(options), options.traceback)


def _main(options: argparse.Namespace) -> int:
    directory = options.run_dir or config.load(options.config, options.overrides).run.directory
    name = options.name or Path(options.config).stem
    sweep = Sweep(
        *(options.config, tuple(options.overrides), read_space(options.set)),
        *(tuple(dict.fromkeys(options.seeds)), Path(directory) / "sweeps" / name),
    )
    return run(sweep, options.trials)


if __name__ == "__main__":
    sys.exit(main())
