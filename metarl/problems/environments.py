"""Families of environments: found by id, checked, and made as vector environments."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from metarl.checks import conformance
from metarl.errors import foreign
from metarl.sampler import LoopVectorEnv

FAILURES = Exception, SystemExit
"""What a user's code may raise, and the run must not end by as if it were done."""


class UnusableEnvironmentError(Exception):
    """An environment that cannot be used for meta-learning; one sentence that says why."""


class _Counted(gym.Wrapper[Any, Any, Any, Any]):
    """Says how many values an environment returned, before one of Gymnasium's wrappers fails to unpack them."""

    def reset(self, **kwargs: Any) -> Any:
        return conformance.values(self.env.reset(**kwargs), "reset", 2)

    def step(self, action: Any) -> Any:
        return conformance.values(self.env.step(action), "step", 5)


class EnvironmentFamily:
    """One registered environment whose tasks differ; makes vector environments of it.

    The native vector form is used where it leaves ended slots idle (``AutoresetMode.DISABLED``) and
    knows tasks; otherwise single environments are stepped one by one.

    Where the physics is another than the CPU's, vector environments are of the form that is registered for it under
    the same name: ``warp/Name-v0`` for ``warp``. Its constructor takes ``device`` too, and it lives there, as
    :class:`metarl.resident.ResidentSampler` says. Tasks and single environments remain those of ``Name-v0``.

    Args:
        env: ``module:Name-v0``; importing the module registers it.
        env_kwargs: arguments of its constructor.
        horizon: episodes are truncated after so many steps.
        observe_task: policies shall see the task after the observation. The environments themselves
            never show it: the sampler appends it.
        physics: ``cpu``, or the name of another.
        device: where that one runs.

    Attributes:
        resident: vector environments live on ``device``.

    Raises:
        UnusableEnvironmentError: it is not there, or has no tasks, or actions that are not vectors.
    """

    def __init__(
        self,
        env: str,
        env_kwargs: Mapping[str, Any],
        horizon: int,
        observe_task: bool = False,
        physics: str = "cpu",
        device: str = "cpu",
    ) -> None:
        self.env, self.horizon, self.observe_task = env, horizon, observe_task
        self.resident, self._device = physics != "cpu", device
        self._arguments = dict(env_kwargs, max_episode_steps=horizon)
        self.native = self._find().vector_entry_point is not None
        self.example = self._make_example()
        if self.native and not self._leaves_ended_slots_idle():
            self.example.close()
            self.native = False
            self.example = self._make_example()
        self._check()
        self._resident_env = self._find_resident(physics) if self.resident else ""

    @property
    def obs_size(self) -> int:
        """O: what a policy sees, with the task where it is observed."""
        own = int(self.example.single_observation_space.shape[0])  # type: ignore[index]
        if not self.observe_task:
            return own
        return own + self.sample_tasks(1, np.random.default_rng(0)).shape[1]

    @property
    def action_size(self) -> int:
        """A."""
        return int(self.example.single_action_space.shape[0])  # type: ignore[index]

    def __call__(self, slots: int) -> VectorEnv[Any, Any, Any]:
        """A vector environment of so many slots.

        Raises:
            UnusableEnvironmentError: its constructor raised.
        """
        with self._making_named():
            if self.resident:
                return self._make_vector(self._resident_env, slots, device=self._device)
            return self._on_cpu(slots)

    def _on_cpu(self, slots: int) -> VectorEnv[Any, Any, Any]:
        if self.native:
            return self._make_vector(self.env, slots)
        return LoopVectorEnv([self.single() for _ in range(slots)])

    def _make_vector(self, env: str, slots: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        mode = "vector_entry_point"
        return gym.make_vec(env, slots, vectorization_mode=mode, **self._arguments, **kwargs)

    def single(self, **kwargs: Any) -> gym.Env[Any, Any]:
        """A single environment with a flat observation."""
        unlimited = dict(self._arguments, max_episode_steps=-1)  # the limit comes on top
        made: gym.Env[Any, Any] = gym.make(self.env, **unlimited, **kwargs)
        env: gym.Env[Any, Any] = gym.wrappers.TimeLimit(_Counted(made), self.horizon)
        space = env.observation_space
        flat = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
        return env if flat else gym.wrappers.FlattenObservation(env)

    def sample_tasks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``count`` tasks of the family, float64 ``[count, D]``.

        Raises:
            UnusableEnvironmentError: its own method raised, or returned something else.
        """
        try:
            tasks = np.asarray(self._family().sample_tasks(count, rng), dtype=np.float64)
        except FAILURES as error:
            raise UnusableEnvironmentError(
                f"{self.env}: sample_tasks({count}, rng) failed: {foreign(error)}"
            ) from error
        if tasks.ndim not in (1, 2) or len(tasks) != count or not np.isfinite(tasks).all():
            raise UnusableEnvironmentError(
                f"{self.env}: sample_tasks({count}, rng) must return {count} rows of finite numbers, "
                f"but returned an array of shape {tasks.shape}"
                + ("" if np.isfinite(tasks).all() else " with NaN or infinity in it")
            )
        return tasks.reshape(count, -1)

    def _family(self) -> Any:
        """What knows the tasks: the native vector environment, or a single one."""
        if isinstance(self.example, LoopVectorEnv):
            return self.example.envs[0].unwrapped
        return self.example.unwrapped

    def _find(self) -> gym.envs.registration.EnvSpec:
        module, _, name = self.env.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            return gym.spec(name)
        except FAILURES as error:
            raise UnusableEnvironmentError(
                f"problem.env is {self.env}, which cannot be found ({foreign(error)}); name it as "
                "<module that registers it>:<id>."
            ) from error

    def _find_resident(self, physics: str) -> str:
        """The id of the form for this physics, which can be imported."""
        module, _, name = self.env.rpartition(":")
        wanted = f"problem.physics is {physics}"
        try:
            form = gym.spec(f"{physics}/{name}")
        except gym.error.Error as error:
            raise UnusableEnvironmentError(
                f"{wanted}, but {self.env} has no form for it, registered as {physics}/{name}; "
                "leave problem.physics out"
            ) from error
        try:
            if isinstance(form.vector_entry_point, str):
                importlib.import_module(form.vector_entry_point.partition(":")[0])
        except ImportError as error:
            raise UnusableEnvironmentError(
                f"{wanted}, but what it needs is missing ({error}); pip install 'metarl-torch[gpu]', "
                "or leave problem.physics out"
            ) from error
        return f"{module}:{physics}/{name}" if module else f"{physics}/{name}"

    def _make_example(self) -> VectorEnv[Any, Any, Any]:
        with self._making_named():
            return self._on_cpu(1)

    @contextmanager
    def _making_named(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())
            raise UnusableEnvironmentError(
                f"{self.env}: cannot be made with {given}, from problem.env_kwargs and "
                f"problem.horizon: {foreign(error)}"
            ) from error

    def _leaves_ended_slots_idle(self) -> bool:
        mode = self.example.metadata.get("autoreset_mode")
        return mode == AutoresetMode.DISABLED and hasattr(self._family(), "sample_tasks")

    def _check(self) -> None:
        space = self.example.single_action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise UnusableEnvironmentError(
                f"{self.env}: its actions must be a vector, a Box of one axis, but are {space}"
            )
        for verb in ("sample_tasks", "set_task"):
            if not callable(getattr(self._family(), verb, None)):
                raise UnusableEnvironmentError(
                    f"{self.env}: it has no method {verb}; a family of tasks needs "
                    "sample_tasks(count, rng) and set_task(task)"
                )
        self.sample_tasks(2, np.random.default_rng(0))
