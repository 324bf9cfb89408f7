"""The settings of a run: names, types, ranges, defaults and meanings.

`metarl.config` reads and writes them as YAML. A new kind of problem, network or outer method is a new class in its
module, added to the union there: ``kind`` or ``method`` tells the classes apart. What depends on the kind of problem
is a class of configuration here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from metarl.schema.base import Count, Section, impossible
from metarl.schema.learning import (
    PPO,
    SGD,
    TRPO,
    VPG,
    Adam,
    Comparison,
    Descent,
    Inner,
    MetaLSTM,
    RLInner,
    RLOuter,
    SupervisedInner,
    SupervisedOuter,
)
from metarl.schema.networks import GRU, MLP, Conv, GaussianMLP, SupervisedNetwork
from metarl.schema.output import (
    ComparisonEvaluation,
    Evaluation,
    Output,
    RLEvaluation,
    SupervisedEvaluation,
)
from metarl.schema.problems import RLProblem, SupervisedProblem

__all__ = [
    "PPO",
    "SGD",
    "TRPO",
    "VPG",
    "Adam",
    "ComparisonConfig",
    "Config",
    "ExamplesConfig",
    "Inner",
    "LSTMConfig",
    "RLConfig",
    "SupervisedConfig",
]


class Config(Section):
    """Everything that decides a run's numbers."""

    FAST_DEV_RUN: ClassVar[tuple[str, ...]]
    """Settings of one small iteration of everything."""

    # NumPy takes seeds apart into words of 32 bits; one word leaves the streams their own.
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    """Seed of every random number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks are evaluated; auto: a GPU when there is one."""
    threads: Literal["auto"] | Count = "auto"
    """Python threads that share the tasks; auto: one for each core. No number depends on it."""
    iterations: Count
    """Meta-iterations."""
    on_nonfinite: Literal["raise", "skip_task"] = "raise"
    """A task whose numbers become NaN or infinite ends the run, or is left out of its meta-batch."""
    problem: RLProblem | SupervisedProblem
    """What is learned, and from which data."""
    network: GaussianMLP | SupervisedNetwork
    """What is adapted."""
    inner: Inner | Comparison | MetaLSTM
    """Adaptation to a task."""
    outer: TRPO | VPG | PPO | Descent
    """Update of the initialisation."""
    evaluation: Evaluation
    """Adaptation to held-out tasks."""
    run: Output = Output()
    """Output."""

    @model_validator(mode="after")
    def _rates_have_one_source(self) -> Config:
        if self.inner.learn_rates and self.evaluation.lr is not None:
            raise impossible(
                "evaluation.lr",
                "the rates are learned: leave evaluation.lr out",
            )
        return self

    @property
    def protocol(self) -> str:
        """How held-out tasks are measured."""
        raise NotImplementedError


HELD_OUT = "held-out tasks from a stream of their own, which training never draws from"
MEAN = "mean over tasks, standard error = sample standard deviation over tasks / sqrt(tasks)"


class RLConfig(Config):
    """Meta-reinforcement learning."""

    FAST_DEV_RUN = (
        *("iterations=1", "outer.tasks=4", "problem.episodes=2", "evaluation.every=1"),
        *("evaluation.tasks=4", "evaluation.episodes=2"),
    )

    problem: RLProblem
    """What is learned, and from which data."""
    network: GaussianMLP = GaussianMLP()
    """The policy."""
    inner: RLInner
    """Adaptation to a task."""
    outer: RLOuter
    """Update of the initialisation."""
    evaluation: RLEvaluation = RLEvaluation()
    """Adaptation to held-out tasks."""

    @model_validator(mode="after")
    def _preconditioner_has_a_closed_form(self) -> RLConfig:
        if not isinstance(self.outer, TRPO) or self.outer.kfac_damping is None:
            return self
        if (
            self.outer.curvature == "autograd"
            or self.inner.learn_rates
            or self.inner.adapt != "all"
        ):
            raise impossible(
                "outer.kfac_damping",
                "it needs the closed form, which outer.curvature: autograd, inner.learn_rates and "
                "inner.adapt rule out: leave one of them out",
            )
        return self

    @property
    def protocol(self) -> str:
        """How held-out tasks are measured."""
        return (
            f"{HELD_OUT}; fresh data at every step; the stochastic policy's undiscounted return; "
            f"{MEAN}"
        )


class ExamplesConfig(Config):
    """Few-shot regression and classification, by whatever learner."""

    problem: SupervisedProblem
    """What is learned, and from which data."""
    network: SupervisedNetwork
    """What is adapted."""
    outer: SupervisedOuter
    """Update of the initialisation."""
    evaluation: SupervisedEvaluation = SupervisedEvaluation()
    """Adaptation to held-out tasks."""

    @model_validator(mode="after")
    def _rule_fits_the_rest(self) -> Self:
        if isinstance(self.inner, Comparison):
            if self.problem.kind != "images":
                raise impossible("inner.rule", "it tells classes apart: take gradient for curves")
        elif self.problem.kind == "images" and self.problem.train_ways is not None:
            raise impossible(
                "problem.train_ways",
                "steps of adaptation need one output for each class: leave it out, or choose an "
                "inner.rule that compares",
            )
        if self.outer.objective == "reptile" and not isinstance(self.inner, Inner):
            raise impossible(
                "outer.objective",
                "it goes towards parameters that gradient steps adapt: leave it out",
            )
        return self

    @model_validator(mode="after")
    def _network_fits_the_data(self) -> Self:
        if isinstance(self.network, Conv):
            if self.problem.kind != "images":
                raise impossible("network.kind", "it reads images: take mlp or gru for curves")
            if self.problem.side >> self.network.blocks < 1:
                raise impossible("network.blocks", "each halves the image, to less than one pixel")
        return self

    @property
    def protocol(self) -> str:
        """How held-out tasks are measured."""
        batch = (
            "transductive: predictions depend on the other query examples (batch statistics of the "
            "query, or its order), so their number changes the result"
            if self.network.transductive
            else "not transductive: no prediction depends on another query example"
        )
        queries = self.problem.queries_text(self.evaluation.queries)
        return f"{HELD_OUT}; one support set and {queries} of each task; {batch}; {MEAN}"


class SupervisedConfig(ExamplesConfig):
    """Few-shot regression and classification by gradient steps."""

    FAST_DEV_RUN = (
        *("iterations=1", "outer.tasks=4", "evaluation.every=1", "evaluation.tasks=4"),
        *("evaluation.queries=2", "evaluation.steps=2"),
    )

    inner: SupervisedInner
    """Adaptation to a task."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> SupervisedConfig:
        if isinstance(self.network, GRU) and self.inner.per_step_normalisation:
            raise impossible("inner.per_step_normalisation", "a gru has no normalisation")
        if (
            isinstance(self.network, MLP)
            and self.inner.per_step_normalisation
            and self.network.normalisation == "none"
        ):
            raise impossible(
                "inner.per_step_normalisation",
                "there is none: set network.normalisation to batch",
            )
        reptile = self.outer.objective == "reptile"
        if reptile and (self.inner.learn_rates or self.inner.per_step_normalisation):
            raise impossible(
                "outer.objective",
                "reptile learns nothing but the adapted parameters: leave inner.learn_rates and "
                "inner.per_step_normalisation out",
            )
        if reptile and self.inner.steps == 0:
            raise impossible(
                "outer.objective", "it needs adaptation: set inner.steps to at least 1"
            )
        return self


class ComparisonConfig(ExamplesConfig):
    """Few-shot classification by comparison with the support: the reference learners."""

    FAST_DEV_RUN = (
        *("iterations=1", "evaluation.every=1", "evaluation.tasks=4", "evaluation.queries=2"),
    )

    network: SupervisedNetwork
    """The embedding: the network without its last linear layer."""
    inner: Comparison
    """What is made of a task's support."""
    outer: SupervisedOuter
    """Update of the embedding."""
    evaluation: ComparisonEvaluation = ComparisonEvaluation()
    """Predictions on held-out tasks."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> ComparisonConfig:
        if isinstance(self.network, GRU):
            raise impossible(
                "network.kind", "it reads a sequence, and embeds no example: take mlp or conv"
            )
        if isinstance(self.network, MLP) and not self.network.hidden_sizes:
            raise impossible(
                "network.hidden_sizes", "the hidden layers are the embedding: name at least one"
            )
        return self


class LSTMConfig(ExamplesConfig):
    """Few-shot regression and classification by an update that is learned as a whole."""

    FAST_DEV_RUN = SupervisedConfig.FAST_DEV_RUN

    inner: MetaLSTM
    """Adaptation to a task."""


RULES: dict[str, type[Config]] = {
    "gradient": SupervisedConfig,
    **dict.fromkeys(get_args(Comparison.model_fields["rule"].annotation), ComparisonConfig),
    "lstm": LSTMConfig,
}
"""The class of configuration of each ``inner.rule``, where examples are learned from."""

CONFIGS: dict[str, type[Config]] = {
    "rl": RLConfig,
    "sinusoid": SupervisedConfig,
    "images": SupervisedConfig,
}
"""The class of configuration of each ``problem.kind``."""


def config_class(settings: Any) -> type[Config]:
    """The class that a file's settings are of; that of reinforcement learning where they do not say."""
    found = CONFIGS.get(_value(settings, "problem", "kind"), RLConfig)
    if found is RLConfig:
        return found
    return RULES.get(_value(settings, "inner", "rule"), found)


def config_of(text: bytes) -> Config:
    """The configuration that ``model_dump_json`` wrote."""
    return config_class(json.loads(text)).model_validate_json(text)


def _value(settings: Any, *keys: str) -> str:
    """The text that a file's settings have at these keys; empty where there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings if isinstance(settings, str) else ""
