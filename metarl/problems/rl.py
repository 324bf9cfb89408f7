"""Meta-reinforcement learning on a family of Gymnasium environments that differ in their task."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from metarl.data import Episodes, Meta, MetaBatch, Params
from metarl.functional import baseline, closed_form, gaussian, objectives, returns
from metarl.functional.adapt import inner_step
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.gaussian_mlp import Architecture, policy_gradient
from metarl.functional.objectives import InnerUpdate, Objective, TaskObjective
from metarl.functional.params import descend, flatten, for_tasks
from metarl.functional.tasks import Mapper, chunks, over_tasks, take
from metarl.nets.gaussian_mlp import Activation, GaussianMLP
from metarl.problems.protocol import Variant
from metarl.sampler import LoopVectorEnv, Sampler, Wave
from metarl.seeding import Key


class EnvironmentError_(Exception):
    """An environment that cannot be used for meta-learning; the message says why."""


class Collected(NamedTuple):
    """One processed wave: the episodes, and per task the mean return and the baseline's explained variance, ``[M]``."""

    episodes: Episodes
    returns: Tensor
    explained_variance: Tensor


class EnvironmentFactory:
    """Makes vector environments of one id: the native form where there is one that can be used, else a loop.

    Args:
        env: ``module:Name-v0``.
        env_kwargs: arguments of its constructor.
        horizon: episodes are truncated after so many steps.
    """

    def __init__(self, env: str, env_kwargs: dict[str, Any], horizon: int) -> None:
        self.env, self.env_kwargs, self.horizon = env, env_kwargs, horizon
        self.native = True
        first = self(1)
        native_modes = first.metadata.get("autoreset_mode"), hasattr(first.unwrapped, "sample_tasks")
        if native_modes != (AutoresetMode.DISABLED, True):
            first.close()
            self.native = False
            first = self(1)
        self.first = first
        self._check()

    def __call__(self, slots: int) -> VectorEnv[Any, Any, Any]:
        """A vector environment of so many slots."""
        spec = self._spec()
        arguments = dict(self.env_kwargs, max_episode_steps=self.horizon)
        if self.native and spec.vector_entry_point is not None:
            return gym.make_vec(self.env, slots, vectorization_mode="vector_entry_point", **arguments)
        self.native = False
        return LoopVectorEnv([self._single(arguments) for _ in range(slots)])

    def sample_tasks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` tasks of the family, ``[count, D]``."""
        source: Any = self.first if self.native else self.first.envs[0].unwrapped  # type: ignore[attr-defined]
        tasks = np.asarray(source.unwrapped.sample_tasks(count, rng), dtype=np.float64)
        return tasks.reshape(count, -1)

    def single(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """A single environment, for pictures of it."""
        return self._single(dict(self.env_kwargs, max_episode_steps=self.horizon, **kwargs))

    def _single(self, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
        env = gym.make(self.env, **arguments)
        box = isinstance(env.observation_space, gym.spaces.Box) and len(env.observation_space.shape) == 1
        return env if box else gym.wrappers.FlattenObservation(env)

    def _spec(self) -> gym.envs.registration.EnvSpec:
        try:
            module, _, name = self.env.partition(":")
            __import__(module)
            return gym.spec(name)
        except (ImportError, gym.error.Error) as error:
            raise EnvironmentError_(f"problem.env is {self.env}, which cannot be found: {error}") from error

    def _check(self) -> None:
        space = self.first.single_action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise EnvironmentError_(f"{self.env}: its actions must be a vector (a Box of one axis), not {space}")
        single: Any = self.first if self.native else self.first.envs[0].unwrapped  # type: ignore[attr-defined]
        for verb in ("sample_tasks", "set_task"):
            if not callable(getattr(single, verb, None)):
                raise EnvironmentError_(
                    f"{self.env}: it has no method {verb}; a family of tasks needs sample_tasks(count, rng) "
                    "and set_task(task)"
                )


class RLProblem:
    """Meta-reinforcement learning: policy-gradient inner steps, a linear baseline, fresh episodes at every step.

    Args:
        env: ``module:Name-v0``.
        env_kwargs: arguments of its constructor.
        horizon: T.
        episodes: N, episodes per task and wave.
        discount: γ.
        gae_lambda: λ.
        hidden_sizes: of the policy.
        activation: of the policy.
        initial_std: of the policy.
        min_std: of the policy.
        inner_steps: K.
        inner: the inner update.
        estimator: of the inner loss.
        learn_rates: learn one rate per parameter, from ``inner.lr`` (Meta-SGD).
        curvature: ``closed_form``, ``autograd`` or ``auto``: the closed form where it applies.
        device: of policies and updates.
        threads: Python threads that share the tasks.
    """

    measure = "return"

    def __init__(
        self,
        env: str,
        env_kwargs: dict[str, Any],
        horizon: int,
        episodes: int,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        inner_steps: int = 1,
        inner: InnerUpdate = InnerUpdate(0.1),
        estimator: str = "lvc",
        learn_rates: bool = False,
        curvature: str = "auto",
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.horizon, self.episodes, self.discount, self.gae_lambda = horizon, episodes, discount, gae_lambda
        self.inner_steps, self.inner, self.learn_rates = inner_steps, inner, learn_rates
        self.estimator, self.device, self.threads = ESTIMATORS[estimator], torch.device(device), threads
        self.environments = EnvironmentFactory(env, env_kwargs, horizon)
        self.make_policy = lambda generator: GaussianMLP(
            self.environments.first.single_observation_space.shape[0],  # type: ignore[index]
            self.environments.first.single_action_space.shape[0],  # type: ignore[index]
            hidden_sizes,
            activation,
            initial_std,
            min_std,
            generator,
        )
        self.policy = self.make_policy(torch.Generator())
        self.arch = Architecture(len(hidden_sizes) + 1, activation, self.policy.min_log_std)
        self.closed_form = curvature != "autograd" and not learn_rates
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.mapper: Mapper = self.pool.map if self.pool else map
        self._samplers: dict[tuple[int, int], Sampler] = {}

    def initial_meta(self, rng: np.random.Generator) -> Meta:
        """Xavier-uniform weights, zero biases, and the constant rate everywhere if rates are learned."""
        policy = self.make_policy(torch.Generator().manual_seed(int(rng.integers(2**62))))
        theta = {name: value.detach().to(self.device) for name, value in policy.named_parameters()}
        rates = {name: torch.full_like(value, self.inner.lr) for name, value in theta.items()}
        return Meta(theta, rates if self.learn_rates else {})

    def sample_tasks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` tasks, ``[count, D]``."""
        return self.environments.sample_tasks(count, rng)

    def collect(self, meta: Meta, tasks: np.ndarray, key: Key) -> tuple[MetaBatch, dict[str, float]]:
        """K waves of support episodes with adaptation after each, then the query episodes."""
        params = _own(for_tasks(meta.theta, len(tasks)))
        waves: list[Collected] = []
        norms = []
        for step in range(self.inner_steps + 1):
            waves.append(self.wave(params, tasks, key, step, self.episodes))
            if step < self.inner_steps:
                before, params = params, self.adapt(params, waves[-1].episodes, self.inner.rates(meta))
                norms.append((flatten(params, 1) - flatten(before, 1)).norm(dim=1).mean())
        batch = MetaBatch(tuple(wave.episodes for wave in waves[:-1]), waves[-1].episodes)
        return batch, self._metrics(waves, norms)

    def wave(self, params: Params, tasks: np.ndarray, key: Key, step: int, episodes: int) -> Collected:
        """Sample a wave, fit each task's baseline, and compute advantages.

        Args:
            params: one policy per task, ``[M, *shape]``.
            tasks: ``[M, D]``.
            key: names the random numbers, with ``step``.
            step: inner step.
            episodes: N.
        """
        return self._process(self._sampler(len(tasks), episodes).wave(params, tasks, key, step))

    def adapt(self, params: Params, episodes: Episodes, rates: float | Params) -> Params:
        """One inner step of every task, without derivatives: ``[M, *shape] -> [M, *shape]``."""

        def step(part: slice) -> Params:
            chosen, data = take(params, part), take(episodes, part)
            if self.closed_form:
                return descend(chosen, policy_gradient(self.arch, chosen, data)[0], rates)
            loss = objectives.inner_loss(self._policy, self.estimator)
            return over_tasks(lambda p, e: inner_step(p, e, loss, rates), chosen, data, strategy="loop")

        with torch.no_grad():
            results = list(self.mapper(step, chunks(len(episodes.mask), self._chunk(len(episodes.mask)))))
        return {name: torch.cat([result[name] for result in results]) for name in params}

    def objective(self, meta: Meta, batch: MetaBatch, variant: Variant) -> Objective:
        """The outer objective of ``variant``; in closed form where that exists."""
        chunk = self._chunk(len(batch.query.mask))  # type: ignore[union-attr]
        if self.closed_form and variant == Variant():
            return closed_form.objective(
                self.arch, self.estimator, self.inner, batch, meta.theta, self.mapper, chunk
            )
        return objectives.by_autograd(self._task_objective(variant), batch, meta, self.mapper)

    def adaptation_curve(
        self, meta: Meta, tasks: np.ndarray, rates: tuple[float, ...] | None, episodes: int | None, key: Key
    ) -> np.ndarray:
        """Mean undiscounted return of each task after 0, 1, ... gradient steps, fresh episodes at each.

        Args:
            meta: what was learned.
            tasks: held-out tasks ``[M, D]``.
            rates: α of each step; None: the learned rates, at K steps.
            episodes: N; None: as in training.
            key: names the random numbers.

        Returns:
            ``[steps + 1, M]``.
        """
        schedule: Sequence[float | Params] = [meta.rates] * self.inner_steps if rates is None else rates
        params, curve = _own(for_tasks(meta.theta, len(tasks))), []
        for step in range(len(schedule) + 1):
            collected = self.wave(params, tasks, key, step, episodes or self.episodes)
            curve.append(collected.returns.cpu().double().numpy())
            if step < len(schedule):
                params = self.adapt(params, collected.episodes, schedule[step])
        return np.stack(curve)

    def close(self) -> None:
        """Close the environments and end the threads."""
        for sampler in self._samplers.values():
            for env in sampler.envs:
                env.close()
        self.environments.first.close()
        if self.pool:
            self.pool.shutdown()

    def _policy(self, params: Params, obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(self.policy, params, (obs,))

    def _task_objective(self, variant: Variant) -> TaskObjective:
        if variant.clip is not None:
            return objectives.clipped_surrogate(
                self._policy, self.estimator, self.inner, variant.clip, variant.kl_coefficient
            )
        if variant.exploration:
            return objectives.exploring_surrogate(self._policy, self.estimator, self.inner, variant.exploration)
        return objectives.surrogate(self._policy, self.estimator, self.inner)

    def _chunk(self, tasks: int) -> int:
        return 1 if self.device.type == "cpu" else tasks

    def _sampler(self, tasks: int, episodes: int) -> Sampler:
        if (tasks, episodes) not in self._samplers:
            self._samplers[tasks, episodes] = Sampler(
                self.environments,
                tasks,
                episodes,
                self.horizon,
                self.policy.stacked,
                self.threads,
                self.mapper,
                self.device,
            )
        return self._samplers[tasks, episodes]

    @torch.no_grad()
    def _process(self, wave: Wave) -> Collected:
        to_go = returns.discounted_sums(wave.rewards, self.discount)

        def value(part: slice) -> Tensor:
            inputs = baseline.features(wave.obs[part])
            fitted = baseline.fit(inputs, to_go[part], wave.mask[part])
            return baseline.predict(fitted, inputs).to(wave.obs.dtype)

        count = len(wave.mask)
        values = torch.cat(list(self.mapper(value, chunks(count, self._chunk(count))))) * wave.mask
        raw = returns.advantages(wave.rewards, values, wave.mask, self.discount, self.gae_lambda)
        advantages, mean, std = returns.standardise(raw, wave.mask)
        return Collected(
            Episodes(
                obs=wave.obs,
                actions=wave.actions,
                rewards=wave.rewards,
                mask=wave.mask,
                advantages=advantages,
                values=(values + mean) / std * wave.mask,
                mean=wave.mean,
                log_std=wave.log_std,
            ),
            wave.rewards.sum(-1).mean(-1),
            baseline.explained_variance(values, to_go, wave.mask),
        )

    def _metrics(self, waves: list[Collected], norms: list[Tensor]) -> dict[str, float]:
        pre, post = float(waves[0].returns.mean()), float(waves[-1].returns.mean())
        log_std = waves[0].episodes.log_std
        return {
            "return/pre": pre,
            "return/post": post,
            "return/gain": post - pre,
            "inner/step_norm": float(sum(norms)) / max(len(norms), 1),
            "policy/std": float(log_std.exp().mean()),
            "policy/entropy": float(gaussian.entropy(log_std).mean()),
            "baseline/explained_variance": float(torch.stack([w.explained_variance for w in waves]).mean()),
            "env_steps": float(sum(w.episodes.mask.sum() for w in waves)),
        }


def _own(params: Params) -> Params:
    """Memory of their own for parameters that are views: batched products then need no copies."""
    return {name: value.contiguous() for name, value in params.items()}
