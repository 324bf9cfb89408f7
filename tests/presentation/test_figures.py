"""The adaptation figure: what is drawn where, and that something is."""

import gc
import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from metarl.curves import Curve
from metarl.presentation import published
from metarl.presentation.figures import adaptation_figure

PAPER = published.find("envs:HalfCheetahVel-v0", {}, 200)


def curve(steps=3, tasks=5, shift=0.0):
    values = np.random.default_rng(0).normal(-100.0 + shift, 10.0, size=(steps + 1, tasks))
    return Curve("envs:X-v0", "return", 7, 1, 2, (0.1,) * steps, np.zeros((tasks, 1)), values)


def errors(values, **changes):
    """Errors after 0, 1, ... steps, a row for each, of 15 queries that do not depend on each other."""
    values = np.asarray(values, dtype=np.float64)
    rates, tasks = (0.1,) * (len(values) - 1), np.zeros((values.shape[1], 1))
    found = Curve("X", "mse", 7, 1, 15, rates, tasks, values, transductive=False)
    return replace(found, **changes)


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
    single = [line.get_ydata() for line in axes.lines[-5:]]
    np.testing.assert_array_equal(single, found.per_task.T)
    (bars,) = axes.containers
    data, _, (lines,) = bars
    np.testing.assert_array_equal(data.get_ydata(), found.mean)
    ends = np.array([segment[:, 1] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * found.standard_error)


def test_the_axis_of_errors_ends_at_the_means_intervals_not_at_single_tasks():
    values = np.tile([[3.0], [0.3], [0.2]], 100)
    values[1, 7], values[2, 8] = 21.0, 30.0
    found, reference = errors(values), errors(values * [[1.0], [8.0], [10.0]])
    figure = adaptation_figure(found, {"pretrained": reference})
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    # The highest interval ends at 1.96 standard errors above the reference's mean after two steps.
    after = 10 * values[2]
    highest = after.mean() + 1.959964 * after.std(ddof=1) / 10
    assert highest < high < 1.1 * highest
    assert -0.1 * high < low < 0
    assert "this run, single tasks (2 of 100 leave the picture)" in legend(figure)


def test_single_tasks_that_fit_are_not_said_to_leave_and_returns_keep_their_axis():
    assert legend(adaptation_figure(errors(np.ones((2, 4)))))[1] == "this run, single tasks"
    values = np.full((2, 10), -100.0)
    values[1, 3] = -500.0
    figure = adaptation_figure(replace(curve(steps=1, tasks=10), per_task=values))
    assert figure.axes[0].get_ylim()[0] < -500
    assert legend(figure)[1] == "this run, single tasks"


@pytest.mark.parametrize("exploded", [np.nan, np.inf])
def test_a_mean_that_exploded_leaves_the_axis_to_the_others(exploded):
    figure = adaptation_figure(errors([[1.0, 3.0], [exploded, 1.0]]))
    low, high = figure.axes[0].get_ylim()
    # The mean of 1 and 3 and its interval, 1.96 standard errors of 1, and a twentieth of the span.
    assert 3.96 < high < 4.2
    assert low < 0
    lost = adaptation_figure(errors([[exploded, 3.0]]))
    assert (pixels(lost) < 250).any()


def test_bars_of_errors_are_the_tables_intervals_and_the_figure_says_so():
    found, oracle = errors([[1.0, 2.0, 6.0], [0.0, 1.0, 2.0]]), errors([[0.1, 0.2, 0.6]])
    figure = adaptation_figure(found, {"oracle": oracle})
    (axes,) = figure.axes
    assert legend(figure)[0] == "this run, mean and 95 % interval over tasks"
    (_, _, (lines,)) = axes.containers[0]
    ends = np.array([segment[:, 1] for segment in lines.get_segments()])
    # Sample variances 7 and 1 of 3 tasks each.
    mean, half = np.array([3, 1]), 1.959964 * np.sqrt([7 / 3, 1 / 3])
    np.testing.assert_allclose(ends.T, [mean - half, mean + half])
    (band,) = axes.patches
    assert band.get_height() == pytest.approx(2 * 1.959964 * np.sqrt(0.07 / 3))


@pytest.mark.parametrize(
    ("measure", "amount", "transductive", "line"),
    [
        ("accuracy", 1, True, "1 query of each class, transductive"),
        ("accuracy", 15, False, "15 queries of each class, not transductive"),
        ("mse", 100, False, "100 queries of each task, not transductive"),
    ],
)
def test_the_title_says_what_predictions_depend_on(measure, amount, transductive, line):
    found = errors(np.full((2, 3), 0.5), measure=measure, amount=amount, transductive=transductive)
    (axes,) = adaptation_figure(found).axes
    assert axes.get_title() == f"X, iteration 7\n{line}"


def test_a_reference_says_what_its_predictions_depend_on_where_that_differs():
    found, alike = errors(np.ones((2, 3))), errors(2 * np.ones((2, 3)))
    references = {"alike": alike, "other": replace(alike, transductive=True)}
    assert legend(adaptation_figure(found, references))[2:] == [
        *("alike", "other (15 queries of each task, transductive)")
    ]


def test_a_published_value_that_is_reproduced_is_seen_on_top():
    found = errors([[0.9, 0.9], [0.67, 0.67]])
    (axes,) = adaptation_figure(found, published=published.few_shot("sinusoid", 1, 5)).axes
    own, maml, *_ = axes.containers
    assert maml.get_label() == "MAML, Finn et al. 2017"
    assert maml[0].get_zorder() > own[0].get_zorder()
    assert maml[0].get_markersize() < own[0].get_markersize()


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
