"""Figures, drawn without a display and without Matplotlib's global state."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarl.curves import Curve
from metarl.presentation.published import VARIANTS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = "#1f5fa8"
PUBLISHED = {"MAML": "#c44e1f", "pretrained": "#8a6d00", "random": "#777777", "oracle": "#222222"}
PUBLISHED |= {"siamese": "#b8860b", "matching": "#5f7f3a", "prototypical": "#8b3a62"}
PUBLISHED |= dict.fromkeys(VARIANTS, PUBLISHED["MAML"])
REFERENCES = ("#2e8b57", "#7b4fa3", "#a8326e", "#3a8f9e")
STEPS, OWN_POINTS = ("#9ecae1", "#4292c6", "#08519c"), "#7b4fa3"
MOST_TASKS = 100
TASKS_LABEL = "this run, single tasks"


class Panel(NamedTuple):
    """A task of regression with one input and one output.

    Attributes:
        title: the task.
        x: where predictions are drawn, ``[P]``.
        truth: ``[P]``.
        predictions: by gradient steps taken, ``[P]`` each.
        support: x and y of the support, ``[K]`` each.
    """

    title: str
    x: np.ndarray
    truth: np.ndarray
    predictions: dict[int, np.ndarray]
    support: tuple[np.ndarray, np.ndarray]


def adaptation_figure(
    curve: Curve, references: Mapping[str, Curve] | None = None, published: Sequence[Row] = ()
) -> Figure:
    """The adaptation curve: mean and its error over tasks, as the table has it; single tasks faint.

    Args:
        curve: of the trained network.
        references: other networks' curves by name, such as an untrained one's.
        published: numbers drawn beside, dashed.
    """
    figure = _empty_figure(6.4, 5.0)
    axes = figure.add_subplot()
    own = f"this run, mean {curve.kind.error.in_words} over tasks"
    _draw_mean(axes, curve, own, OWN)
    others = {other.named_beside(name, curve): other for name, other in (references or {}).items()}
    for (label, other), colour in zip(others.items(), cycle(REFERENCES), strict=False):
        draw = _draw_mean if other.rates else _draw_constant
        draw(axes, other, label, colour)
    shown = [row for row in published if row.within(curve.steps)]
    for row in shown:
        _draw_published(axes, row, curve.steps)
    tasks = _draw_tasks(axes, curve)
    axes.set_xlabel("gradient steps")
    axes.set_ylabel(curve.kind.label)
    title = f"{curve.title}, iteration {curve.iteration}\n{curve.conditions}"
    axes.set_title(title.rstrip(), fontsize="medium")
    axes.set_xticks(curve.steps)
    axes.margins(x=0.04)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Matplotlib lists lines before lines with error bars; here one's own come first.
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [own, tasks, *others, *(row.label for row in shown)]
    handles = [entries[label] for label in labels]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )
    return figure


def regression_figure(panels: Sequence[Panel]) -> Figure:
    """True curves and predictions before and after adaptation, one panel for each task.

    Source: as figure 2 of Finn et al. 2017 (arXiv:1703.03400).
    """
    figure = _empty_figure(9.6, 2.8 * len(panels) / 2 + 1.0)
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False, sharex=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.plot(panel.x, panel.truth, color="#222222", linewidth=1.2, label="truth")
        for (step, values), colour in zip(panel.predictions.items(), STEPS, strict=False):
            plural = "" if step == 1 else "s"
            label = f"after {step} gradient step{plural}" if step else "before adaptation"
            axes.plot(panel.x, values, color=colour, linewidth=1.4, linestyle="--", label=label)
        axes.plot(*panel.support, "^", color=OWN_POINTS, markersize=6, label="support")
        axes.set_title(panel.title, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _empty_figure(width: float, height: float) -> Figure:
    """So many inches; figures drawn before, and not held any more, are freed."""
    # Imported here, because it takes half a second and training draws only now and then.
    from matplotlib.figure import Figure

    # A figure is full of cycles that hold its pixels, two megabytes: dozens would wait for a full collection.
    gc.collect()
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _draw_tasks(axes: Axes, curve: Curve) -> str:
    """Single tasks behind what is drawn already; returns their label.

    A task's error has no bound: one that explodes would press the means, which tell methods apart, on the axis.
    So the axis of errors goes from 0 to the means and their intervals, whatever single tasks do.
    """
    _, high = axes.get_ylim()
    values = curve.per_task[:, :MOST_TASKS]
    alpha = 0.35 if len(curve.tasks) <= 10 else 0.15
    # Markers, so that something is seen where no step was taken.
    style: dict[str, Any] = {
        "color": OWN,
        "alpha": alpha,
        "linewidth": 0.8,
        "marker": ".",
        "markersize": 3,
        "zorder": 1.5,
    }
    lines = axes.plot(curve.steps, values, **style)
    label = TASKS_LABEL
    if not curve.kind.higher_is_better and np.isfinite(curve.mean).any():
        axes.set_ylim(-0.05 * high, high)
        beyond = int((values > high).any(axis=0).sum())
        label += f" ({beyond} of {values.shape[1]} leave the picture)" if beyond else ""
    lines[0].set_label(label)
    return label


def _draw_mean(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    style: dict[str, Any] = {"linewidth": 2.0, "marker": "o", "markersize": 5, "capsize": 4}
    error = np.nan_to_num(curve.kind.error.of(curve))
    axes.errorbar(curve.steps, curve.mean, error, color=colour, label=label, zorder=3, **style)


def _draw_constant(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    """A reference that takes no step, such as an oracle, is the same beside every step."""
    mean, error = float(curve.mean[0]), float(np.nan_to_num(curve.kind.error.of(curve)[0]))
    axes.axhline(mean, color=colour, label=label, linewidth=2.0, zorder=3)
    axes.axhspan(mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)


def _draw_published(axes: Axes, row: Row, steps: Sequence[int]) -> None:
    style: dict[str, Any] = {"linewidth": 1.2, "zorder": 2, "label": row.label}
    style["color"] = PUBLISHED.get(row.name, "#444444")
    if len(row.mean) == 1:
        axes.axhline(row.mean[0], linestyle=":", **style)
        return
    shown = [step for step in steps if step < len(row.mean)]
    error = [row.standard_error[step] if step < len(row.standard_error) else 0.0 for step in shown]
    mean = [row.mean[step] for step in shown]
    # Small and on top, because a value that was reproduced lies under one's own.
    style |= {"linestyle": "--", "marker": "s", "markersize": 4, "capsize": 2, "zorder": 4}
    axes.errorbar(shown, mean, error, **style)
