"""Sampling as published implementations do it: worker processes, each with Gymnasium's SyncVectorEnv.

A worker takes a task, samples its support episodes, adapts by autograd, samples its query episodes with the adapted
policy, fits the baselines, and sends everything back. Tasks are dealt out to the workers evenly.
"""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.data import Episodes, MetaBatch, Params
from metarl.functional import baseline, returns
from metarl.schema import Config
from published.cheetah import GoalVelocityCheetah, quiet_stock_model
from published.update import act, mean


class Worker:
    """One process's environments.

    Args:
        settings: the configuration; one inner step.
    """

    def __init__(self, settings: Config) -> None:
        problem = settings.problem
        self.settings, self.horizon = settings, problem.horizon
        make = partial(GoalVelocityCheetah, problem.env_kwargs["preset"])
        self.envs = gym.vector.SyncVectorEnv([make] * problem.episodes)

    def task(self, theta: Params, task: np.ndarray, seed: int) -> tuple[Episodes, Episodes]:
        """Support and query episodes of one task, without a task axis."""
        noise = torch.Generator().manual_seed(seed)
        support = self.sample(theta, task, seed, noise)
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        log_prob = self.act(leaves, support.obs).log_prob(support.actions)
        loss = -mean(log_prob * support.advantages, support.mask)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        lr = self.settings.inner.lr
        params = {
            name: value - lr * slope
            for (name, value), slope in zip(theta.items(), slopes, strict=True)
        }
        return support, self.sample(params, task, seed + 1, noise)

    def act(self, params: Params, obs: Tensor) -> Any:
        network = self.settings.network
        return act(params, obs, network.activation, float(np.log(network.min_std)))

    @torch.no_grad()
    def sample(
        self, params: Params, task: np.ndarray, seed: int, noise: torch.Generator
    ) -> Episodes:
        """N episodes; none of the half-cheetah's ends before the horizon."""
        seen, _ = self.envs.reset(seed=seed, options={"task": task})
        steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(self.horizon):
            obs = torch.from_numpy(seen).float()
            chosen = self.act(params, obs).base_dist
            drawn = torch.randn(chosen.loc.shape, generator=noise)
            action = chosen.loc + chosen.scale * drawn
            seen, reward, _, _, _ = self.envs.step(action.clamp(-1.0, 1.0).numpy())
            steps.append((obs, action, torch.from_numpy(reward).float(), chosen.loc))
        obs, actions, rewards, means = (
            torch.stack(part, dim=1) for part in zip(*steps, strict=True)
        )
        return self.credit(obs, actions, rewards, means, params["log_std"])

    def credit(
        self, obs: Tensor, actions: Tensor, rewards: Tensor, means: Tensor, log_std: Tensor
    ) -> Episodes:
        """The baseline and the advantages, as ours."""
        problem, mask = self.settings.problem, torch.ones_like(rewards)
        inputs = baseline.features(obs).unsqueeze(0)
        to_go = returns.discounted_sums(rewards, problem.discount).unsqueeze(0)
        weights = baseline.fit(inputs, to_go, mask.unsqueeze(0))
        values = baseline.predict(weights, inputs).float()
        raw = returns.advantages(
            rewards.unsqueeze(0), values, mask.unsqueeze(0), problem.discount, problem.gae_lambda
        )
        advantages, shift, scale = returns.standardise(raw, mask.unsqueeze(0))
        scaled = (values + shift) / scale
        return Episodes(obs, actions, rewards, mask, advantages[0], scaled[0], means, log_std)


def serve(connection: Connection, settings: Config) -> None:
    """A worker's life: tasks in, episodes and CPU-seconds out, until it is told to end."""
    torch.set_num_threads(1)
    quiet_stock_model()
    worker = Worker(settings)
    connection.send("ready")
    while (request := connection.recv()) is not None:
        began = time.process_time()
        theta, tasks, seeds = request
        params = {name: torch.from_numpy(value) for name, value in theta.items()}
        found = [worker.task(params, *each) for each in zip(tasks, seeds, strict=True)]
        arrays = pytree.tree_map(lambda leaf: leaf.numpy(), found)
        connection.send((arrays, time.process_time() - began))


class Workers:
    """The worker processes, from the side of the learner."""

    def __init__(self, settings: Config, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, settings), daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)
        for connection in self.connections:
            connection.recv()

    def collect(
        self, theta: Params, tasks: np.ndarray, seed: int
    ) -> tuple[MetaBatch[Episodes], float]:
        """The data of one meta-iteration, and the CPU-seconds that the workers spent on it."""
        shares = np.array_split(np.arange(len(tasks)), len(self.connections))
        sent = {name: value.numpy() for name, value in theta.items()}
        for connection, share in zip(self.connections, shares, strict=True):
            connection.send((sent, tasks[share], [seed + 2 * int(task) for task in share]))
        found, spent = [], 0.0
        for connection in self.connections:
            episodes, seconds = connection.recv()
            found += episodes
            spent += seconds
        supports, queries = zip(*found, strict=True)
        return MetaBatch((_stack(supports),), _stack(queries)), spent

    def close(self) -> None:
        """End the processes."""
        for connection, process in zip(self.connections, self.processes, strict=True):
            connection.send(None)
            process.join()


def _stack(items: tuple[Any, ...]) -> Any:
    return pytree.tree_map(lambda *leaves: torch.from_numpy(np.stack(leaves)), *items)
