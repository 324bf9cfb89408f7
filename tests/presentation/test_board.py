"""TensorBoard's view of a run: it shows what the record holds, and never stops training."""

from __future__ import annotations

import io
import math
import sys

import folders
import pytest
from matplotlib.figure import Figure
from PIL import Image

from metarl import runs
from metarl.presentation import board
from metarl.runs import Run


@pytest.fixture
def run(tmp_path):
    with Run.create(folders.run_settings(tmp_path), "a", tmp_path / "runs") as run:
        yield run


def test_tensorboard_shows_what_the_record_holds(run):
    for i in range(3):
        run.log(
            i,
            {"return/pre": -i, "return/post": i, "outer/kl": math.nan, "env_steps": 100 * (i + 1)},
        )
    run.close()
    assert folders.scalars(run.path, "return/pre") == [(0, 0.0), (1, -1.0), (2, -2.0)]
    assert folders.scalars(run.path, "return_by_env_steps/post") == [
        (100, 0.0),
        (200, 1.0),
        (300, 2.0),
    ]
    shown = folders.events(run.path)
    assert "outer/kl" not in shown.Tags()["scalars"]
    times = [event.wall_time for event in shown.Scalars("return/pre")]
    assert times == [record["time"] for record in runs.read_metrics(run.path)]
    assert "custom_scalars__config__" in shown.Tags()["tensors"]
    layout = shown.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^return/pre$" in layout
    assert b"^eval/return_step_3$" in layout
    assert "_hparams_/session_start_info" in shown.summary_metadata
    hyper_parameters = str(shown.summary_metadata["_hparams_/session_start_info"])
    assert "inner.lr" in hyper_parameters


def test_a_figure_is_kept_and_shown(run):
    figure = Figure()
    figure.subplots().plot([1, 2])
    run.log(0, {"a": 1.0})
    run.figure("evaluation/adaptation", figure, 5)
    run.figure("small", folders.png(200), 6)
    run.close()
    with Image.open(run.path / "figures/evaluation/adaptation/000005.png") as kept:
        assert kept.size[0] > 100
    shown = folders.events(run.path)
    assert [event.step for event in shown.Images("evaluation/adaptation")] == [5]
    (image,) = shown.Images("small")
    assert Image.open(io.BytesIO(image.encoded_image_string)).getpixel((0, 0)) == (200, 0, 0)


def test_a_failing_tensorboard_warns_once_and_training_goes_on(run, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no disk for it")

    run.log(0, {"a": 1.0})
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", fail)
    for i in range(1, 4):
        run.log(i, {"a": 1.0})
    run.figure("x", folders.png(1), 3)
    run.close()
    assert [record["iteration"] for record in runs.read_metrics(run.path)] == [0, 1, 2, 3]
    (warning,) = [r.getMessage() for r in caplog.records if r.name == board.__name__]
    assert "no disk for it" in warning


def test_tensorboard_that_is_not_installed_is_one_warning(run, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run.log(0, {"a": 1.0})
    run.log(1, {"a": 1.0})
    assert len(runs.read_metrics(run.path)) == 2
    assert len([r for r in caplog.records if r.name == board.__name__]) == 1
