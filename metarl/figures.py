"""Figures, drawn without a display and without Matplotlib's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.curves import Curve
from metarl.published import SOURCE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN, GREYS = "#1f5fa8", {"MAML": "#c44e1f", "pretrained": "#8a6d00", "random": "#777777"}
REFERENCES = ("#2e8b57", "#7b4fa3", "#a8326e", "#3a8f9e")
LABELS = {"return": "average return", "accuracy": "accuracy", "mse": "mean squared error"}


def adaptation_figure(
    curve: Curve,
    references: Mapping[str, Curve] | None = None,
    published: Sequence[Row] = (),
    label: str = "this run",
) -> Figure:
    """The adaptation curve: mean and standard error over tasks, single tasks faint.

    Args:
        curve: of the trained policy.
        references: other policies' curves by name, such as an untrained one's.
        published: numbers drawn beside, dashed.
        label: of the curve, in the legend.
    """
    # Imported here, because it takes half a second and training draws only now and then.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.steps, curve.per_task_return, color=OWN, alpha=0.12, linewidth=0.8, zorder=1)
    for row in published:
        _draw_published(axes, row, curve.steps)
    for (name, other), colour in zip((references or {}).items(), REFERENCES, strict=False):
        _draw_mean(axes, other, name, colour)
    _draw_mean(axes, curve, f"{label}, mean ± s.e. over {len(curve.tasks)} tasks", OWN)
    axes.set_xlabel("gradient steps")
    axes.set_ylabel(LABELS.get(curve.measure, curve.measure))
    axes.set_title(f"{curve.env}, iteration {curve.iteration}", fontsize="medium")
    axes.set_xticks(curve.steps)
    axes.margins(x=0.04)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="best")
    return figure


def _draw_mean(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    mean, error = curve.mean_return, np.nan_to_num(curve.standard_error)
    axes.fill_between(curve.steps, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axes.plot(curve.steps, mean, color=colour, linewidth=2.0, marker="o", markersize=5, label=label)


def _draw_published(axes: Axes, row: Row, steps: Sequence[int]) -> None:
    label, colour = f"{row.name} ({SOURCE})", GREYS.get(row.name, "#444444")
    style: dict[str, Any] = {"color": colour, "linewidth": 1.2, "linestyle": "--", "zorder": 1.5}
    if len(row.mean) == 1:
        axes.axhline(row.mean[0], label=label, **style | {"linestyle": ":"})
        return
    shown = [step for step in steps if step < len(row.mean)]
    error = [row.standard_error[step] if step < len(row.standard_error) else 0.0 for step in shown]
    mean = [row.mean[step] for step in shown]
    axes.errorbar(shown, mean, error, label=label, marker="s", markersize=4, capsize=2, **style)
