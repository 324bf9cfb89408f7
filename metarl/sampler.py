"""Sampling: one wave of whole episodes for every task, each task with a policy of its own.

All slots of a wave advance together: one batched forward of the M policies and one call of the vector environment
for each environment step. Tasks are shared out over Python threads, each with a vector environment and a policy batch
of its own; physics and matrix products release the interpreter's lock. No number depends on how many threads there
are: noise and seeds are drawn per task, before the tasks are shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from metarl.checks import conformance
from metarl.checks.failures import EnvironmentFailureError, Naming, name_of, with_task
from metarl.checks.nonfinite import check
from metarl.data import Params
from metarl.functional.tasks import Mapper, map_to_the_end, take
from metarl.seeding import Key


class StackedPolicy(Protocol):
    """M policies in one call."""

    def __call__(self, params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``(parameters [M, *shape], obs [M, B, O]) -> (mean [M, B, A], log_std [M, A])``."""
        ...


class Wave(NamedTuple):
    """One wave as it was sampled; the shapes are those of :class:`metarl.data.Episodes`."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    mean: Tensor
    log_std: Tensor


class LoopVectorEnv(VectorEnv[Any, Any, Any]):
    """Single environments behind the interface of a vector environment, for those without a native one.

    Slots are not reset by themselves: a slot whose episode has ended is not stepped again until the next ``reset``; it
    repeats its last observation, with reward 0. Gymnasium's SyncVectorEnv cannot leave a slot idle.

    Args:
        envs: one environment per slot, with Box spaces and, unwrapped, a method ``set_task``.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.envs = list(envs)
        self.num_envs, self.spec = len(self.envs), self.envs[0].spec
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._shape = conformance.shape_of(self.single_observation_space)
        self._obs = np.zeros((self.num_envs, *self._shape), dtype=np.float64)
        self._ended, self._step = np.ones((2, self.num_envs), dtype=bool), 0

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Set every slot's task, ``options["task"]`` ``[num_envs, D]``, and start its episode from ``seed[slot]``."""
        self._ended[:], self._step = False, 0
        for slot, env in enumerate(self.envs):
            task = None if options is None else options["task"][slot]
            with Naming(self, "reset", slot):
                if task is not None:
                    env.unwrapped.set_task(task)  # type: ignore[attr-defined]
                returned = env.reset(seed=None if seed is None else int(seed[slot]))
                self._obs[slot] = conformance.of_reset(returned, (), self._shape)
        return self._obs.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the slots whose episode has not ended, with actions clipped to the action space."""
        rewards = np.zeros(self.num_envs)
        space = self.single_action_space
        clipped = np.clip(actions, space.low, space.high).astype(space.dtype)  # type: ignore[attr-defined]
        for slot, env in enumerate(self.envs):
            if not self._ended[:, slot].any():
                with Naming(self, f"step {self._step}", slot):
                    found = conformance.of_step(env.step(clipped[slot]), (), self._shape)
                    self._obs[slot], rewards[slot], *ended = found
                    self._ended[:, slot] = ended
        self._step += 1
        return self._obs.copy(), rewards, *self._ended.copy(), {}

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


class Sampler:
    """Samples waves of a fixed number of tasks and episodes.

    Args:
        make_env: makes a vector environment of so many slots, AutoresetMode.DISABLED.
        tasks: M, tasks in a wave.
        episodes: N, episodes of each task.
        horizon: T, most steps of an episode.
        policy: acts for M tasks at once.
        threads: the tasks are shared out over at most so many vector environments.
        mapper: maps over those; a thread pool's map runs them side by side.
        device: where the policies act and the wave is kept.
        observe_task: policies see ``[observation, task]``, and the wave keeps what they see.
    """

    def __init__(
        self,
        make_env: Callable[[int], VectorEnv[Any, Any, Any]],
        tasks: int,
        episodes: int,
        horizon: int,
        policy: StackedPolicy,
        threads: int = 1,
        mapper: Mapper = map,
        device: torch.device | str = "cpu",
        observe_task: bool = False,
    ) -> None:
        self.episodes, self.horizon = episodes, horizon
        self.policy, self.mapper, self.device = policy, mapper, torch.device(device)
        self.observe_task = observe_task
        bounds = np.linspace(0, tasks, min(threads, tasks) + 1).astype(int)
        self.shares = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        self.envs = [make_env((part.stop - part.start) * episodes) for part in self.shares]
        self._stopped = False

    def stop(self) -> None:
        """Let waves that other threads still sample end at their next step: nobody waits for them."""
        self._stopped = True

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
            Naming.forget(env)

    def wave(self, params: Params, tasks: np.ndarray, key: Key, step: int, first: int = 0) -> Wave:
        """Sample N whole episodes of each task.

        Args:
            params: one parameter set per task, ``[M, *shape]``.
            tasks: ``[M, D]``.
            key: names the random numbers, together with ``step``.
            step: inner step; the same key and step give the same wave.
            first: row of the meta-batch that ``tasks`` begin with.

        Returns:
            The wave; steps after an episode's end are zero and masked.

        Raises:
            EnvironmentFailureError: an environment raised, or gave what does not fit its spaces.
            NonFiniteError: a reward, observation or action is not finite, or an environment raised a
                FloatingPointError, which says that its numbers broke down.
        """
        generators = [key.generator(first + row, step) for row in range(len(tasks))]
        seeds = np.stack([rng.integers(2**31, size=self.episodes) for rng in generators])
        told = tasks.shape[1] if self.observe_task else 0
        wave = self._new_wave(generators, next(iter(params.values())).dtype, told)
        place = f"{name_of(self.envs[0])}, gradient step {step}"

        def sample(item: tuple[slice, VectorEnv[Any, Any, Any]]) -> None:
            part, env = item
            begin = first + part.start
            check_own = partial(check, tasks=tasks[part], place=place, first=begin)
            own = take(params, part), tasks[part], seeds[part], take(wave, part)
            try:
                self._sample_share(env, *own, check_own)
            except EnvironmentFailureError as error:
                raise with_task(error, tasks[part], begin, self.episodes) from error.__cause__

        # Where it fails, no thread may go on: the next wave steps the same environments.
        map_to_the_end(self.mapper, sample, zip(self.shares, self.envs, strict=True))
        check(_numbers(wave), tasks, place, first)
        return wave

    def _new_wave(
        self, generators: Sequence[np.random.Generator], dtype: torch.dtype, told: int
    ) -> Wave:
        """Arrays of zeros, but for ``actions``: they hold the noise, N(0, 1).

        Args:
            generators: one per task.
            dtype: of the policies.
            told: numbers that policies see after the observation.
        """
        obs_shape = conformance.shape_of(self.envs[0].single_observation_space)
        action_shape = conformance.shape_of(self.envs[0].single_action_space)
        shape = (self.episodes, self.horizon, *action_shape)
        noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in generators])

        def zeros(*size: int) -> Tensor:
            return torch.zeros(len(generators), *size, dtype=dtype, device=self.device)

        return Wave(
            obs=zeros(self.episodes, self.horizon, obs_shape[0] + told),
            actions=torch.from_numpy(noise).to(self.device, dtype),
            rewards=zeros(self.episodes, self.horizon),
            mask=zeros(self.episodes, self.horizon),
            mean=zeros(*shape),
            log_std=zeros(*action_shape),
        )

    @torch.no_grad()
    def _sample_share(
        self,
        env: VectorEnv[Any, Any, Any],
        params: Params,
        tasks: np.ndarray,
        seeds: np.ndarray,
        wave: Wave,
        check_own: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        """Fill one thread's part of the wave; ``check_own`` raises if what it is given is not finite."""
        slots = len(tasks) * self.episodes
        shape = conformance.shape_of(env.single_observation_space)
        params = by_columns(params)
        options = {"task": np.repeat(tasks, self.episodes, axis=0)}
        with Naming(env, "reset"):
            returned = env.reset(seed=seeds.reshape(-1).tolist(), options=options)  # type: ignore[arg-type]
            obs = conformance.of_reset(returned, (slots,), shape)
        told = torch.from_numpy(tasks).to(self.device, wave.obs.dtype)
        active = np.ones(slots, dtype=bool)
        rewards = np.zeros((self.horizon, slots))
        mask = np.zeros((self.horizon, slots), dtype=bool)
        for t in range(self.horizon):
            if self._stopped:
                return
            seen = torch.from_numpy(obs).to(self.device, wave.obs.dtype)
            action, log_std = self._act(params, seen, told, wave, t)
            sent = action.cpu().numpy()
            if not np.isfinite(sent).all():
                check_own(_numbers(wave))
            with Naming(env, f"step {t}"):
                found = conformance.of_step(env.step(sent), (slots,), shape)
            obs, reward, terminated, truncated = found
            rewards[t], mask[t] = reward, active
            active &= ~(terminated | truncated)
            if not active.any():
                break
        last = torch.from_numpy(obs).to(self.device, wave.obs.dtype)
        if not last.isfinite().all():  # no policy sees it, but the simulation has broken down
            after = wave.obs.new_zeros(len(tasks), self.episodes, t + 2, *shape)
            after[:, :, -1] = last.view(after[:, :, -1].shape)
            check_own({"obs": after})
        wave.log_std.copy_(log_std)
        for kept, values in ((wave.mask, mask), (wave.rewards, rewards * mask)):
            kept.copy_(torch.from_numpy(values).T.view(kept.shape))
        if not mask.all():
            for kept in (wave.obs, wave.actions, wave.mean):
                kept.mul_(wave.mask.unsqueeze(-1))

    def _act(
        self, params: Params, obs: Tensor, told: Tensor, wave: Wave, t: int
    ) -> tuple[Tensor, Tensor]:
        """Let the policies act, and keep what they saw and did.

        Args:
            params: of the M tasks, ``[M, *shape]``.
            obs: ``[M · N, O]``.
            told: tasks, ``[M, D]``.
            wave: its actions at ``t`` are noise yet.
            t: which step.

        Returns:
            Actions ``[M · N, A]`` and log standard deviation ``[M, A]``.
        """
        seen = obs.view(len(told), self.episodes, -1)
        if self.observe_task:
            seen = torch.cat([seen, told[:, None].expand(-1, self.episodes, -1)], dim=-1)
        mean, log_std = self.policy(params, seen)
        action = torch.addcmul(mean, wave.actions[:, :, t], log_std.exp().unsqueeze(1))
        wave.obs[:, :, t], wave.mean[:, :, t], wave.actions[:, :, t] = seen, mean, action
        return action.flatten(0, 1), log_std


def by_columns(params: Params) -> Params:
    """Matrices ``[M, out, in]`` stored column by column: a layer multiplies by their transposes, at every step."""
    return {
        name: value.mT.contiguous().mT if value.ndim == 3 else value
        for name, value in params.items()
    }


def _numbers(wave: Wave) -> dict[str, Tensor]:
    return {"obs": wave.obs, "actions": wave.actions, "rewards": wave.rewards}
