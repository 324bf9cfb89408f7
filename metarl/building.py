"""What a configuration describes, built: the problem and the outer step."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metarl.errors import UserError
from metarl.resources import keep_freed_memory, resolve_device, resolve_threads
from metarl.schema import (
    PPO,
    TRPO,
    VPG,
    Adam,
    ComparisonConfig,
    Config,
    EmbeddingConfig,
    ExamplesConfig,
    FineTuningConfig,
    Inner,
    LSTMConfig,
    RLConfig,
    SupervisedConfig,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from metarl.functional.adapt import InnerUpdate
    from metarl.functional.trpo import TrustRegion
    from metarl.nets.gaussian_mlp import GaussianMLP
    from metarl.outer import Outer
    from metarl.problems.images import FewShotImages
    from metarl.problems.learners import Learner
    from metarl.problems.protocol import Problem, Split
    from metarl.problems.sinusoid import Sinusoid
    from metarl.schema.learning import FineTuning as FineTuningSettings
    from metarl.schema.networks import SupervisedNetwork as NetworkSettings

COMPARED_AT_ONCE = 20
"""Tasks whose pairs of query and support are held in memory together, where they are not taken one by one."""


def make_problem(settings: Config, device: str, threads: int) -> Problem:
    """The problem that a configuration describes.

    Args:
        settings: the configuration.
        device: ``cpu`` or ``cuda``.
        threads: Python threads that share the tasks.
    """
    if isinstance(settings, RLConfig):
        return _make_rl(settings, device, threads)
    assert isinstance(settings, ExamplesConfig)
    return _make_supervised(settings, device, threads)


def _make_rl(settings: RLConfig, device: str, threads: int) -> Problem:
    # Imported here, as torch is elsewhere: the command line answers before it is loaded.
    import torch

    from metarl.nets.gaussian_mlp import GaussianMLP
    from metarl.problems.credit import Sampling
    from metarl.problems.environments import EnvironmentFamily
    from metarl.problems.rl import Adaptation, RLProblem

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

    if problem.physics == "warp" and settings.device == "auto" and device == "cpu":
        raise UserError(
            "problem.physics is warp, but there is no usable GPU here; leave it out, or set device "
            "to cpu to see it work, slowly."
        )
    family = EnvironmentFamily(
        *(problem.env, problem.env_kwargs, problem.horizon, problem.observe_task),
        *(problem.physics, device),
    )
    trpo = settings.outer if isinstance(settings.outer, TRPO) else None
    names = _names(make_policy(family.obs_size, family.action_size, _any_generator()))
    if device == "cpu":
        keep_freed_memory()
    return RLProblem(
        family,
        make_policy,
        Sampling(problem.episodes, problem.discount, problem.gae_lambda),
        Adaptation(inner.steps, _update(inner, names), inner.estimator, inner.learn_rates),
        autograd=trpo is not None and trpo.curvature == "autograd",
        device=device,
        threads=threads,
        chunk=None if trpo is None or trpo.chunk == "auto" else trpo.chunk,
        curvature_share=trpo.curvature_share if trpo else 1.0,
        dtype=getattr(torch, settings.precision),
    )


def _make_supervised(settings: ExamplesConfig, device: str, threads: int) -> Problem:
    import torch

    from metarl.problems.supervised import SupervisedProblem

    source, compares = _source(settings), isinstance(settings, EmbeddingConfig)
    outputs = None if compares else source.outputs
    make_network = _network(settings.network, source.input_shape, outputs)
    # A task's convolutions fill a core's cache, a cell remembers much of every parameter; small matrices are stacked.
    convolves = settings.network.kind == "conv" and device == "cpu"
    if convolves:
        keep_freed_memory()
    alone = convolves or isinstance(settings, LSTMConfig)
    tasks_at_once = 1 if alone else COMPARED_AT_ONCE if compares else None
    return SupervisedProblem(
        source,
        make_network,
        source.loss,
        _learner(settings, source, make_network(_any_generator())),
        tasks_at_once,
        device,
        threads,
        getattr(torch, settings.precision),
    )


def _learner(
    settings: ExamplesConfig, source: Sinusoid | FewShotImages, network: nn.Module
) -> Learner:
    from metarl.nets.conv import Conv
    from metarl.nets.mlp import MLP
    from metarl.problems.embedding import Comparison, FineTuning, JointClasses
    from metarl.problems.images import FewShotImages
    from metarl.problems.learners import Adaptation, MetaLSTM

    if isinstance(settings, EmbeddingConfig):
        assert isinstance(source, FewShotImages)
        assert isinstance(network, Conv | MLP)
        joint = JointClasses(source.train_classes, source.class_numbers)
        classifier = Comparison("nearest_neighbour", network.features, joint)
        if isinstance(settings, FineTuningConfig):
            return FineTuning(classifier, source.outputs, _fine_tuning(settings.inner))
        assert isinstance(settings, ComparisonConfig)
        rule = settings.inner.rule
        return classifier if rule == classifier.metric else Comparison(rule, network.features)
    if isinstance(settings, LSTMConfig):
        return MetaLSTM(settings.inner.steps, settings.inner.hidden_size)
    assert isinstance(settings, SupervisedConfig)
    inner, names = settings.inner, _names(network)
    per_step = _matching(["norms.*"] * inner.per_step_normalisation, names)
    return Adaptation(
        *(inner.steps, _update(inner, names, per_step), inner.learn_rates, inner.fresh_support),
        *(inner.multi_step_until, per_step),
    )


def _source(settings: ExamplesConfig) -> Sinusoid | FewShotImages:
    from metarl.problems.images import EpisodeSizes, FewShotImages
    from metarl.problems.sinusoid import Sinusoid

    problem = settings.problem
    if problem.kind == "sinusoid":
        return Sinusoid(problem.shots, problem.amount, problem.observe_task)
    from metarl import datasets

    parts: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
    splits = {
        split: datasets.load(problem.data_set, part, problem.data, problem.side)
        for split, part in parts.items()
    }
    episodes = EpisodeSizes(
        *(problem.ways, problem.shots, problem.queries),
        *(settings.evaluation.queries, problem.train_ways),
    )
    rotated: dict[str, tuple[Split, ...]] = {"none": (), "train": ("train",), "all": tuple(parts)}
    return FewShotImages(splits, episodes, rotated[problem.rotations])


def _network(
    network: NetworkSettings, input_shape: tuple[int, ...], outputs: int | None
) -> Callable[[torch.Generator], nn.Module]:
    from metarl.nets.conv import Conv
    from metarl.nets.mlp import MLP
    from metarl.nets.recurrent import GRU

    def make(generator: torch.Generator) -> nn.Module:
        if network.kind == "mlp":
            normalised, how = network.normalisation == "batch", network.initialisation
            return MLP(input_shape, outputs, network.hidden_sizes, normalised, how, generator)
        if network.kind == "gru":
            assert outputs is not None
            return GRU(input_shape, outputs, network.hidden_size, generator)
        sizes = network.filters, network.blocks, network.downsampling
        return Conv(input_shape, outputs, *sizes, network.initialisation, generator)

    return make


def _fine_tuning(inner: FineTuningSettings) -> InnerUpdate:
    from metarl.functional.adapt import InnerUpdate
    from metarl.functional.comparison import BIAS, WEIGHT

    head = frozenset({WEIGHT, BIAS}) if inner.adapt == "head" else None
    return InnerUpdate(inner.lr, adapted=head)


def _update(inner: Inner, names: list[str], fixed: frozenset[str] = frozenset()) -> InnerUpdate:
    """The inner update rule, for a network whose parameters have these names; some are never adapted."""
    from metarl.functional.adapt import InnerUpdate

    adapted = None
    if inner.adapt != "all" or fixed:
        known = {"all": ["*"], "head": [_head(names)]}
        patterns = known[inner.adapt] if isinstance(inner.adapt, str) else inner.adapt
        adapted = _matching(patterns, names) - fixed
        if not adapted:
            raise UserError(
                "inner.adapt leaves nothing to adapt: inner.per_step_normalisation learns each of "
                "its parameters for every step; add another pattern, or set that to false."
            )
    return InnerUpdate(inner.lr, inner.first_order, adapted, inner.second_order_from)


def _head(names: list[str]) -> str:
    """The pattern of the last layer: that of the last weight, as normalisations have scales and shifts."""
    weights = [name for name in names if name.endswith("weight")] or names
    return weights[-1].removesuffix("weight") + "*"


def _matching(patterns: Sequence[str], names: list[str]) -> frozenset[str]:
    """The names that match a pattern; a pattern without one is a mistake."""
    found: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise UserError(
                f"inner.adapt: no parameter of this network matches {pattern!r}; there are "
                f"{', '.join(names)}."
            )
        found.update(matched)
    return frozenset(found)


def _names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def _any_generator() -> torch.Generator:
    import torch

    return torch.Generator()


@contextmanager
def opened_problem(settings: Config) -> Iterator[Problem]:
    """The problem of a configuration, closed at the end."""
    device, threads = resolve_device(settings.device), resolve_threads(settings.threads)
    problem = make_problem(settings, device, threads)
    try:
        yield problem
    finally:
        problem.close()


def trust_region(settings: TRPO) -> TrustRegion:
    """What the settings of TRPO say of each step."""
    from metarl.functional.trpo import TrustRegion

    return TrustRegion(**{name: getattr(settings, name) for name in TrustRegion._fields})


def make_outer(settings: Config) -> Outer:
    """The outer step that the settings name."""
    from metarl import outer
    from metarl.problems.protocol import Variant

    chosen = settings.outer
    if isinstance(chosen, TRPO):
        return outer.TRPO(trust_region(chosen), chosen.momentum, chosen.momentum_warmup)
    schedule = outer.Schedule(chosen.lr, chosen.schedule, chosen.final_lr, settings.iterations)
    match chosen:
        case VPG():
            return outer.Descent(outer.Adam(schedule), Variant(exploration=chosen.exploration))
        case PPO():
            steps = schedule._replace(total=settings.iterations * chosen.epochs)
            found = chosen.clip, chosen.epochs, chosen.kl_target, chosen.kl_coefficient
            return outer.PPO(steps, *found)
        case _:
            kind = outer.Adam if isinstance(chosen, Adam) else outer.SGD
            variant = Variant(reptile=chosen.objective == "reptile")
            return outer.Descent(kind(schedule), variant, chosen.clip)
