"""What many tests build on: tiny policies, random episodes, and an environment solved on paper."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from oracles import plain_policy_gradient
from torch import Tensor, nn

from metarl.data import Episodes, Meta, MetaBatch, Params
from metarl.functional.adapt import InnerUpdate
from metarl.functional.layered import Architecture
from metarl.nets.gaussian_mlp import GaussianMLP
from metarl.problems.credit import Sampling
from metarl.problems.environments import EnvironmentFamily
from metarl.problems.protocol import LearnRates, Problem
from metarl.problems.rl import Adaptation, RLProblem
from metarl.seeding import Key, Stream, generator

DOUBLE = torch.float64
Module = TypeVar("Module", bound=nn.Module)
ESTIMATOR_NAMES = ("reinforce", "lvc", "dice", "loaded_dice")


def random_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=random_generator(seed), dtype=DOUBLE)


def perturbed(module: Module, scale: float, seed: int = 0) -> Module:
    """The module in float64, moved so that none of its parameters is zero or equal to another."""
    module = module.double().requires_grad_(False)
    for index, value in enumerate(module.parameters()):
        value.add_(scale * normal(1000 * seed + index, *value.shape))
    return module


def make_policy(
    activation: str = "tanh",
    sizes: tuple[int, ...] = (3, 5, 4, 2),
    min_std: float = 1e-6,
    seed: int = 0,
) -> GaussianMLP:
    """A float64 policy none of whose parameters is zero or equal to another."""
    policy = GaussianMLP(
        sizes[0], sizes[-1], sizes[1:-1], activation, 1.0, min_std, random_generator(seed)
    )
    return perturbed(policy, 0.2, seed)


def theta_of(module: nn.Module) -> Params:
    return {name: value.clone() for name, value in module.named_parameters()}


def architecture(policy: GaussianMLP) -> Architecture:
    return Architecture(len(policy.layers), policy.activation, policy.min_log_std)


def as_function(policy: GaussianMLP):
    """``(parameters, obs) -> (mean, log_std)`` of one task."""
    return lambda params, obs: torch.func.functional_call(policy, params, (obs,))


def pure(policy: GaussianMLP):
    """The same without a module: `functional_call` swaps a module's tensors while it runs, which
    threads that share the module see.
    """

    def forward(params, obs):
        single = {name: value.unsqueeze(0) for name, value in params.items()}
        mean, log_std = policy.stacked(single, obs.flatten(0, -2).unsqueeze(0))
        return mean[0].unflatten(0, obs.shape[:-1]), log_std[0]

    return forward


def early_ends(episodes: int, horizon: int, seed: int) -> Tensor:
    """A mask ``[N, T]`` of episodes of 1 to T steps, not all of them whole."""
    lengths = torch.randint(1, horizon + 1, (episodes,), generator=random_generator(seed))
    lengths[0] = horizon
    lengths[-1] = (horizon + 1) // 2
    return (torch.arange(horizon) < lengths[:, None]).to(DOUBLE)


def sample_episodes(
    policy: GaussianMLP, params: Params, episodes: int, horizon: int, seed: int
) -> Episodes:
    """Episodes of one task, on-policy at ``params``: random advantages, early ends, no task axis."""
    obs_size = policy.layers[0].in_features
    mask = early_ends(episodes, horizon, seed)
    obs = normal(seed + 1, episodes, horizon, obs_size) * mask[..., None]
    mean, log_std = as_function(policy)(params, obs)
    actions = mean + log_std.exp() * normal(seed + 2, *mean.shape)
    return Episodes(
        obs=obs,
        actions=actions * mask[..., None],
        rewards=normal(seed + 3, episodes, horizon) * mask,
        mask=mask,
        advantages=normal(seed + 4, episodes, horizon) * mask,
        values=normal(seed + 5, episodes, horizon) * mask,
        mean=mean * mask[..., None],
        log_std=log_std,
    )


def stack(items: list[Any]) -> Any:
    """Stack the tensors of equal trees along a new task axis."""
    return torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *items)


def sample_batch(
    policy: GaussianMLP,
    theta: Params,
    steps: int,
    lr: float,
    tasks: int = 3,
    episodes: int = 3,
    horizon: int = 4,
    seed: int = 7,
) -> MetaBatch:
    """A meta-batch as collecting gives it: support[k] is on-policy for k-times adapted parameters."""
    rows = []
    for task in range(tasks):
        params, waves = theta, []
        for step in range(steps + 1):
            waves.append(
                sample_episodes(policy, params, episodes, horizon, seed + 100 * task + 10 * step)
            )
            gradient = plain_policy_gradient(policy, params, waves[-1])
            params = {name: value - lr * gradient[name] for name, value in params.items()}
        rows.append(MetaBatch(tuple(waves[:-1]), waves[-1]))
    return stack(rows)


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """|actual − expected| ≤ tolerance · max(1, |expected|), both taken as float64."""
    actual, expected = (
        torch.as_tensor(value, dtype=DOUBLE).detach() for value in (actual, expected)
    )
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    error = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert error <= tolerance * scale, f"off by {error:.3e}, scale {scale:.3e}"


class TargetEnv(gym.Env):
    """The task is a target action: reward −‖a − task‖², observation always 1.

    With a policy N(μ, σ²) and T steps the expected return is −T Σ(σ² + (μ − task)²); without
    adaptation the best mean is the mean task, and with the target known the best return is 0.

    Args:
        size: of the action and of the task.
        spread: tasks are uniform in ±spread.
        bound: of the action space.
        random_end: episodes end after a number of steps drawn at reset, 1 to 6.
        ends: by which flag they do: terminated, truncated or both.
        fault: what goes wrong at step ``fault_step`` where task[0] > 0.5: raise, long (raises with 3,000 characters on
            many lines), exit (as if the process were done), broken (a FloatingPointError), a key of ``ODD``.
            Where task[0] > 0.5 at reset: reset (raises). At every step and task: constant (reward).
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        size: int = 1,
        spread: float = 1.0,
        bound: float = 100.0,
        random_end: bool = False,
        ends: str = "terminated",
        fault: str = "",
        fault_step: int = 2,
    ) -> None:
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float64)
        self.action_space = gym.spaces.Box(-bound, bound, (size,), np.float64)
        self.spread, self.random_end, self.ends = spread, random_end, ends
        self.fault, self.fault_step = fault, fault_step
        self.task = np.zeros(size)
        self.actions: list[np.ndarray] = []
        self.length = 0
        self.ended = True

    def sample_tasks(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-self.spread, self.spread, (count, len(self.task)))

    def set_task(self, task: np.ndarray) -> None:
        self.task = np.array(task, dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if self.fault == "reset" and self.task[0] > 0.5:
            raise ZeroDivisionError("the motor does not start")
        self.actions, self.ended = [], False
        self.length = int(self.np_random.integers(1, 7)) if self.random_end else 0
        return np.ones(1), {}

    def step(self, action: np.ndarray):
        assert not self.ended, "stepped after the end"
        self.actions.append(np.array(action))
        self.ended = len(self.actions) == self.length
        flags = [self.ended and self.ends in (name, "both") for name in ("terminated", "truncated")]
        reward = -float(np.square(action - self.task).sum())
        returned = (np.ones(1), 1.0 if self.fault == "constant" else reward, *flags, {})
        if self.task[0] > 0.5 and len(self.actions) == self.fault_step + 1:
            return self.fail(*returned)
        return returned

    def fail(self, *returned):
        if self.fault == "raise":
            raise ZeroDivisionError("the motor is on fire")
        if self.fault == "long":
            raise ZeroDivisionError("the motor\nis on fire\r\n" + 100 * ("and " + 26 * "x"))
        if self.fault == "exit":
            sys.exit(0)
        if self.fault == "broken":
            raise FloatingPointError("the motor is at infinity")
        return ODD[self.fault](*returned) if self.fault in ODD else returned


ODD = {
    "nan_reward": lambda obs, _, *rest: (obs, np.nan, *rest),
    "inf_reward": lambda obs, _, *rest: (obs, -np.inf, *rest),
    "huge_reward": lambda obs, _, *rest: (obs, 1e30, *rest),
    "vector_reward": lambda obs, _, *rest: (obs, np.ones(2), *rest),
    "text_reward": lambda obs, _, *rest: (obs, "3.5", *rest),
    "nan_obs": lambda _, *rest: (np.full(1, np.nan), *rest),
    "inf_obs": lambda _, *rest: (np.full(1, np.inf), *rest),
    "shape": lambda _, *rest: (np.ones(2), *rest),
    "no_obs": lambda _, *rest: (None, *rest),
    "complex_obs": lambda obs, *rest: (obs + 1j, *rest),
    "text_flag": lambda obs, reward, _, *rest: (obs, reward, "False", *rest),
    "no_flag": lambda obs, reward, _, *rest: (obs, reward, None, *rest),
    "old_api": lambda obs, reward, ended, _, info: (obs, reward, ended, info),
    "nothing": lambda *_: None,
}
"""What an environment can return that it should not, by its name as a fault."""


def target_return(mean: Any, std: Any, task: Any, horizon: int) -> np.ndarray:
    """Expected return of N(mean, std²) in TargetEnv, summed over the last axis."""
    mean, std, task = (np.asarray(value, dtype=np.float64) for value in (mean, std, task))
    return -horizon * (std**2 + (mean - task) ** 2).sum(-1)


gym.register(id="Target-v0", entry_point="support:TargetEnv")

KEY = Key(3, Stream.TRAIN_DATA, 5)


def target_problem(
    env: dict[str, Any] | None = None,
    horizon: int = 4,
    episodes: int = 5,
    hidden: tuple[int, ...] = (4,),
    std: float = 1.0,
    make_policy: Any = None,
    discount: float = 0.99,
    steps: int = 1,
    lr: float = 0.1,
    first_order: bool = False,
    second_order_from: int = 0,
    estimator: str = "lvc",
    learn_rates: LearnRates = False,
    observe_task: bool = False,
    **settings: Any,
) -> RLProblem:
    """Meta-learning of target actions; ``settings`` go to RLProblem."""
    policy = lambda o, a, g: GaussianMLP(o, a, hidden, "tanh", std, generator=g)  # noqa: E731
    update = InnerUpdate(lr, first_order, second_order_from=second_order_from)
    return RLProblem(
        EnvironmentFamily("support:Target-v0", env or {}, horizon, observe_task),
        make_policy or policy,
        Sampling(episodes, discount),
        Adaptation(steps, update, estimator, learn_rates),
        **settings,
    )


def initial_meta(problem: Problem, seed: int = 1) -> Meta:
    """The meta-parameters that training of that seed begins with."""
    return problem.initial_meta(generator(seed, Stream.INITIALISATION))


def double_meta(problem: RLProblem, seed: int = 0) -> Meta:
    """Initial meta-parameters in float64, moved so that no bias is zero."""
    meta = initial_meta(problem, seed)
    theta = {
        name: value.double() + 0.1 * normal(index, *value.shape)
        for index, (name, value) in enumerate(meta.theta.items())
    }
    return Meta(theta, {name: value.double() for name, value in meta.rates.items()})
