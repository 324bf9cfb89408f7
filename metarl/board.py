"""TensorBoard's view of a run: it can be made again from the record, so it never stops training."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.config import Config

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

BY_ENV_STEPS = {"return/pre": "return_by_env_steps/pre", "return/post": "return_by_env_steps/post"}


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
        self._failed = False

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
        from torch.utils.tensorboard.summary import hparams

        for stale in self._directory.glob("events.out.tfevents.*"):
            stale.unlink()
        # A TensorBoard that is open forgets the replaced files at a purge from step 0.
        writer = SummaryWriter(str(self._directory), purge_step=0)
        returns = [f"eval/return_step_{k}" for k in range(self._settings.evaluation.steps + 1)]
        writer.add_custom_scalars(
            {
                "Return": {
                    "before and after adaptation": ["Multiline", ["^return/pre$", "^return/post$"]],
                    "by environment steps": [
                        "Multiline",
                        [f"^{t}$" for t in BY_ENV_STEPS.values()],
                    ],
                    "held-out tasks, by gradient steps": ["Multiline", [f"^{t}$" for t in returns]],
                }
            }
        )
        settings = _flat(self._settings.model_dump(mode="json"))
        for summary in hparams(settings, dict.fromkeys(["return/post", returns[-1]], 0.0)):
            writer._get_file_writer().add_summary(summary)
        return writer

    def _add_scalars(
        self,
        writer: SummaryWriter,
        iteration: int,
        metrics: Mapping[str, float | None],
        time: float,
    ) -> None:
        env_steps = metrics.get("env_steps")
        for tag, value in metrics.items():
            if value is None:
                continue
            writer.add_scalar(tag, value, iteration, walltime=time)
            if tag in BY_ENV_STEPS and env_steps is not None:
                writer.add_scalar(BY_ENV_STEPS[tag], value, int(env_steps), walltime=time)


def _add_image(writer: SummaryWriter, tag: str, png: bytes, iteration: int) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    writer.add_image(tag, pixels, iteration, dataformats="HWC")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    flat: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return flat
