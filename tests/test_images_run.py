"""Few-shot classification through the commands, on folders of generated pictures."""

from __future__ import annotations

import json
from pathlib import Path

import folders
import numpy as np
import pytest

from metarl import config, datasets, runs
from metarl.evaluate import main as evaluate
from metarl.train import main as train

CONFIG = Path(__file__).parent.parent / "configs" / "miniimagenet_5way_1shot.yaml"
SIDE = 8
SMALL = [
    *("problem.ways=2", "problem.shots=1", "problem.queries=2", f"problem.image_size={SIDE}"),
    *("network.blocks=2", "network.filters=3", "inner.steps=2", "outer.tasks=2", "threads=1"),
    *("evaluation.tasks=3", "evaluation.steps=2", "evaluation.queries=4", "evaluation.every=1"),
]


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    pictures = folders.tiny_image_set(tmp_path, monkeypatch, SIDE)
    return [str(CONFIG), *SMALL, f"problem.data={pictures}", "iterations=1"]


def test_a_run_is_trained_and_evaluated(arguments, tmp_path, capsys):
    assert train([*arguments, "--run-dir", str(tmp_path / "runs")]) == 0
    run = runs.find_run("latest", tmp_path / "runs")
    (record,) = runs.read_metrics(run)
    assert {"loss/pre", "accuracy/post", "eval/accuracy_step_2"} <= record.keys()
    assert 0.0 <= record["accuracy/pre"] <= 1.0
    capsys.readouterr()
    assert evaluate([str(run), "--tasks", "5", "--queries", "5", "--reference", "random"]) == 0
    said = capsys.readouterr().out
    assert "mini-imagenet, 2-way 1-shot, seed 1, 5 tasks" in said
    assert "5 query images of each class" in said
    found = json.loads((run / "evaluation" / "adaptation.json").read_text())
    values = np.array(found["per_task_accuracy"])
    assert values.shape == (3, 5)
    # Of 2 classes x 5 queries each, so many tenths are right.
    np.testing.assert_allclose(10 * values, np.round(10 * values), atol=1e-5)
    assert np.array(found["tasks"]).shape == (5, 4)
    # Training's two classes come first, then validation's; the held-out ones are the last two.
    assert {int(number) for task in found["tasks"] for number in task[:2]} == {4, 5}
    assert not (run / "evaluation" / "examples.png").exists()


@pytest.mark.parametrize(
    ("rotations", "turned"), [("none", ()), ("train", ()), ("all", (0, 1, 2, 3))]
)
def test_held_out_classes_are_turned_where_the_settings_say_so(
    arguments, tmp_path, rotations, turned
):
    folder = tmp_path / "runs"
    assert train([*arguments, f"problem.rotations={rotations}", "--run-dir", str(folder)]) == 0
    run = runs.find_run("latest", folder)
    assert evaluate([str(run), "--tasks", "40"]) == 0
    tasks = np.array(json.loads((run / "evaluation" / "adaptation.json").read_text())["tasks"])
    assert set(tasks[:, 2:].ravel()) == set(turned or (0,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("evaluation.queries=6", "evaluation.queries is 6, but class n00000002 (validation) has 6"),
        ("problem.queries=6", "problem.queries is 6, but class n00000000 (train) has 6 images"),
        ("problem.ways=3", "problem.ways is 3, but for train there are only 2 classes"),
        ("problem.image_size=513", "problem.image_size is 513, but must be at most 512"),
    ],
)
def test_what_the_images_do_not_allow_names_its_key_before_a_run_is_made(
    arguments, tmp_path, capsys, change, said
):
    assert train([*arguments, change, "--run-dir", str(tmp_path / "runs")]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("metarl: error: ")
    assert said in sentence
    assert not (tmp_path / "runs").exists()


def test_a_picture_may_be_as_large_as_a_data_set_reads_it():
    largest = f"problem.image_size={datasets.MAX_IMAGE_SIZE}"
    assert config.load(CONFIG, [largest]).problem.side == datasets.MAX_IMAGE_SIZE
