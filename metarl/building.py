"""What a configuration describes, built: the problem and the outer step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metarl.resources import resolve_device, resolve_threads
from metarl.schema import PPO, TRPO, VPG, Config

if TYPE_CHECKING:
    import torch

    from metarl.nets.gaussian_mlp import GaussianMLP
    from metarl.outer import Outer
    from metarl.problems.protocol import Problem


def make_problem(settings: Config, device: str, threads: int) -> Problem:
    """The problem that a configuration describes.

    Args:
        settings: the configuration.
        device: ``cpu`` or ``cuda``.
        threads: Python threads that share the tasks.
    """
    # Imported here, as torch is elsewhere: the command line answers before it is loaded.
    from metarl.functional.objectives import InnerUpdate
    from metarl.nets.gaussian_mlp import GaussianMLP
    from metarl.problems.environments import EnvironmentFamily
    from metarl.problems.rl import Adaptation, RLProblem, Sampling

    problem, network, inner = settings.problem, settings.network, settings.inner

    def make_policy(obs_size: int, action_size: int, generator: torch.Generator) -> GaussianMLP:
        return GaussianMLP(
            obs_size,
            action_size,
            network.hidden_sizes,
            network.activation,
            network.initial_std,
            network.min_std,
            generator,
        )

    update = InnerUpdate(inner.lr, inner.first_order)
    return RLProblem(
        EnvironmentFamily(problem.env, problem.env_kwargs, problem.horizon, problem.observe_task),
        make_policy,
        Sampling(problem.episodes, problem.discount, problem.gae_lambda),
        Adaptation(inner.steps, update, inner.estimator, inner.learn_rates),
        autograd=isinstance(settings.outer, TRPO) and settings.outer.curvature == "autograd",
        device=device,
        threads=threads,
    )


@contextmanager
def opened_problem(settings: Config) -> Iterator[Problem]:
    """The problem of a configuration, closed at the end."""
    device, threads = resolve_device(settings.device), resolve_threads(settings.threads)
    problem = make_problem(settings, device, threads)
    try:
        yield problem
    finally:
        problem.close()


def make_outer(settings: Config) -> Outer:
    """The outer step that the settings name."""
    from metarl import outer
    from metarl.functional.trpo import TrustRegion

    match settings.outer:
        case TRPO() as chosen:
            names = (
                "max_kl",
                "cg_iterations",
                "cg_damping",
                "kfac_damping",
                "backtrack_ratio",
                "max_backtracks",
            )
            region = TrustRegion(**{name: getattr(chosen, name) for name in names})
            return outer.TRPO(region, chosen.momentum, chosen.momentum_warmup)
        case VPG() as chosen:
            return outer.VPG(chosen.lr, chosen.exploration)
        case PPO() as chosen:
            return outer.PPO(
                chosen.lr, chosen.clip, chosen.epochs, chosen.kl_target, chosen.kl_coefficient
            )
