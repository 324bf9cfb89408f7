"""Sweeps: what a trial is worth, which fail, and that an interrupted sweep goes on as if nothing had happened."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from folders import record

from metarl import config, runs, sweep, train
from metarl.checks.failures import EnvironmentFailureError
from metarl.errors import UserError
from metarl.search_space import Range
from metarl.storage import disk

CONFIG = Path(__file__).parent.parent / "configs" / "nav2d.yaml"
SMALL = [
    "iterations=2",
    "outer.tasks=3",
    "problem.episodes=2",
    "problem.horizon=12",
    "network.hidden_sizes=[8]",
    "evaluation={every: 5, tasks: 2, episodes: 2, steps: 2}",
    "run.checkpoint_every=1",
    "threads=1",
]


def arguments(directory, *more, tried=("inner.lr=0.01..1.0:log",)):
    chosen = [argument for each in tried for argument in ("--set", each)]
    return [str(CONFIG), *SMALL, *chosen, "--run-dir", str(directory), *more]


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep.main(arguments(tmp_path / "runs")) == 2
    assert "'.[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="the extra [sweep] is not installed")


def study_of(optuna, directory):
    file = directory / "sweeps" / "nav2d" / sweep.STUDY
    return optuna.load_study(study_name="nav2d", storage=f"sqlite:///{file}")


def trials_of(optuna, directory):
    return [
        (each.number, each.state.name, each.params, each.value)
        for each in study_of(optuna, directory).trials
    ]


def test_a_trial_is_worth_what_its_trainings_measured_last(optuna, tmp_path):
    more = ["--seeds", "1", "2", "--trials", "1"]
    assert sweep.main(arguments(tmp_path / "sweep", *more)) == 0
    study, folder = study_of(optuna, tmp_path / "sweep"), tmp_path / "sweep" / "sweeps" / "nav2d"
    (trial,) = study.trials
    values = []
    for seed in (1, 2):
        given = [str(CONFIG), *SMALL, f"inner.lr={trial.params['inner.lr']}", f"seed={seed}"]
        assert train.main([*given, "--run-dir", str(tmp_path / str(seed))]) == 0
        expected = record(runs.find_run("latest", tmp_path / str(seed)))
        (found,) = (folder / "trial-0000").glob(f"*-s{seed}")
        assert record(found) == expected
        values.append(expected[-1]["eval/return_step_1"])
    assert trial.value == pytest.approx(sum(values) / 2, rel=1e-15)


@pytest.fixture
def valued(monkeypatch):
    """Trials without trainings: worth the more, the nearer the rate is to 0.1 and the steps to 2."""
    calls: list[tuple[int, int]] = []

    def value(_, number, chosen, seed):
        calls.append((number, seed))
        return -((chosen["inner.lr"] - 0.1) ** 2) - (chosen["inner.steps"] - 2) ** 2

    monkeypatch.setattr(sweep, "_value", value)
    return calls


BOTH = ("inner.lr=0.01..1.0:log", "inner.steps=1..3")


def test_trial_n_is_the_same_whether_or_not_the_sweep_was_interrupted(
    optuna, tmp_path, valued, capsys
):
    """Beyond the ten that are drawn at random, too."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sweep.main(arguments(whole, "--trials", "14", tried=BOTH)) == 0
    for count in ("11", "14", "3"):
        assert sweep.main(arguments(parts, "--trials", count, tried=BOTH)) == 0
    expected = trials_of(optuna, whole)
    assert trials_of(optuna, parts) == expected
    assert [number for number, *_ in expected] == list(range(14))
    assert len({params["inner.lr"] for *_, params, _ in expected}) == 14
    assert {params["inner.steps"] for *_, params, _ in expected} == {1, 2, 3}
    best = study_of(optuna, whole).best_trial
    assert study_of(optuna, whole).direction.name == "MAXIMIZE"
    assert best.value == max(value for *_, value in expected)
    assert best.value > -0.01
    written = config.load(whole / "sweeps" / "nav2d" / sweep.BEST).inner
    assert {"inner.lr": written.lr, "inner.steps": written.steps} == best.params
    assert f"trial {best.number}, return" in capsys.readouterr().out


def test_a_trial_that_was_cut_off_is_finished_first(optuna, tmp_path, monkeypatch, valued):
    settings = arguments(tmp_path / "cut", "--seeds", "1", "2", "--trials", "3", tried=BOTH)
    value, calls = sweep._value, valued

    def cut(*given):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return value(*given)

    monkeypatch.setattr(sweep, "_value", cut)
    assert sweep.main(settings) == 130
    assert [state for _, state, *_ in trials_of(optuna, tmp_path / "cut")] == [
        "COMPLETE",
        "RUNNING",
    ]
    monkeypatch.setattr(sweep, "_value", value)
    assert sweep.main(settings) == 0
    assert calls[3:] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    other = [each.replace(str(tmp_path / "cut"), str(tmp_path / "whole")) for each in settings]
    assert sweep.main(other) == 0
    assert trials_of(optuna, tmp_path / "cut") == trials_of(optuna, tmp_path / "whole")


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(optuna, tmp_path, monkeypatch):
    given = ["--trials", "1", "--seeds", "3"]
    assert sweep.main(arguments(tmp_path / "whole", *given)) == 0
    iterate, done = train.meta_iteration, []

    def cut(training):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(training.iteration)
        return iterate(training)

    monkeypatch.setattr(train, "meta_iteration", cut)
    assert sweep.main(arguments(tmp_path / "cut", *given)) == 130
    monkeypatch.setattr(
        train,
        "meta_iteration",
        lambda training: done.append(training.iteration) or iterate(training),
    )
    assert sweep.main(arguments(tmp_path / "cut", *given)) == 0
    assert done == [0, 1]
    records = [
        record(next((tmp_path / name).glob("sweeps/nav2d/trial-0000/*-s3")))
        for name in ("whole", "cut")
    ]
    assert records[0] == records[1]
    assert trials_of(optuna, tmp_path / "whole") == trials_of(optuna, tmp_path / "cut")


def test_a_trial_whose_numbers_are_not_finite_fails_and_the_sweep_goes_on(optuna, tmp_path, capsys):
    tried = ["inner.lr=[1e+30, 0.1]"]
    assert sweep.main(arguments(tmp_path, "--trials", "6", tried=tried)) == 0
    found = trials_of(optuna, tmp_path)
    states = {(params["inner.lr"], state) for _, state, params, _ in found}
    assert states == {("1e+30", "FAIL"), ("0.1", "COMPLETE")}
    assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [
        EnvironmentFailureError("environment Bad-v0, step 3: OSError: gone"),
        UserError("there is no such thing."),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_an_error_of_a_trial_fails_it_and_the_next_call_does_not_take_it_up(
    optuna, tmp_path, monkeypatch, capsys, valued, error
):
    value = sweep._value

    def fail(_, number, chosen, seed):
        if number == 1:
            raise error
        return value(_, number, chosen, seed)

    monkeypatch.setattr(sweep, "_value", fail)
    assert sweep.main(arguments(tmp_path, "--trials", "3", tried=BOTH)) == 0
    states = [state for _, state, *_ in trials_of(optuna, tmp_path)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    said = str(error) or "MemoryError"
    assert f"trial 1 failed: {said}\n" in capsys.readouterr().out


def test_a_mistake_of_the_program_is_no_failed_trial(optuna, tmp_path, monkeypatch, valued):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(sweep, "_value", fail)
    with pytest.raises(ZeroDivisionError):
        sweep.main(arguments(tmp_path, "--trials", "1", tried=BOTH))
    assert [state for _, state, *_ in trials_of(optuna, tmp_path)] == ["RUNNING"]


def test_a_sweep_without_any_value_says_so(optuna, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise sweep.TrialFailedError("nothing was measured.")

    monkeypatch.setattr(sweep, "_value", fail)
    assert sweep.main(arguments(tmp_path, "--trials", "2")) == 2
    assert "no trial has a value" in capsys.readouterr().err


def test_a_signal_ends_the_sweep_with_its_exit_code(optuna, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_: 143)
    assert sweep.main(arguments(tmp_path, "--trials", "2")) == 143
    assert "the same command" in capsys.readouterr().out


def test_another_sweep_is_not_mixed_in(optuna, tmp_path, valued, capsys):
    assert sweep.main(arguments(tmp_path, "--trials", "1", tried=BOTH)) == 0
    for more, tried in (
        (["--seeds", "2"], BOTH),
        ([], ["inner.steps=1..3", "inner.lr=0.01..0.9:log"]),
    ):
        assert sweep.main(arguments(tmp_path, "--trials", "2", *more, tried=tried)) == 2
        assert "choose another --name" in capsys.readouterr().err
    assert sweep.main(arguments(tmp_path, "--seeds", "2", "--name", "b", tried=BOTH)) == 0


def test_a_study_that_cannot_be_read_is_named(optuna, tmp_path, capsys):
    folder = tmp_path / "sweeps" / "nav2d"
    folder.mkdir(parents=True)
    (folder / sweep.STUDY).write_bytes(b"no database" * 100)
    assert sweep.main(arguments(tmp_path)) == 2
    answer = capsys.readouterr().err
    assert str(folder / sweep.STUDY) in answer
    assert answer.count("\n") == 1


def test_a_study_that_cannot_be_written_is_named(optuna, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise optuna.exceptions.StorageInternalError("disk full\nand much more")

    monkeypatch.setattr(optuna, "create_study", fail)
    assert sweep.main(arguments(tmp_path)) == 2
    assert "cannot be used (disk full); move it away" in capsys.readouterr().err


def test_two_processes_do_not_run_one_sweep(optuna, tmp_path, capsys):
    folder = tmp_path / "sweeps" / "nav2d"
    folder.mkdir(parents=True)
    lock = disk.lock(folder / ".lock")
    try:
        assert sweep.main(arguments(tmp_path)) == 2
    finally:
        os.close(lock)
    assert "another process" in capsys.readouterr().err


def test_a_measure_that_falls_is_minimised():
    sinusoid = config.load(CONFIG.with_name("sinusoid_5shot.yaml"), ["iterations=1"])
    assert not sweep.higher_is_better(sinusoid)
    assert sweep.higher_is_better(config.load(CONFIG))


def test_a_sweep_is_a_function_too(tmp_path):
    chosen = sweep.Sweep(str(CONFIG), (), {"seed": Range(1, 3, log=False)}, (1,), tmp_path)
    with pytest.raises(UserError, match="--seeds"):
        sweep.run(chosen, 1)
