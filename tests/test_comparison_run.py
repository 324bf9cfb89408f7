"""Learners that compare through the commands: train, resume, evaluate beside MAML, mistakes."""

import json
import os
import re
from pathlib import Path

import folders
import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from metarl import config, datasets, runs
from metarl.evaluate import main as evaluate
from metarl.problems.images import FewShotImages
from metarl.train import main as train

CONFIGS = Path(__file__).parent.parent / "configs"
CONFIG = CONFIGS / "omniglot_prototypical_5way_1shot.yaml"
MAML = CONFIGS / "omniglot_5way_1shot.yaml"
RULES = ("prototypical", "matching", "siamese", "nearest_neighbour")
SMALL = [
    *("problem.queries=2", "network={kind: conv, filters: 4, blocks: 2}", "threads=1"),
    *("evaluation.tasks=5", "evaluation.queries=3", "evaluation.every=4", "run.log_every=1"),
    *("run.checkpoint_every=1", "device=cpu"),
]
SIDE, CLASSES, EACH = 28, 7, 6


@pytest.fixture(autouse=True)
def characters(monkeypatch):
    """Characters of a few noisy strokes, in the place of Omniglot."""

    def load(name, part, root, side):
        rng = np.random.default_rng(len(part))
        strokes = np.kron(rng.random((CLASSES, 1, 1, 7, 7)) < 0.4, np.ones((4, 4)))
        noise = rng.random((CLASSES, EACH, 1, side, side)) < 0.1
        images = (255 * np.logical_xor(strokes, noise)).astype(np.uint8)
        names = tuple(f"{part}/{c}" for c in range(CLASSES))
        starts = EACH * np.arange(CLASSES + 1)
        return datasets.ClassImages(images.reshape(-1, 1, side, side), starts, names)

    monkeypatch.setattr("metarl.datasets.load", load)


TUNED = ["inner={rule: fine_tuning, steps: 2, lr: 0.5}", "evaluation.steps=3"]


def run_of(directory, *overrides, path=CONFIG):
    small = [*SMALL, "problem.train_ways=6"] if path == CONFIG else SMALL
    assert train([str(path), *small, *overrides, "--run-dir", str(directory)]) == 0
    return runs.find_run("latest", directory)


@pytest.mark.parametrize("chosen", [*([f"inner.rule={rule}"] for rule in RULES), TUNED], ids=str)
def test_a_run_in_two_parts_is_the_uninterrupted_one(tmp_path, chosen):
    chosen = [*chosen, "outer.tasks=2", "iterations=4"]
    whole, parts = (run_of(tmp_path / name, *chosen) for name in ("whole", "parts"))
    folders.spoil_checkpoints(parts, 3, 4)
    assert train(["--resume", str(parts)]) == 0
    folders.assert_same_run(parts, whole)
    (line, *_, last) = folders.record(whole)
    assert {"loss/post", "accuracy/post", "outer/loss", "outer/grad_norm"} <= line.keys()
    assert not [tag for tag in line if tag.endswith("/pre")]
    assert "eval/accuracy_step_0" in last


def test_learners_are_compared_on_the_same_examples(tmp_path, monkeypatch):
    """Whatever iteration their checkpoints are of."""
    own = run_of(tmp_path / "own", "iterations=2")
    maml = run_of(tmp_path / "maml", "iterations=1", "outer.tasks=2", path=MAML)
    drawn, examples = [], FewShotImages.examples
    monkeypatch.setattr(
        FewShotImages,
        "examples",
        lambda *given: drawn.append(examples(*given)) or drawn[-1],
    )
    assert evaluate([str(own), "--reference", str(maml)]) == 0
    first, second = drawn
    assert all(map(torch.equal, tree_leaves(first), tree_leaves(second)))


def test_it_is_evaluated_beside_maml_on_the_same_tasks(tmp_path, capsys):
    own = run_of(tmp_path / "own", "iterations=2")
    maml = run_of(
        *(tmp_path / "maml", "iterations=1", "evaluation.steps=2", "outer.tasks=2"), path=MAML
    )
    siamese = run_of(tmp_path / "siamese", "inner.rule=siamese", "iterations=1")
    (line,) = re.findall("on validation tasks: 0.*", capsys.readouterr().out)[-1:]
    assert line.endswith(" (3 queries of each class, transductive)")
    assert evaluate([str(own), "--reference", str(maml), "--reference", str(siamese)]) == 0
    said = capsys.readouterr().out
    found = json.loads((own / "evaluation" / "adaptation.json").read_text())
    assert np.array(found["per_task_accuracy"]).shape == (1, 5)
    assert found["rates"] == []
    assert found["references"]["siamese"]["steps"] == [0]
    beside = found["references"][maml.parent.name]
    assert beside["steps"] == [0, 1, 2]
    assert beside["tasks"] == found["tasks"]
    assert beside["transductive"] is found["transductive"] is True
    assert found["problem"] == "omniglot, 5-way 1-shot"
    rows = [line.split() for line in said.splitlines() if line.strip()[:2] in {"0 ", "1 ", "2 "}]
    assert rows[0][:2] == ["0", f"{found['mean_accuracy'][0]:.4f}"]
    for step in (1, 2):
        error = f"{beside['half_interval_95'][step]:.4f}"
        assert rows[step] == [str(step), "0.4", f"{beside['mean_accuracy'][step]:.4f}", error]
    (line,) = [line for line in said.splitlines() if line.startswith("published: ")]
    assert "MAML, Finn et al. 2017, 1 query of each class: 0.9870 after 3 steps" in line
    assert "prototypical, Snell et al. 2017: 0.9880" in line
    assert "; transductive: " in found["protocol"]
    assert found["published"]["siamese"]["source"] == "Koch et al. 2015"
    assert evaluate([str(maml), "--reference", str(own)]) == 0
    found = json.loads((maml / "evaluation" / "adaptation.json").read_text())
    assert found["references"]["prototypical"]["steps"] == [0]


def test_fine_tuning_is_judged_after_its_steps_and_shown_by_name(tmp_path, capsys):
    run = run_of(tmp_path / "tuned", *TUNED, "iterations=4")
    last = folders.record(run)[-1]
    # Of five classes none is preferred yet.
    assert last["eval/accuracy_step_0"] == pytest.approx(0.2)
    manifest = json.loads((run / "checkpoints" / "000004" / "manifest.json").read_text())
    assert manifest["score"] == last["eval/accuracy_step_2"]
    other = run_of(tmp_path / "plain", "iterations=1")
    capsys.readouterr()
    assert evaluate([str(other), "--reference", str(run), "--tasks", "3"]) == 0
    found = json.loads((other / "evaluation" / "adaptation.json").read_text())
    assert found["references"]["fine_tuning"]["steps"] == [0, 1, 2, 3]
    assert evaluate([str(run), "--steps", "1", "--lr", "0.1"]) == 0
    found = json.loads((run / "evaluation" / "adaptation.json").read_text())
    assert found["rates"] == [0.1]
    assert len(found["mean_accuracy"]) == 2


def test_an_embedding_without_normalisation_is_not_transductive():
    plain = config.load(CONFIG, ["network={kind: mlp, hidden_sizes: [8]}"])
    assert "not transductive" in plain.protocol


def test_fast_dev_run_and_print_config(tmp_path, capsys):
    small = ["problem.train_ways=6", "evaluation.queries=2"]
    arguments = [str(CONFIG), "--fast-dev-run", *small, "--run-dir", str(tmp_path / "runs")]
    assert train(arguments) == 0
    assert len(runs.read_metrics(runs.find_run("latest", tmp_path / "runs"))) == 1
    capsys.readouterr()
    assert train([str(CONFIG), "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert config.load(tmp_path / "printed.yaml") == config.load(CONFIG)


MISTAKES = [
    ("inner.rule=protypical", "must be one of 'gradient', 'prototypical', 'matching', 'siamese'"),
    ("inner.rule=gradient", "inner.lr is missing; add it: Rate"),
    ("inner.lr=0.1", "inner.lr is not a setting; it belongs to another kind of inner"),
    ("inner.steps=1", "inner.steps is not a setting; it belongs to another kind of inner"),
    ("evaluation.steps=3", "evaluation.steps is 3, but inner.rule takes no gradient steps"),
    ("outer.objective=reptile", 'outer.objective is "reptile", but it goes towards parameters'),
    ("inner={rule: lstm}", "problem.train_ways is 20, but steps of adaptation need one output"),
    ("inner={rule: fine_tuning}", "inner.lr is missing; add it: Rate"),
    ("network={kind: gru}", 'network.kind is "gru", but it reads a sequence'),
    ("network={kind: mlp, hidden_sizes: []}", "the hidden layers are the embedding"),
    ("problem.train_ways=1", "problem.train_ways is 1, but must be at least 2"),
]


@pytest.mark.parametrize(("override", "said"), MISTAKES)
def test_a_mistake_is_one_sentence(override, said):
    with pytest.raises(config.ConfigError) as caught:
        config.load(CONFIG, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_curves_have_no_classes_to_tell_apart():
    with pytest.raises(config.ConfigError, match=r'inner\.rule is "prototypical", but it tells'):
        config.load(CONFIG, ["problem={kind: sinusoid, shots: 5}", "network={kind: mlp}"])


def test_gradient_steps_have_as_many_classes_in_training_as_ever():
    with pytest.raises(config.ConfigError, match=r"problem\.train_ways is 20, but steps of"):
        config.load(MAML, ["problem.train_ways=20"])


def test_gradient_steps_are_not_evaluated_for(tmp_path, capsys):
    run = run_of(tmp_path, "iterations=1")
    assert evaluate([str(run), "--steps", "2"]) == 2
    assert "evaluation.steps is 2, but inner.rule takes no" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("METARL_DATA"), reason="METARL_DATA names no folder")
@pytest.mark.timeout(3600)
def test_prototypical_networks_learn_omniglot(tmp_path, monkeypatch):
    """A quarter of an hour on one core; published: 98.8 %."""
    monkeypatch.undo()
    arguments = ["evaluation.every=6000", "evaluation.tasks=200", "threads=1"]
    assert train([str(CONFIG), *arguments, "--run-dir", str(tmp_path)]) == 0
    last = runs.read_metrics(runs.find_run("latest", tmp_path))[-1]
    assert last["eval/accuracy_step_0"] > 0.96
