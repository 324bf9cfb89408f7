"""An evaluation on paper: table on the terminal, JSON, CSV, PNG and TensorBoard's files."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np

from metarl import system
from metarl.curves import CONFIDENCE, STATISTICS, Aggregate, Array, Curve
from metarl.presentation.figures import adaptation_figure
from metarl.presentation.plaintext import writable
from metarl.presentation.published import Row
from metarl.runs import RunError
from metarl.storage import disk

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

NAME = "adaptation"


@dataclass(frozen=True)
class Report:
    """One evaluated run.

    Attributes:
        run: its name.
        curve: of the trained network.
        settings: what else decides the numbers, as JSON values.
        references: curves of other networks on the same tasks, by name.
        published: numbers to show beside.
    """

    run: str
    curve: Curve
    settings: dict[str, Any]
    references: dict[str, Curve] = field(default_factory=dict)
    published: tuple[Row, ...] = ()


class Seeds(NamedTuple):
    """Runs of several seeds: those that they were trained with, their curves, and these as one."""

    seeds: Sequence[int]
    curves: Sequence[Curve]
    aggregate: Aggregate


def write(report: Report, folder: Path) -> list[Path]:
    """Write ``adaptation.json``, ``.csv``, ``.png`` and TensorBoard's files.

    Raises:
        RunError: the disk does not take them.
    """
    png = io.BytesIO()
    adaptation_figure(report.curve, report.references, report.published).savefig(png, format="png")
    contents = {
        "json": (json.dumps(to_json(report), indent=1, allow_nan=False) + "\n").encode(),
        "csv": to_csv(report).encode(),
        "png": png.getvalue(),
    }
    with disk.failures_as(RunError, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            disk.replace(folder / f"{NAME}.{suffix}", content)
        _write_events(report, folder, png.getvalue())
    return [folder / f"{NAME}.{suffix}" for suffix in contents]


def write_film(gif: bytes, folder: Path, iteration: int) -> Path:
    """Write ``adaptation.gif``, and show it in TensorBoard.

    Raises:
        RunError: the disk does not take it.
    """
    with disk.failures_as(RunError, folder):
        disk.replace(folder / f"{NAME}.gif", gif)
        _add_image(folder, f"{NAME}/film", gif, iteration)
    return folder / f"{NAME}.gif"


def write_examples(figure: Figure, folder: Path, iteration: int) -> Path:
    """Write ``examples.png``, and show it in TensorBoard.

    Raises:
        RunError: the disk does not take it.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png")
    with disk.failures_as(RunError, folder):
        disk.replace(folder / "examples.png", png.getvalue())
        _add_image(folder, f"{NAME}/examples", png.getvalue(), iteration)
    return folder / "examples.png"


def write_aggregate(found: Seeds, folder: Path) -> Path:
    """Write ``aggregate.json``.

    Raises:
        RunError: the disk does not take it.
    """
    centre, low, high = found.aggregate
    content = {
        **_title(found.curves[0]),
        "steps": found.curves[0].steps,
        "seeds": list(found.seeds),
        "per_seed_mean": [curve.mean.tolist() for curve in found.curves],
        "interquartile_mean": centre.tolist(),
        "interval": np.stack([low, high], axis=1).tolist(),
        "confidence": CONFIDENCE,
    }
    with disk.failures_as(RunError, folder):
        disk.replace(folder / "aggregate.json", (json.dumps(content, indent=1) + "\n").encode())
    return folder / "aggregate.json"


def to_json(report: Report) -> dict[str, Any]:
    """Everything that was measured, and what it takes to measure it again."""
    return {
        "run": report.run,
        **_title(report.curve),
        "iteration": report.curve.iteration,
        "seed": report.curve.seed,
        "protocol": report.curve.protocol,
        **_curve(report.curve),
        "references": {name: _curve(curve) for name, curve in report.references.items()},
        "published": {row.name: _row(row) for row in report.published},
        "settings": report.settings,
        "versions": system.describe(),
    }


def to_csv(report: Report) -> str:
    """One row per policy, gradient step and task."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = report.curve.tasks.shape[1]
    columns = [f"task_{part}" for part in range(parts)]
    writer.writerow(["policy", "step", "rate", "task", *columns, report.curve.measure])
    for name, curve in {NAME: report.curve, **report.references}.items():
        for step, values in zip(curve.steps, curve.per_task, strict=True):
            rate = _rate(curve, step)
            for index, (task, value) in enumerate(zip(curve.tasks, values, strict=True)):
                writer.writerow([name, step, rate, index, *task.tolist(), float(value)])
    return text.getvalue()


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: step, rate, mean and its error of each network, the published means by step."""
    curves = {f"mean {report.curve.measure}": report.curve}
    for name, curve in report.references.items():
        curves[curve.named_beside(name, report.curve)] = curve
    kind, longest = report.curve.kind, max(curves.values(), key=lambda curve: len(curve.steps))
    published = [row for row in report.published if row.stands_beside(longest.steps)]
    header = ["step", "rate"]
    for name in curves:
        header += [name, *(STATISTICS[each].heading for each in kind.beside)]
    header += [row.label for row in published]
    rows = []
    for step in longest.steps:
        own = step < len(report.curve.steps)
        cells = [str(step), _rate(report.curve if own else longest, step)]
        for curve in curves.values():
            if step >= len(curve.steps):
                cells += [""] * (1 + len(kind.beside))
                continue
            cells.append(kind.text(curve.mean[step]))
            cells += [STATISTICS[each].text(curve, step) for each in kind.beside]
        for row in published:
            known = step < len(row.mean) and math.isfinite(row.mean[step])
            cells.append(kind.text(row.mean[step]) if known else "")
        rows.append(cells)
    return header, rows


def published_line(report: Report) -> str:
    """The published values that the table has no place for: without gradient steps, or after more of them."""
    longest = max((report.curve, *report.references.values()), key=lambda curve: len(curve.steps))
    found = []
    for row in report.published:
        if not row.stands_beside(longest.steps):
            steps = f" after {len(row.mean) - 1} steps" if len(row.mean) > 1 else ""
            found.append(f"{row.label}: {report.curve.kind.text(row.mean[-1])}{steps}")
    return f"published: {'; '.join(found)}" if found else ""


def aggregate_table(found: Seeds) -> tuple[list[str], list[list[str]]]:
    """Header and rows: step, each seed's mean, their interquartile mean and its interval."""
    header = ["step", *(f"seed {seed}" for seed in found.seeds), "IQM", "95 % interval"]
    rows = []
    for step, (centre, low, high) in enumerate(zip(*found.aggregate, strict=True)):
        text = found.curves[0].kind.text
        interval = f"{text(low)} to {text(high)}" if math.isfinite(low) else ""
        means = [text(curve.mean[step]) for curve in found.curves]
        rows.append([str(step), *means, text(centre), interval])
    return header, rows


def show(
    header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO | None = None
) -> None:
    """Print a table to standard output: drawn by rich on a terminal, aligned columns elsewhere."""
    stream = stream or sys.stdout
    if stream.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(*header, header_style="bold")
        for column in drawn.columns:
            column.justify = "right"
        for row in rows:
            drawn.add_row(*row)
        Console(file=stream).print(drawn)
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        line = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print(writable(line.rstrip(), stream), file=stream)


def _title(curve: Curve) -> dict[str, str]:
    """The environment of returns, the problem of anything else."""
    return {"environment" if curve.measure == "return" else "problem": curve.title}


def _curve(curve: Curve) -> dict[str, Any]:
    written = dict.fromkeys(("standard_error", *curve.kind.beside))
    predicted = {} if curve.transductive is None else {"transductive": curve.transductive}
    return {
        "steps": curve.steps,
        f"mean_{curve.measure}": _finite(curve.mean),
        **{name: _finite(STATISTICS[name].of(curve)) for name in written},
        f"per_task_{curve.measure}": [_finite(values) for values in curve.per_task],
        "tasks": curve.tasks.tolist(),
        "rates": list(curve.rates),
        curve.kind.data: curve.amount,
        **predicted,
    }


def _finite(values: Array) -> list[float | None]:
    """As JSON, which knows neither NaN nor infinity."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _row(row: Row) -> dict[str, Any]:
    return row._asdict() | {"mean": _finite(np.array(row.mean))}


def _rate(curve: Curve, step: int) -> str:
    if step == 0:
        return ""
    rate = curve.rates[step - 1]
    return "learned" if rate is None else f"{rate:g}"


def _write_events(report: Report, folder: Path, png: bytes) -> None:
    """A TensorBoard run of its own beside the training's, whose x axis is gradient steps."""
    for stale in folder.glob("events.out.tfevents.*"):
        stale.unlink()
    with _board(folder) as writer:
        for step, value in zip(report.curve.steps, report.curve.mean, strict=True):
            writer.add_scalar(f"{NAME}/{report.curve.measure}", float(value), step)
    _add_image(folder, f"{NAME}/curve", png, report.curve.iteration)


def _add_image(folder: Path, tag: str, content: bytes, iteration: int) -> None:
    """Show a PNG or an animated GIF as it is: TensorBoard's own writer would take it apart."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    width, height = Image.open(io.BytesIO(content)).size
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
    with _board(folder) as writer:
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        writer._get_file_writer().add_summary(summary, iteration)


def _board(folder: Path) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
