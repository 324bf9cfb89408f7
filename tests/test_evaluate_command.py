"""Evaluation as a command: its files, and every way to ask for what is not there."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from folders import tiny_settings
from support import initial_meta
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import config, runs
from metarl.building import opened_problem
from metarl.evaluate import evaluate_meta, main
from metarl.storage.metastate import meta_to_tensors


def make_run(tmp_path, *overrides, seed=1, iterations=(2, 3), group="tiny"):
    """A run whose checkpoints hold untrained policies, each of its own seed."""
    chosen = tiny_settings(tmp_path, f"seed={seed}", *overrides)
    with opened_problem(chosen) as problem, runs.Run.create(chosen, group, tmp_path) as run:
        for iteration in iterations:
            meta = initial_meta(problem, 100 * seed + iteration)
            run.save_checkpoint(iteration, meta_to_tensors(meta), {})
    return run.path


def evaluate(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_help_speaks_of_every_measure(capsys):
    with pytest.raises(SystemExit):
        evaluate("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "write returns, errors or accuracies, whatever the run is measured by" in said
    assert "policy" not in said


def result(run, name="adaptation.json"):
    return json.loads((run / "evaluation" / name).read_text())


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        return make_run(tmp_path)

    def test_files_agree_with_the_table(self, run, capsys):
        assert evaluate(run) == 0
        found = result(run)
        values = np.array(found["per_task_return"])
        assert values.shape == (3, 3)
        np.testing.assert_array_equal(found["steps"], [0, 1, 2])
        np.testing.assert_allclose(found["mean_return"], values.mean(1), rtol=1e-14)
        error = values.std(1, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(found["standard_error"], error, rtol=1e-14)
        assert found["rates"] == [0.5, 0.25]
        assert (found["iteration"], found["seed"], found["episodes"]) == (3, 1, 2)
        assert (found["environment"], found["run"]) == ("envs:Navigation2D-v0", run.name)
        assert {"torch", "numpy", "python"} <= found["versions"].keys()
        assert "held-out" in found["protocol"]
        rows = list(csv.DictReader(io.StringIO((run / "evaluation/adaptation.csv").read_text())))
        assert len(rows) == 9
        for row in rows:
            step, task = int(row["step"]), int(row["task"])
            assert float(row["return"]) == values[step, task]
            assert [float(row["task_0"]), float(row["task_1"])] == found["tasks"][task]
            assert row["rate"] == ("", "0.5", "0.25")[step]
        printed = [line.split() for line in capsys.readouterr().out.splitlines()]
        for step, rate in enumerate(("", "0.5", "0.25")):
            cells = [f"{found[key][step]:.2f}" for key in ("mean_return", "standard_error")]
            assert [str(step), *([rate] if rate else []), *cells] in printed

    def test_the_newest_checkpoint_unless_one_is_named(self, run):
        evaluate(run)
        newest = result(run)
        evaluate(run / "checkpoints" / "000002")
        named = result(run)
        assert (newest["iteration"], named["iteration"]) == (3, 2)
        assert newest["mean_return"] != named["mean_return"]

    def test_what_training_measures_is_what_the_checkpoint_gives(self, run):
        chosen = config.load(run / "config.yaml")
        with opened_problem(chosen) as problem:
            during = evaluate_meta(problem, initial_meta(problem, 103), chosen, 3)
        evaluate(run)
        assert (np.array(result(run)["per_task_return"]) == during.per_task).all()

    def test_options_replace_settings(self, run, tmp_path):
        out = tmp_path / "elsewhere"
        options = "--tasks 2 --episodes 3 --lr 0.1,0.2,0.3 --seed 5 --threads 2 --device cpu"
        assert evaluate(run, *options.split(), "--output", out) == 0
        found = json.loads((out / "adaptation.json").read_text())
        assert (found["rates"], found["steps"]) == ([0.1, 0.2, 0.3], [0, 1, 2, 3])
        assert (len(found["tasks"]), found["episodes"], found["seed"]) == (2, 3, 5)
        assert not (run / "evaluation").exists()

    def test_steps_zero(self, run):
        assert evaluate(run, "--steps", 0) == 0
        assert result(run)["steps"] == [0]

    def test_one_task_has_a_null_error(self, run):
        assert evaluate(run, "--tasks", 1) == 0
        assert result(run)["standard_error"] == [None, None, None]

    def test_a_run_can_be_evaluated_while_it_trains(self, run):
        with runs.Run.reopen(run, 3):
            assert evaluate(run) == 0

    def test_tensorboard_sees_the_curve_by_gradient_step(self, run):
        for _ in range(2):
            evaluate(run)
        found = EventAccumulator(str(run / "evaluation"), {"images": 0, "scalars": 0}).Reload()
        means = [(event.step, event.value) for event in found.Scalars("adaptation/return")]
        assert means == [(k, pytest.approx(v)) for k, v in enumerate(result(run)["mean_return"])]
        (image,) = found.Images("adaptation/curve")
        content = (run / "evaluation/adaptation.png").read_bytes()
        assert (image.step, image.encoded_image_string) == (3, content)

    def test_the_untrained_policy_and_another_run_as_references(self, run, tmp_path):
        other = make_run(tmp_path, "evaluation.steps=0", seed=4, group="oracle")
        assert evaluate(run, "--reference", "random", "--reference", other) == 0
        found = result(run)
        assert len(found["references"]["random"]["steps"]) == 3
        assert found["references"]["oracle"]["tasks"] == found["tasks"]
        assert found["references"]["oracle"]["steps"] == [0]
        rows = (run / "evaluation/adaptation.csv").read_text().splitlines()
        assert {row.partition(",")[0] for row in rows[1:]} == {"adaptation", "random", "oracle"}
        chosen = tiny_settings(tmp_path)
        with opened_problem(chosen) as problem:
            trained = found["iteration"]
            untrained = evaluate_meta(
                problem, initial_meta(problem, 1), chosen, 0, drawn_at=trained
            )
        assert (
            np.array(found["references"]["random"]["per_task_return"]) == untrained.per_task
        ).all()

    def test_several_seeds_have_an_aggregate(self, tmp_path, capsys):
        paths = [make_run(tmp_path, seed=seed) for seed in (1, 2, 3)]
        assert evaluate(*paths, "--output", tmp_path / "out") == 0
        for path in paths:
            (tmp_path / "out" / path.name).rename(path / "evaluation")
        means = np.array([result(path)["mean_return"] for path in paths])
        lines = capsys.readouterr().out.splitlines()
        header = next(i for i, line in enumerate(lines) if "IQM" in line)
        for step in range(3):
            cells = lines[header + 1 + step].split()
            assert cells[:5] == [
                str(step),
                *(f"{v:.2f}" for v in [*means[:, step], means[:, step].mean()]),
            ]
            low, high = float(cells[5]), float(cells[7])
            written = json.loads((tmp_path / "out" / "aggregate.json").read_text())
            assert written["interval"][step] == [
                pytest.approx(low, abs=0.01),
                pytest.approx(high, abs=0.01),
            ]
            assert means[:, step].min() - 0.01 <= low <= high <= means[:, step].max() + 0.01

    def test_the_columns_of_several_runs_are_named_for_their_own_seeds(self, tmp_path, capsys):
        paths = [make_run(tmp_path, seed=seed) for seed in (1, 2)]
        assert evaluate(*paths, "--seed", 9, "--output", tmp_path / "out") == 0
        assert "step  seed 1  seed 2 " in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "aggregate.json").read_text())["seeds"] == [1, 2]
        tasks = [
            json.loads((tmp_path / "out" / path.name / "adaptation.json").read_text())["tasks"]
            for path in paths
        ]
        assert tasks[0] == tasks[1]

    def test_the_latest_run_of_a_folder(self, tmp_path):
        run = make_run(tmp_path)
        assert evaluate("latest", "--run-dir", tmp_path, "--reference", "latest") == 0
        assert list(result(run)["references"]) == ["tiny"]


class TestMistakes:
    def fails(self, capsys, *arguments):
        """The sentence that a mistake ends in."""
        assert evaluate(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("metarl: error: ")
        assert error.count("\n") == 1
        return error

    def test_no_such_run(self, tmp_path, capsys):
        assert "there is no such folder" in self.fails(capsys, tmp_path / "nothing")

    def test_no_run(self, tmp_path, capsys):
        assert "is not a run" in self.fails(capsys, tmp_path)

    def test_no_checkpoint(self, tmp_path, capsys):
        run = make_run(tmp_path, iterations=())
        assert "no checkpoint yet" in self.fails(capsys, run)

    def test_a_damaged_checkpoint(self, tmp_path, capsys):
        run = make_run(tmp_path)
        for path in run.glob("checkpoints/*/tensors.safetensors"):
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        assert "none that can be trusted" in self.fails(capsys, run)

    def test_another_network(self, tmp_path, capsys):
        run = make_run(tmp_path)
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("hidden_sizes: [4]", "hidden_sizes: [5]"))
        assert "layers.0.bias is (4,), where (5,) is configured" in self.fails(capsys, run)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (("--tasks", "0"), "evaluation.tasks is 0, but must be at least 1"),
            (("--steps", "two"), "evaluation.steps is"),
            (("--lr", "0.1,x"), "evaluation.lr"),
            (("--lr", "0.1", "--steps", "3"), "one rate for each of the 3"),
            (("--seed", "-1"), "seed is -1"),
            (("--device", "tpu"), "device is"),
            (("--render", "3"), "the held-out tasks are 0 to 2"),
            (("--reference", "nothing"), "there is no such folder"),
            (("--queries", "3"), "measured on episodes, not on queries; use --episodes."),
        ],
    )
    def test_options(self, options, sentence, tmp_path, capsys):
        assert sentence in self.fails(capsys, make_run(tmp_path), *options)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_where_there_is_none(self, tmp_path, capsys):
        assert "no usable GPU" in self.fails(capsys, make_run(tmp_path), "--device", "cuda")

    def test_a_reference_of_another_environment(self, tmp_path, capsys):
        other = make_run(tmp_path, "problem.horizon=7", group="other")
        sentence = self.fails(capsys, make_run(tmp_path), "--reference", other)
        assert "is no reference" in sentence

    def test_runs_that_do_not_belong_together(self, tmp_path, capsys):
        other = make_run(tmp_path, "inner.lr=0.4", seed=2)
        assert "no aggregate" in self.fails(capsys, make_run(tmp_path), other)

    def test_runs_of_another_horizon_do_not_belong_together(self, tmp_path, capsys):
        other = make_run(tmp_path, "problem.horizon=7", seed=2)
        assert "no aggregate" in self.fails(capsys, make_run(tmp_path), other)

    @pytest.mark.parametrize("options", [("--render", "3"), ("--reference", "nothing")])
    def test_what_cannot_be_done_is_said_before_anything_is_sampled(
        self, options, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr("metarl.evaluate.evaluate_meta", lambda *_: pytest.fail("sampled"))
        self.fails(capsys, make_run(tmp_path), *options)

    def test_an_aggregate_is_refused_before_anything_is_sampled(
        self, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr("metarl.evaluate.evaluate_meta", lambda *_: pytest.fail("sampled"))
        other = make_run(tmp_path, "problem.horizon=7", seed=2)
        assert "evaluate them one by one" in self.fails(capsys, make_run(tmp_path), other)

    def test_a_folder_that_cannot_be_written(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        sentence = self.fails(capsys, make_run(tmp_path), "--output", tmp_path / "file" / "x")
        assert "cannot be read or written" in sentence

    def test_a_traceback_on_request(self, tmp_path):
        with pytest.raises(runs.RunError):
            evaluate(tmp_path, "--traceback")


def test_sigterm_ends_it_with_143(tmp_path):
    run = make_run(tmp_path)
    command = [sys.executable, "-u", "-m", "metarl.evaluate", str(run), "--episodes", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("evaluating")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143
    where = r"( in environment Navigation2D-v0, (reset|step \d+))?"
    assert re.fullmatch(f"metarl: terminated{where}\n", error)
