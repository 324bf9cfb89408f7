"""Half-cheetahs in either engine, stepped without a policy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import torch

IDS = {"paper": {"preset": "paper"}, "gym": {"preset": "gym"}}


class OnThreads:
    """So many worlds in MuJoCo's own engine, shared out over threads as training shares them."""

    def __init__(self, preset: str, worlds: int, threads: int) -> None:
        edges = np.linspace(0, worlds, threads + 1).astype(int)
        self.pool = ThreadPoolExecutor(threads)
        self.envs = [make_env("envs:HalfCheetahVel-v0", preset, int(n)) for n in np.diff(edges)]
        rng = np.random.default_rng(0)
        self.actions = [rng.normal(size=(env.num_envs, 6)) for env in self.envs]

    def run(self, steps: int) -> None:
        """Step all of them."""

        def advance(item: tuple[Any, np.ndarray]) -> None:
            env, actions = item
            for _ in range(steps):
                env.step(actions)

        list(self.pool.map(advance, zip(self.envs, self.actions, strict=True)))


class OnDevice:
    """So many worlds in MuJoCo Warp."""

    def __init__(self, preset: str, worlds: int, device: str) -> None:
        self.env = make_env("envs:warp/HalfCheetahVel-v0", preset, worlds, device=device)
        self.actions = torch.randn(worlds, 6, device=device)

    def run(self, steps: int) -> None:
        """Step all of them; returns before a GPU has done so."""
        for _ in range(steps):
            self.env.step(self.actions)


def make_env(name: str, preset: str, worlds: int, **kwargs: Any) -> Any:
    """A vector environment at the start of endless episodes."""
    endless = {"max_episode_steps": -1} | IDS[preset] | kwargs
    env = gym.make_vec(name, worlds, vectorization_mode="vector_entry_point", **endless)
    env.reset(seed=0)
    return env
