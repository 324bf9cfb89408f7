"""The adaptation figure: what is drawn where, and that something is."""

import gc
import io
import weakref

import numpy as np
import pytest
from PIL import Image

from metarl import published
from metarl.curves import Curve
from metarl.figures import adaptation_figure

PAPER = published.find("envs:HalfCheetahVel-v0", {}, 200)


def curve(steps=3, tasks=5, shift=0.0):
    values = np.random.default_rng(0).normal(-100.0 + shift, 10.0, size=(steps + 1, tasks))
    return Curve("envs:X-v0", "return", 7, 1, 2, (0.1,) * steps, np.zeros((tasks, 1)), values)


def pixels(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return np.asarray(Image.open(png).convert("RGB"))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_picture_has_its_size_and_is_not_blank():
    image = pixels(adaptation_figure(curve(), {"random": curve(shift=-50)}, PAPER))
    assert image.shape == (600, 768, 3)
    assert 0.01 < (image < 250).any(axis=-1).mean() < 0.5
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100


def test_axes_title_and_legend():
    figure = adaptation_figure(curve(), {"random": curve(shift=-50)}, PAPER)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("gradient steps", "average return")
    assert axes.get_title() == "envs:X-v0, iteration 7"
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert legend(figure) == [
        *("this run, mean ± s.e. over tasks", "this run, single tasks", "random"),
        *(f"{name}, Finn et al. 2017" for name in ("MAML", "pretrained", "random", "oracle")),
    ]


def test_means_errors_and_single_tasks_are_where_they_belong():
    found = curve()
    (axes,) = adaptation_figure(found).axes
    single = [line.get_ydata() for line in axes.lines[:5]]
    np.testing.assert_array_equal(single, found.per_task.T)
    (bars,) = axes.containers
    data, _, (lines,) = bars
    np.testing.assert_array_equal(data.get_ydata(), found.mean)
    ends = np.array([segment[:, 1] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * found.standard_error)


def test_published_numbers_stop_at_the_steps_taken():
    (axes,) = adaptation_figure(curve(steps=1), published=PAPER).axes
    drawn = {bars.get_label(): bars[0].get_ydata().tolist() for bars in axes.containers}
    assert drawn["MAML, Finn et al. 2017"] == [-129.53, -78.57]
    assert drawn["pretrained, Finn et al. 2017"] == [-158.0, -135.39]


def test_numbers_after_steps_that_are_not_taken_are_left_out():
    rows = published.beside(published.few_shot("omniglot", 20, 1), "MAML")
    shown = [legend(adaptation_figure(curve(steps), published=rows))[2:] for steps in (0, 5)]
    compared = [row.label for row in rows[1:]]
    assert shown == [compared, [rows[0].label, *compared]]


@pytest.mark.parametrize(("steps", "tasks"), [(0, 5), (3, 1), (0, 1), (10, 200)])
def test_extremes_can_be_drawn(steps, tasks):
    assert (pixels(adaptation_figure(curve(steps, tasks), published=PAPER)) < 250).any()


def test_the_global_state_of_matplotlib_is_left_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    adaptation_figure(curve())
    assert plt.get_fignums() == before


def test_a_reference_without_steps_is_a_line_across_them():
    oracle = curve(steps=0, shift=70)
    figure = adaptation_figure(curve(), {"oracle": oracle})
    (axes,) = figure.axes
    (line,) = (each for each in axes.lines if each.get_label() == "oracle")
    assert line.get_ydata() == [oracle.mean[0]] * 2
    assert line.get_transform() == axes.get_yaxis_transform(which="grid")
    assert line.get_xdata() == [0, 1]
    (band,) = axes.patches
    low, high = (float(oracle.mean[0] + sign * oracle.standard_error[0]) for sign in (-1, 1))
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((low, high))
    assert "oracle" in legend(figure)


def test_more_references_than_colours_are_all_drawn():
    references = {f"run {index}": curve(shift=-10 * index) for index in range(6)}
    assert legend(adaptation_figure(curve(), references))[2:] == list(references)


def test_a_figure_is_freed_when_the_next_one_is_drawn():
    """It refers to itself, and a long training has hardly ever cause for a collection that finds out."""
    gc.disable()
    try:
        first = adaptation_figure(curve())
        pixels(first)
        first = weakref.ref(first)
        assert first() is not None
        adaptation_figure(curve())
        assert first() is None
    finally:
        gc.enable()
