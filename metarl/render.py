"""A GIF of one held-out task: the policy before and after adaptation, side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metarl.data import Meta, Params
from metarl.errors import UserError
from metarl.functional.params import for_tasks
from metarl.problems.rl import RLProblem
from metarl.sampler import LoopVectorEnv, Sampler
from metarl.seeding import Key

WIDTH, LINE, MARGIN, FONT_SIZE, COLOURS = 200, 18, 6, 12, 32
FRAMES_PER_SECOND, MOST_FRAMES, LONGEST_FRAME = 25, 40, 100


class Take(NamedTuple):
    """One filmed episode: pictures, and for each the step and the return so far.

    Attributes:
        pictures: of one size, at regular steps and at the last.
        steps: taken before each picture.
        returns: undiscounted, up to each picture.
        duration: of a picture in milliseconds; long episodes are shown faster than they happen.
    """

    pictures: list[Image.Image]
    steps: list[int]
    returns: list[float]
    duration: int


def adaptation_gif(
    problem: RLProblem,
    meta: Meta,
    task: NDArray[np.float64],
    rates: Sequence[float | Params],
    episodes: int | None,
    key: Key,
) -> bytes:
    """Adapt to a task and film an episode before and one after, with the same random numbers.

    Args:
        problem: of the policy.
        meta: what was learned.
        task: ``[D]``.
        rates: of each gradient step.
        episodes: N, of each gradient step; None: as in training.
        key: names the random numbers of adaptation, and with the next iteration those of the film.

    Returns:
        An animated GIF.

    Raises:
        UserError: the environment draws no pictures.
    """
    tasks = task[None]
    before = after = for_tasks(meta.theta, 1)
    for step, rate in enumerate(rates):
        wave = problem.wave(after, tasks, key, step, episodes or problem.sampling.episodes)
        after = problem.adapt(after, wave.episodes, rate)
    filming = key._replace(iteration=key.iteration + 1)
    takes = [film(problem, params, tasks, filming) for params in (before, after)]
    plural = "" if len(rates) == 1 else "s"
    captions = ("before adaptation", f"after {len(rates)} gradient step{plural}")
    title = f"{problem.environments.env}, task {', '.join(f'{value:.3g}' for value in task)}"
    return _animate(takes, captions, title)


def film(problem: RLProblem, params: Params, tasks: NDArray[np.float64], key: Key) -> Take:
    """One episode by the sampler itself, filmed."""
    family, horizon = problem.environments, problem.environments.horizon
    try:
        env = family.single(render_mode="rgb_array")
    except TypeError as error:
        raise UserError(f"{family.env}: draws no pictures: {error}") from error
    with FilmedEnv(env, horizon) as filmed:
        sampler = Sampler(
            *(lambda _: filmed, 1, 1, horizon, problem.act),
            device=problem.device,
            observe_task=family.observe_task,
        )
        sampler.wave(params, tasks, key, 0)
    return filmed.take


class FilmedEnv(LoopVectorEnv):
    """One environment that is drawn as often as a film needs it, and at its last step.

    Args:
        env: with the render mode ``rgb_array``.
        horizon: T.
    """

    def __init__(self, env: Any, horizon: int) -> None:
        super().__init__([env])
        rate = float(env.metadata.get("render_fps") or FRAMES_PER_SECOND)
        self._stride = max(round(rate / FRAMES_PER_SECOND), math.ceil(horizon / MOST_FRAMES), 1)
        self._return = 0.0
        duration = min(round(1000 * self._stride / rate), LONGEST_FRAME)
        self.take = Take([], [], [], duration)

    def reset(self, **kwargs: Any) -> Any:
        """Start the episode and the film."""
        result = super().reset(**kwargs)
        self._shoot()
        return result

    def step(self, actions: Any) -> Any:
        """Step, and draw if it is time."""
        result = super().step(actions)
        _, rewards, terminated, truncated, _ = result
        self._return += float(rewards[0])
        if self._step % self._stride == 0 or terminated[0] or truncated[0]:
            self._shoot()
        return result

    def _shoot(self) -> None:
        pixels = self.envs[0].render()
        if not isinstance(pixels, np.ndarray):
            raise UserError("the environment draws nothing in the render mode rgb_array.")
        picture = Image.fromarray(pixels)
        size = min(WIDTH, picture.width)
        shrunk = picture.resize((size, round(picture.height * size / picture.width)))
        self.take.pictures.append(shrunk)
        self.take.steps.append(self._step)
        self.take.returns.append(self._return)

    def __enter__(self) -> FilmedEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _animate(takes: Sequence[Take], captions: Sequence[str], title: str) -> bytes:
    """Both takes side by side; one that ended early goes on showing its last picture."""
    count = max(len(take.pictures) for take in takes)
    frames = [_compose(takes, captions, title, index) for index in range(count)]
    palette = frames[-1].quantize(COLOURS)
    reduced = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    reduced[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=reduced[1:],
        duration=[takes[0].duration] * (count - 1) + [1500],
        loop=0,
        optimize=True,
    )
    return file.getvalue()


def _compose(takes: Sequence[Take], captions: Sequence[str], title: str, index: int) -> Image.Image:
    width, height = takes[0].pictures[0].size
    bar = 3 * LINE + MARGIN
    frame = Image.new("RGB", (2 * width + MARGIN, height + bar), "white")
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(FONT_SIZE)
    draw.text((MARGIN, 2), title, "#555555", font)
    for column, (take, caption) in enumerate(zip(takes, captions, strict=True)):
        shown, left = min(index, len(take.pictures) - 1), column * (width + MARGIN)
        frame.paste(take.pictures[shown], (left, bar))
        draw.text((left + MARGIN, 2 + LINE), caption, "black", font)
        state = f"step {take.steps[shown]}, return {take.returns[shown]:.1f}"
        draw.text((left + MARGIN, 2 + 2 * LINE), state, "#1f5fa8", font)
    return frame
