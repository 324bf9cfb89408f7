"""Supervised problems through the commands: train, resume, evaluate, TensorBoard, mistakes."""

import json
from pathlib import Path

import folders
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl import config, runs
from metarl.evaluate import main as evaluate
from metarl.presentation import figures
from metarl.train import main as train

CONFIG = Path(__file__).parent.parent / "configs" / "sinusoid_5shot.yaml"
SMALL = [
    *("outer.tasks=3", "network.hidden_sizes=[6]", "network.initialisation=xavier_uniform"),
    *("evaluation.tasks=5", "evaluation.queries=4", "evaluation.steps=2", "evaluation.every=2"),
    *("run.log_every=1", "run.checkpoint_every=1", "threads=1"),
]
VARIANTS = {
    "maml": [],
    "fomaml": ["inner.first_order=true"],
    "anil": ["inner.adapt=head"],
    "meta-sgd": ["inner.learn_rates=true"],
    "maml++": [
        *("inner.steps=2", "inner.learn_rates=layer_step", "network.normalisation=batch"),
        *("inner.second_order_from=1", "inner.multi_step_until=3"),
        *("inner.per_step_normalisation=true", "outer.schedule=cosine"),
    ],
    "reptile": [
        *("outer={method: sgd, objective: reptile, lr: 0.5, schedule: linear, tasks: 3}",),
        *("inner.steps=3", "inner.fresh_support=true"),
    ],
    "recurrent": ["network={kind: gru, hidden_size: 4}"],
    "lstm": ["inner={rule: lstm, steps: 2, hidden_size: 3}"],
}


def run_of(directory, *overrides):
    assert train([str(CONFIG), *SMALL, *overrides, "--run-dir", str(directory)]) == 0
    return runs.find_run("latest", directory)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_in_two_parts_is_the_uninterrupted_one(tmp_path, variant):
    chosen = VARIANTS[variant]
    whole = run_of(tmp_path / "whole", *chosen, "iterations=4")
    # Annealed rates depend on the total, so the parts have it too: the second is continued from its first half.
    parts = run_of(tmp_path / "parts", *chosen, "iterations=4")
    folders.spoil_checkpoints(parts, 3, 4)
    assert train(["--resume", str(parts)]) == 0
    folders.assert_same_run(parts, whole)


def test_metrics_board_and_pictures_follow_the_problem(tmp_path, capsys, monkeypatch):
    drawn = []
    figure = figures.adaptation_figure
    note = lambda *given, **named: drawn.append(figure(*given, **named)) or drawn[-1]  # noqa: E731
    monkeypatch.setattr(figures, "adaptation_figure", note)
    run = run_of(tmp_path, "iterations=2")
    lines = runs.read_metrics(run)
    assert {"loss/pre", "loss/post", "outer/loss", "outer/grad_norm"} <= lines[0].keys()
    assert {f"eval/mse_step_{step}" for step in range(3)} <= lines[1].keys()
    assert not [tag for tag in lines[1] if "return" in tag or "env_steps" in tag]
    said = capsys.readouterr().out
    assert said.startswith("sinusoid, 5-shot, 3 tasks x 5 support and 5 query points, on cpu")
    assert "mse after 0.. steps on validation tasks" in said
    conditions = "4 queries of each task, not transductive"
    assert f"({conditions})\n" in said
    assert [each.axes[0].get_title().splitlines()[1] for each in drawn] == [conditions]
    board = EventAccumulator(str(run)).Reload()
    layout = board.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^loss/pre$" in layout
    assert b"^loss/post$" in layout
    assert b"^eval/mse_step_2$" in layout
    assert b"return" not in layout
    assert {"adaptation", "examples"} <= set(board.Tags()["images"])


def test_evaluation_writes_its_curve_and_picture_and_says_how_it_was_measured(tmp_path, capsys):
    run = run_of(tmp_path, "iterations=1", "evaluation.every=0")
    assert evaluate([str(run), "--steps", "3", "--tasks", "7", "--queries", "9"]) == 0
    found = json.loads((run / "evaluation" / "adaptation.json").read_text())
    values = np.array(found["per_task_mse"])
    assert values.shape == (4, 7)
    np.testing.assert_allclose(found["mean_mse"], values.mean(1))
    np.testing.assert_allclose(found["median"], np.median(values, axis=1))
    error = values.std(1, ddof=1) / np.sqrt(7)
    np.testing.assert_allclose(found["half_interval_95"], 1.959964 * error)
    assert found["not_finite"] == [0.0] * 4
    assert found["queries"] == 9
    assert all(name.isidentifier() for name in found)
    assert found["rates"] == [0.01] * 3
    assert "9 query points" in found["protocol"]
    assert "not transductive" in found["protocol"]
    assert found["published"]["MAML"]["mean"][:2] == [None, 0.67]
    assert (run / "evaluation" / "examples.png").stat().st_size > 10_000
    assert "mean mse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["inner.multi_step_until=5"], "inner.multi_step_until is 5, but it weighs the losses of"),
        (["outer.final_lr=0.1"], "outer.final_lr is 0.1, but the rate is constant"),
        (["outer.objective=reptile", "inner.first_order=true"], "inner.first_order is true, but"),
        (["outer.objective=reptile", "inner.second_order_from=3"], "inner.second_order_from is 3"),
        (
            ["outer.objective=reptile", "inner.steps=2", "inner.multi_step_until=3"],
            "inner.multi_step_until is 3, but reptile has neither",
        ),
    ],
)
def test_settings_without_a_meaning_are_refused(overrides, said):
    with pytest.raises(config.ConfigError) as caught:
        config.load(CONFIG, overrides)
    assert said in str(caught.value)


def test_the_papers_references_are_named_and_drawn_beside_a_run(tmp_path):
    run = run_of(tmp_path / "maml", "iterations=1")
    pretrained = run_of(tmp_path / "pretrained", "iterations=1", "inner.steps=0")
    oracle = run_of(
        *(tmp_path / "oracle", "iterations=1", "inner.steps=0", "evaluation.steps=0"),
        "problem.observe_task=true",
    )
    assert runs.find_checkpoint(oracle)[0].tensors["theta/layers.0.weight"].shape == (6, 3)
    beside = [f"--reference={each}" for each in (oracle, pretrained, "random")]
    assert evaluate([str(run), *beside]) == 0
    found = json.loads((run / "evaluation" / "adaptation.json").read_text())
    steps = {name: curve["steps"] for name, curve in found["references"].items()}
    assert steps == {"oracle": [0], "pretrained": [0, 1, 2], "random": [0, 1, 2]}
    assert all(curve["tasks"] == found["tasks"] for curve in found["references"].values())
    assert evaluate([str(oracle)]) == 0
    assert (oracle / "evaluation" / "examples.png").stat().st_size > 10_000


def test_curves_have_no_episodes(tmp_path, capsys):
    run = run_of(tmp_path, "iterations=1")
    assert evaluate([str(run), "--render"]) == 2
    assert "no episodes to film" in capsys.readouterr().err
    assert evaluate([str(run), "--episodes", "3"]) == 2
    assert "is measured on queries, not on episodes; use --queries." in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_normalisation_by_the_batch_is_said_to_be_transductive(tmp_path):
    chosen = config.load(CONFIG, ["network.normalisation=batch"])
    assert "; transductive: " in chosen.protocol
    assert "not transductive" in config.load(CONFIG).protocol


def test_an_exploded_task_is_counted_and_does_not_hide_the_median(tmp_path, capsys):
    run = run_of(tmp_path, "iterations=1", "evaluation.every=0")
    # So large a rate that the error leaves float32 after a few steps.
    capsys.readouterr()
    assert evaluate([str(run), "--lr", ",".join(["1e9"] * 6)]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    (last,) = (cells for cells in table if cells[0] == "6")
    assert last[-4:] == ["nan", "nan", "nan", "5"]
    found = json.loads((run / "evaluation" / "adaptation.json").read_text())
    assert found["not_finite"][0] == 0
    assert found["not_finite"][-1] == 5
    assert found["mean_mse"][-1] is None
    assert found["median"][0] is not None


def test_the_log_may_be_sparse(tmp_path):
    run = run_of(tmp_path, "iterations=7", "run.log_every=3", "evaluation.every=5")
    assert [line["iteration"] for line in runs.read_metrics(run)] == [2, 4, 5, 6]


def test_fast_dev_run_and_print_config(tmp_path, capsys):
    assert train([str(CONFIG), "--fast-dev-run", "--run-dir", str(tmp_path / "runs")]) == 0
    run = runs.find_run("latest", tmp_path / "runs")
    assert len(runs.read_metrics(run)) == 1
    assert "eval/mse_step_2" in runs.read_metrics(run)[0]
    capsys.readouterr()
    assert train([str(CONFIG), "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert config.load(tmp_path / "printed.yaml") == config.load(CONFIG)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("problem.env=envs:X-v0", "problem.env is not a setting; it belongs to another kind"),
        ("inner.estimator=lvc", "inner.estimator is not a setting; it belongs to another kind"),
        ("evaluation.episodes=2", "evaluation.episodes is not a setting; it belongs to another"),
        ("problem.shot=2", "problem.shot is not a setting; did you mean problem.shots?"),
        ("outer.method=trpo", "outer.method is \"trpo\", but must be one of 'adam', 'sgd'"),
        ("network.kind=cnn", "network.kind is \"cnn\", but must be one of 'mlp', 'conv', 'gru'"),
        ("network={kind: conv}", 'network.kind is "conv", but it reads images'),
        ("inner.per_step_normalisation=true", "set network.normalisation to batch"),
        ("inner.learn_rates=all", 'inner.learn_rates is "all", but must be'),
        ("inner.adapt=[]", "inner.adapt is [], but must be"),
        ("inner.adapt=[x.*]", "no parameter of this network matches 'x.*'; there are layers.0"),
        ("outer.clip=0", "outer.clip is 0, but must be above 0"),
        ("inner={rule: lstm, lr: 0.1}", "inner.lr is not a setting; it belongs to another kind"),
        ("inner.rule=matching", "inner.steps is not a setting; it belongs to another kind"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, capsys, override, said):
    assert train([str(CONFIG), *SMALL, override, "--run-dir", str(tmp_path / "runs")]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_reptile_learns_no_rates(tmp_path):
    with pytest.raises(config.ConfigError, match="reptile learns nothing but"):
        config.load(CONFIG, ["outer.objective=reptile", "inner.learn_rates=true"])


@pytest.mark.slow
def test_the_sinusoid_is_learned(tmp_path):
    """A minute of training: one step takes the error from about 3 to less than half of it."""
    arguments = [
        "iterations=4000",
        "evaluation.every=4000",
        "evaluation.tasks=200",
        "run.log_every=500",
    ]
    assert train([str(CONFIG), *arguments, "--run-dir", str(tmp_path)]) == 0
    last = runs.read_metrics(runs.find_run("latest", tmp_path))[-1]
    assert last["eval/mse_step_1"] < 0.6 * last["eval/mse_step_0"]
    assert last["eval/mse_step_1"] < 2.0


@pytest.mark.slow
def test_a_recurrent_network_learns_to_adapt_to_sinusoids(tmp_path):
    """It reads a task's points as a sequence. A minute; without adaptation no network gets below 2 or so."""
    path = CONFIG.with_name("sinusoid_10shot.yaml")
    given = ["network={kind: gru}", "inner.lr=0.1", "outer.lr=0.003", "iterations=500", "threads=1"]
    evaluation = ["evaluation.every=500", "evaluation.queries=10", "evaluation.tasks=200"]
    assert train([str(path), *given, *evaluation, "--run-dir", str(tmp_path)]) == 0
    last = runs.read_metrics(runs.find_run("latest", tmp_path))[-1]
    assert last["eval/mse_step_0"] > 2.0
    assert last["eval/mse_step_1"] < 1.6
