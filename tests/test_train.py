"""The training program, through its command line: what a run holds, resuming, signals, mistakes."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import assert_same_bits, assert_same_run, record, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import config, runs
from metarl import train as training_program
from metarl.building import opened_problem
from metarl.command_line import read_command_line
from metarl.evaluate import evaluate_meta
from metarl.presentation import figures
from metarl.seeding import Stream, generator
from metarl.storage import checkpoints
from metarl.train import main

CONFIG = Path(__file__).parent.parent / "configs" / "nav2d.yaml"
SMALL = [
    "outer.tasks=3",
    "problem.episodes=2",
    "problem.horizon=12",
    "network.hidden_sizes=[8]",
    "evaluation.tasks=2",
    "evaluation.episodes=2",
    "evaluation.every=2",
    "run.checkpoint_every=1",
]


def train(directory, *overrides):
    assert main([str(CONFIG), *SMALL, *overrides, "--run-dir", str(directory)]) == 0
    return runs.find_run("latest", directory)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs"), "iterations=4")


def test_a_run_holds_settings_record_board_figures_and_checkpoints(finished):
    assert config.load(finished / "config.yaml").iterations == 4
    system = json.loads((finished / "system.json").read_text())
    assert {"python", "torch", "mujoco", "gymnasium", "numpy", "cores", "commit"} <= set(system)
    wanted = {
        "return/pre",
        "return/post",
        "return/gain",
        "outer/loss",
        "outer/kl",
        "outer/accepted",
        "outer/line_search_trials",
        "outer/cg_residual",
        "inner/grad_norm",
        "policy/std",
        "policy/entropy",
        "baseline/explained_variance",
        "time/collect",
        "time/outer",
        "time/env_steps_per_second",
    }
    lines = runs.read_metrics(finished)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert all(wanted <= set(line) for line in lines)
    assert {f"eval/return_step_{step}" for step in range(4)} <= set(lines[1])
    assert len(list((finished / "figures").rglob("*.png"))) == 2
    assert checkpoints.load(finished / "checkpoints" / "000004").iteration == 4

    board = EventAccumulator(str(finished)).Reload()
    for tag in ("return/pre", "return/post", "outer/kl"):
        shown = [event.value for event in board.Scalars(tag)]
        np.testing.assert_allclose(shown, [line[tag] for line in lines], rtol=1e-6)


def test_the_gain_is_the_difference_and_steps_add_up(finished):
    lines = runs.read_metrics(finished)
    for line in lines:
        assert line["return/gain"] == line["return/post"] - line["return/pre"]
    # Two waves of 3 tasks x 2 episodes x 12 steps, where none ends early.
    assert [line["env_steps"] for line in lines] == [144, 288, 432, 576]


def test_training_again_from_the_runs_own_settings_repeats_it(finished, tmp_path):
    assert main([str(finished / "config.yaml"), "--run-dir", str(tmp_path)]) == 0
    again = runs.find_run("latest", tmp_path)
    assert_same_run(again, finished)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_number_depends_on_the_threads(finished, tmp_path, threads):
    run = train(tmp_path, "iterations=4", f"threads={threads}")
    assert_same_run(run, finished)


def test_another_seed_gives_other_numbers(finished, tmp_path):
    run = train(tmp_path, "iterations=1", "seed=2")
    assert record(run)[0]["return/pre"] != record(finished)[0]["return/pre"]


METHODS = {
    "trpo": [],
    "vpg": ["outer={method: vpg, tasks: 3, lr: 0.01, exploration: 0.1}"],
    "ppo": ["outer={method: ppo, tasks: 3, lr: 0.01, epochs: 2}"],
    "learned rates": ["inner.learn_rates=true"],
    "oracle": ["inner.steps=0", "problem.observe_task=true", "evaluation.steps=0"],
}


@pytest.mark.parametrize("method", METHODS)
def test_resuming_equals_an_uninterrupted_run_to_the_bit(tmp_path, method):
    small = [each for each in SMALL if method not in ("vpg", "ppo") or "outer" not in each]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = [str(CONFIG), *small, *METHODS[method]]
    assert main([*arguments, "iterations=4", "--run-dir", str(whole)]) == 0
    assert main([*arguments, "iterations=2", "--run-dir", str(parts)]) == 0
    assert main(["iterations=4", "--resume", "--run-dir", str(parts)]) == 0
    one, other = runs.find_run("latest", whole), runs.find_run("latest", parts)
    assert_same_run(one, other)
    assert [line["iteration"] for line in runs.read_metrics(other)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_iteration_saves_and_the_rest_can_follow(tmp_path, sent, code):
    long = ["iterations=5000", "evaluation.every=0", "run.checkpoint_every=100000"]
    command = [sys.executable, "-m", "metarl.train", str(CONFIG), *SMALL, *long]
    started = [*command, "--run-dir", str(tmp_path)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip().startswith("3/"):
                break
        child.send_signal(sent)
        rest = child.stdout.read()
    assert child.returncode == code
    assert "--resume" in rest
    run = runs.find_run("latest", tmp_path)
    done = runs.find_checkpoint(run)[0].iteration
    assert done == len(runs.read_metrics(run)) >= 3

    assert main([f"iterations={done + 1}", "--resume", str(run)]) == 0
    whole = train(tmp_path / "whole", f"iterations={done + 1}", *long[1:])
    assert_same_bits(weights(run), weights(whole))


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_continues(tmp_path, capsys):
    run = train(tmp_path, "iterations=3", "evaluation.every=0")
    damaged = run / "checkpoints" / "000003" / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["iterations=4", "evaluation.every=0", "--resume", str(run)]) == 0
    assert "000003" in capsys.readouterr().err
    whole = train(tmp_path / "whole", "iterations=4", "evaluation.every=0")
    assert_same_bits(weights(run), weights(whole))


def test_the_first_line_comes_before_the_first_iteration(tmp_path, monkeypatch, capsys):
    said, iterate = [], training_program.meta_iteration
    monkeypatch.setattr(
        training_program,
        "meta_iteration",
        lambda training: said.append(capsys.readouterr().out) or iterate(training),
    )
    train(tmp_path, "iterations=1")
    (line,) = said[0].splitlines()
    assert line.startswith("envs:Navigation2D-v0, 3 tasks x 2 episodes, on cpu")


MISTAKES = {
    "no file": (["configs/none.yaml"], "none.yaml"),
    "nothing named": ([], "name a configuration"),
    "misspelt key": ([str(CONFIG), "inner.lrr=0.1"], "inner.lr"),
    "unknown environment": ([str(CONFIG), "problem.env=envs:Nowhere-v0"], "envs:Nowhere-v0"),
    "unknown module": ([str(CONFIG), "problem.env=no_such_module:X-v0"], "no_such_module"),
    "no tasks": ([str(CONFIG), "problem.env=gymnasium:Pendulum-v1"], "sample_tasks"),
    "no run": (["--resume", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_exit_code_2_and_leaves_nothing(tmp_path, capsys, mistake):
    arguments, named = MISTAKES[mistake]
    assert main([*arguments, "--run-dir", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_traceback_on_request(tmp_path):
    with pytest.raises(runs.RunError):
        main(["--resume", str(tmp_path), "--traceback"])


def test_published_numbers_are_drawn_where_the_task_is_theirs(tmp_path, monkeypatch):
    drawn = []
    figure = figures.adaptation_figure

    def note(curve, published):
        drawn.append([row.name for row in published])
        return figure(curve, published=published)

    monkeypatch.setattr(figures, "adaptation_figure", note)
    train(tmp_path, "iterations=1")
    train(tmp_path, "iterations=1", "problem.horizon=100")
    assert drawn == [[], ["MAML", "random", "oracle"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_never_a_silent_cpu(tmp_path, capsys):
    assert main([str(CONFIG), "--device", "cuda", "--run-dir", str(tmp_path / "runs")]) == 2
    assert "cuda" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_options_are_overrides():
    options, overrides = read_command_line(
        ["configs/nav2d.yaml", "inner.lr=0.2", "--seed", "7", "--device", "cpu"]
    )
    assert options.config == "configs/nav2d.yaml"
    assert overrides == ["inner.lr=0.2", "seed=7", "device=cpu"]


def test_a_setting_after_resume_is_no_run():
    options, overrides = read_command_line(["--resume", "iterations=9", "inner.lr=0.2"])
    assert options.resume == "latest"
    assert sorted(overrides) == ["inner.lr=0.2", "iterations=9"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["iterations=2"], "iterations is 2, but {run} has 4 already; raise it."),
        ([str(CONFIG)], f"{CONFIG}: a run goes on with its own settings; leave the file out"),
        (["--fast-dev-run"], "--fast-dev-run is for a new run: leave it or --resume out."),
    ],
)
def test_what_does_not_go_with_resume_changes_nothing(finished, arguments, said, capsys):
    files = lambda: {each: each.stat() for each in finished.rglob("*")}  # noqa: E731
    before = files()
    assert main([*arguments, "--resume", str(finished)]) == 2
    assert said.format(run=finished) in capsys.readouterr().err
    found = files()
    assert found.keys() == before.keys()
    assert all(found[each].st_mtime_ns == before[each].st_mtime_ns for each in found)


def test_the_tasks_measured_on_the_way_are_not_the_held_out_ones(tmp_path, monkeypatch):
    """The best checkpoint must not be chosen on the tasks that results are reported for."""
    seen = []
    kept = figures.adaptation_figure
    monkeypatch.setattr(
        figures, "adaptation_figure", lambda curve, **kw: seen.append(curve) or kept(curve, **kw)
    )
    run = train(tmp_path, "iterations=1", "evaluation.every=1")
    settings = config.load(run / "config.yaml")
    with opened_problem(settings) as problem:
        untrained = problem.initial_meta(generator(settings.seed, Stream.INITIALISATION))
        held_out = evaluate_meta(problem, untrained, settings, 0).tasks
        again = evaluate_meta(problem, untrained, settings, 0, "validation").tasks
    assert (seen[0].tasks == again).all()
    assert not set(seen[0].tasks.ravel()) & set(held_out.ravel())


def test_print_config_prints_every_setting_and_trains_nothing(tmp_path, capsys):
    path = tmp_path / "printed.yaml"
    assert main([str(CONFIG), "inner.lr=0.25", "--print-config"]) == 0
    path.write_text(capsys.readouterr().out)
    assert config.load(path) == config.load(CONFIG, ["inner.lr=0.25"])


def test_an_ascii_output_gets_the_same_settings(tmp_path, monkeypatch):
    taken, named = io.BytesIO(), ["run.directory=é", "problem.env_kwargs.name=日本𝄞"]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="ascii"))
    assert main([str(CONFIG), *named, "--print-config"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_bytes(taken.getvalue())
    assert config.load(path) == config.load(CONFIG, named)


def test_fast_dev_run_does_one_of_everything(tmp_path):
    assert main([str(CONFIG), "--fast-dev-run", "--run-dir", str(tmp_path)]) == 0
    run = runs.find_run("latest", tmp_path)
    assert run.parent.name == "fast-dev-run"
    assert len(runs.read_metrics(run)) == 1
    assert "eval/return_step_3" in runs.read_metrics(run)[0]
    assert runs.find_checkpoint(run)[0].iteration == 1
