"""How near is a wave of episodes, policy included, to what the physics engine can do?

The open loops replay the very actions of the wave from its initial states, so that every alternative simulates the
same trajectories; the largest difference between final positions is printed, and must be 0.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch
from measuring import rounds, sizes
from measuring.report import Report, parser
from mujoco.batch import Batch
from published.cheetah import FRAME_SKIP, GoalVelocityCheetah, quiet_stock_model

from envs.physics import ASSETS, load_model, quiet_clock
from metarl.functional.params import for_tasks
from metarl.problems.rl import RLProblem
from metarl.sampler import Sampler
from metarl.seeding import Key, Stream, generator

MODEL = "half_cheetah.xml"
SHIPPED, TUNED, SYNC = "engine as shipped", "engine as tuned", "SyncVectorEnv"
SYNC_ENVS = 20


class Recorded:
    """One wave, and what is needed to simulate it again."""

    def __init__(self, problem: RLProblem, tasks: int, seed: int) -> None:
        self.problem, self.episodes = problem, problem.sampling.episodes
        self.horizon = problem.environments.horizon
        self.key = Key(seed, Stream.TRAIN_DATA)
        self.tasks = problem.sample_tasks(tasks, generator(seed, Stream.TRAIN_TASKS))
        meta = problem.initial_meta(generator(seed, Stream.INITIALISATION))
        self.params = {
            name: value.contiguous() for name, value in for_tasks(meta.theta, tasks).items()
        }
        self.sampler = Sampler(
            problem.environments,
            tasks,
            self.episodes,
            self.horizon,
            problem.act,
            problem.threads,
            problem.samplers.mapper,
        )
        # The sampler seeds its slots so; from the same seeds come the same initial states.
        draws = [
            self.key.generator(task, 0).integers(2**31, size=self.episodes) for task in range(tasks)
        ]
        self.seeds = np.stack(draws)
        actions = self.wave().actions.flatten(0, 1).transpose(0, 1)
        self.actions = np.ascontiguousarray(actions.double().clamp(-1.0, 1.0).numpy())
        self.final = self._positions()
        self.reset()
        self.initial = self._positions(), self._positions("qvel")

    def wave(self) -> Any:
        """The wave as training samples it."""
        return self.sampler.wave(self.params, self.tasks, self.key, 0)

    def reset(self) -> None:
        """Put every environment into its initial state."""
        for part, env in zip(self.sampler.shares, self.sampler.envs, strict=True):
            self._reset(part, env)

    def _reset(self, part: slice, env: Any) -> None:
        tasks = np.repeat(self.tasks[part], self.episodes, axis=0)
        env.reset(seed=self.seeds[part].reshape(-1).tolist(), options={"task": tasks})

    def environment(self) -> None:
        """Reset and step the environments with the recorded actions: no policy, nothing kept."""

        def run(item: tuple[slice, Any]) -> None:
            part, env = item
            self._reset(part, env)
            for actions in self.actions[:, self.slots(part)]:
                env.step(actions)

        list(
            self.problem.samplers.mapper(
                run, zip(self.sampler.shares, self.sampler.envs, strict=True)
            )
        )

    def slots(self, part: slice) -> slice:
        """The slots of a share of the tasks."""
        return slice(part.start * self.episodes, part.stop * self.episodes)

    def _positions(self, field: str = "qpos") -> np.ndarray:
        unwrapped: list[Any] = [env.unwrapped for env in self.sampler.envs]
        return np.concatenate([env.batch.bind(field).copy() for env in unwrapped])


class OpenLoop:
    """Only the engine: the recorded actions, from the recorded initial states."""

    def __init__(
        self,
        recorded: Recorded,
        model: mujoco.MjModel,
        shares: list[slice],
        threads: int,
        skip: int,
    ) -> None:
        self.recorded, self.shares, self.skip = recorded, shares, skip
        self.batches = [Batch(model, part.stop - part.start, threads) for part in shares]
        self.bound = [(b.bind("qpos"), b.bind("qvel"), b.bind("ctrl")) for b in self.batches]
        self.start = [batch.state.copy() for batch in self.batches]

    def __call__(self, quiet: bool = False) -> None:
        """Simulate the wave; without the clock callback if quiet."""

        def run(index: int) -> None:
            part, batch = self.shares[index], self.batches[index]
            qpos, qvel, ctrl = self.bound[index]
            batch.state[:] = self.start[index]
            qpos[:], qvel[:] = (values[part] for values in self.recorded.initial)
            # Environments compute accelerations at a reset, which warm-start the first step.
            batch.forward()
            for actions in self.recorded.actions[:, part]:
                ctrl[:] = actions
                with quiet_clock if quiet else contextlib.nullcontext():
                    batch.step(nstep=self.skip)

        if len(self.batches) == 1:
            run(0)
        else:
            list(self.recorded.problem.samplers.mapper(run, range(len(self.batches))))

    def error(self) -> float:
        """Largest difference to the final positions of the wave."""
        final = np.concatenate([qpos for qpos, _, _ in self.bound])
        return float(np.abs(final - self.recorded.final).max())


def sync_vector_env(preset: str, recorded: Recorded, count: int) -> Callable[[], None]:
    """Gymnasium's vector of its own environments with recorded actions: no policy, nothing kept."""
    envs = gym.vector.SyncVectorEnv([partial(GoalVelocityCheetah, preset)] * count)

    def run() -> None:
        envs.reset(
            seed=recorded.seeds.reshape(-1)[:count].tolist(), options={"task": recorded.tasks[0]}
        )
        for actions in recorded.actions[:, :count]:
            envs.step(actions.astype(np.float32))

    return run


class Setting:
    """One preset with one number of threads.

    Args:
        preset: ``paper`` or ``gym``.
        threads: that share the work.
        options: of the command line.
    """

    def __init__(self, preset: str, threads: int, options: argparse.Namespace) -> None:
        settings = sizes.settings_of(preset, options.quick)
        self.threads, self.problem = threads, sizes.problem_of(settings, threads)
        self.recorded = Recorded(self.problem, settings.outer.tasks, options.seed)
        slots, skip = len(self.recorded.initial[0]), FRAME_SKIP[preset]
        stock = mujoco.MjModel.from_xml_path(str(ASSETS / MODEL))
        shares = [self.recorded.slots(part) for part in self.recorded.sampler.shares]
        self.shipped = OpenLoop(self.recorded, stock, [slice(0, slots)], threads, skip)
        self.tuned = OpenLoop(self.recorded, load_model(MODEL), shares, 1, skip)
        self.steps = slots * self.recorded.horizon

    def alternatives(self) -> dict[tuple[int, str], Callable[[], Any]]:
        """What is timed, by number of threads and name."""
        return {
            (self.threads, SHIPPED): self.shipped,
            (self.threads, "wave"): lambda: self.recorded.wave() and None,
            (self.threads, "environments alone"): self.recorded.environment,
            (self.threads, TUNED): lambda: self.tuned(quiet=True),
        }

    def errors(self) -> dict[str, float]:
        """How far the open loops ended from where the wave did."""
        return {SHIPPED: self.shipped.error(), TUNED: self.tuned.error()}

    def close(self) -> None:
        self.recorded.sampler.close()
        self.problem.close()


def compared(rates: list[float], others: list[float] | None) -> float | None:
    """How many times as fast as another, where that was measured too."""
    return None if others is None else rounds.ratio(rates, others)


def compare(preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One preset: all alternatives with each number of threads, side by side."""
    settings = [Setting(preset, threads, options) for threads in options.threads]
    first = settings[0]
    few = min(SYNC_ENVS, len(first.recorded.initial[0]))
    alternatives = {key: work for each in settings for key, work in each.alternatives().items()}
    alternatives[1, SYNC] = sync_vector_env(preset, first.recorded, few)
    taken = rounds.interleave(alternatives, options.rounds)
    rates = {
        key: [
            (few * first.recorded.horizon if key[1] == SYNC else first.steps) / t.wall
            for t in timings
        ]
        for key, timings in taken.items()
    }
    errors = {each.threads: each.errors() for each in settings}
    for each in settings:
        each.close()
    one = first.threads
    return [
        {"preset": preset, "threads": threads, "what": name}
        | {"steps/s": rounds.median(each)}
        | {"x shipped": compared(each, rates.get((threads, SHIPPED)))}
        | {f"x {one} thread": compared(each, rates.get((one, name)) if name != SYNC else None)}
        | {"off by": errors.get(threads, {}).get(name), "rates": each}
        | {"cpu": rounds.cpus(taken[threads, name])}
        for (threads, name), each in rates.items()
    ]


def main() -> int:
    options = parser(__doc__).parse_args()
    quiet_stock_model()
    report = Report("sampler", options)
    torch.set_num_threads(1)
    rows = [row for preset in options.presets for row in compare(preset, options)]
    alone = f"x {options.threads[0]} thread"
    columns = ("preset", "threads", "what", "steps/s", "x shipped", alone, "off by")
    report.table("Environment steps per second", rows, columns)
    if any(row["off by"] for row in rows):
        print("sampler: an engine's final positions differ from the wave's.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
