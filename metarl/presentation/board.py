"""TensorBoard's view of a run: it can be made again from the record, so it never stops training."""

from __future__ import annotations

import functools
import io
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.config import Config, flat
from metarl.tags import PAIR, adapted

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Board:
    """Writes scalars, images and hyper-parameters; at the first failure it warns and falls silent.

    Args:
        directory: folder of the event files; those in it are replaced.
        settings: the run's settings, shown as its hyper-parameters.
    """

    def __init__(self, directory: Path, settings: Config) -> None:
        self._directory = directory
        self._settings = settings
        self._writer: SummaryWriter | None = None
        self._failed = self._arranged = False

    def scalars(self, iteration: int, metrics: Mapping[str, float | None], time: float) -> None:
        """Add one record: each metric against the iteration, returns against environment steps too.

        Args:
            iteration: the x axis.
            metrics: tag to value; None is left out.
            time: when it was measured, in seconds since the epoch.
        """
        self._attempt(lambda writer: self._add_scalars(writer, iteration, metrics, time))

    def image(self, tag: str, png: bytes, iteration: int) -> None:
        """Add an image, given as the bytes of a PNG file."""
        self._attempt(lambda writer: _add_image(writer, tag, png, iteration))

    def close(self) -> None:
        """Write what is still queued."""
        if self._writer is not None:
            self._attempt(lambda writer: writer.close())
            self._writer = None

    def _attempt(self, action: Callable[[SummaryWriter], None]) -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            action(self._writer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the record is elsewhere
            self._failed = True
            logger.warning(
                "TensorBoard gets no more of this run (%s); its metrics.jsonl does.", error
            )

    def _open(self) -> SummaryWriter:
        # Imported here, because it takes a second that not every command has to wait for.
        from torch.utils.tensorboard import SummaryWriter

        _expect_failing_threads()
        for stale in self._directory.glob("events.out.tfevents.*"):
            stale.unlink()
        # A TensorBoard that is open forgets the replaced files at a purge from step 0.
        return SummaryWriter(str(self._directory), purge_step=0)

    def _arrange(self, writer: SummaryWriter, metrics: Mapping[str, float | None]) -> None:
        """Charts of what is measured before and after adaptation, and the hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        names = adapted(metrics)
        charts = {name.capitalize(): _charts(name, "env_steps" in metrics) for name in names}
        steps = self._settings.evaluation.steps
        validated = [
            f"^eval/{self._settings.problem.measure}_step_{step}$" for step in range(steps + 1)
        ]
        chart = {"validation tasks, by gradient steps": ["Multiline", validated]}
        for name in names[:1]:
            charts[name.capitalize()] |= chart
        writer.add_custom_scalars(charts)
        goals = [f"{name}/post" for name in names] + [validated[-1].strip("^$")]
        settings = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in flat(self._settings.model_dump(mode="json")).items()
        }
        for summary in hparams(settings, dict.fromkeys(goals, 0.0)):
            writer._get_file_writer().add_summary(summary)
        self._arranged = True

    def _add_scalars(
        self,
        writer: SummaryWriter,
        iteration: int,
        metrics: Mapping[str, float | None],
        time: float,
    ) -> None:
        if not self._arranged:
            self._arrange(writer, metrics)
        env_steps = metrics.get("env_steps")
        by_steps = {f"{name}/{when}" for name in adapted(metrics) for when in PAIR}
        for tag, value in metrics.items():
            if value is None:
                continue
            writer.add_scalar(tag, value, iteration, walltime=time)
            if tag in by_steps and env_steps is not None:
                writer.add_scalar(_by_env_steps(tag), value, int(env_steps), walltime=time)


@functools.cache
def _expect_failing_threads() -> None:
    """No traceback of the writer's own thread: `Board` meets its failure at the next call, and says so."""
    others = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            others(failure)

    threading.excepthook = hook


def _by_env_steps(tag: str) -> str:
    return tag.replace("/", "_by_env_steps/")


def _charts(name: str, sampled: bool) -> dict[str, Any]:
    tags = [f"{name}/{when}" for when in PAIR]
    charts = {"before and after adaptation": ["Multiline", [f"^{tag}$" for tag in tags]]}
    if sampled:
        charts["by environment steps"] = ["Multiline", [f"^{_by_env_steps(tag)}$" for tag in tags]]
    return charts


def _add_image(writer: SummaryWriter, tag: str, png: bytes, iteration: int) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    writer.add_image(tag, pixels, iteration, dataformats="HWC")
