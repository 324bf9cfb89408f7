"""The settings of few-shot regression and classification: what all learners share, then one class for each kind."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from metarl.schema.base import impossible
from metarl.schema.config import HELD_OUT, MEAN, Config
from metarl.schema.learning import (
    Comparison,
    FineTuning,
    Inner,
    MetaLSTM,
    SupervisedInner,
    SupervisedOuter,
)
from metarl.schema.networks import GRU, MLP, Conv, SupervisedNetwork
from metarl.schema.output import ComparisonEvaluation, SupervisedEvaluation
from metarl.schema.problems import SupervisedProblem


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
        if isinstance(self.inner, Comparison | FineTuning):
            if self.problem.kind != "images":
                raise impossible("inner.rule", "it tells classes apart: take gradient for curves")
        elif self.problem.kind == "images" and self.problem.train_ways is not None:
            raise impossible(
                "problem.train_ways",
                "steps of adaptation need one output for each class: leave it out, or choose an "
                "inner.rule that compares or fine-tunes",
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
                "nothing is normalised: set network.normalisation to batch",
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
        for key in ("first_order", "second_order_from", "multi_step_until"):
            if reptile and getattr(self.inner, key):
                raise impossible(
                    f"inner.{key}",
                    "reptile has neither second derivatives nor a query loss: leave it out",
                )
        return self

    @model_validator(mode="after")
    def _steps_do_what_is_asked(self) -> SupervisedConfig:
        if self.inner.multi_step_until and self.inner.steps < 2:
            raise impossible(
                "inner.multi_step_until",
                "it weighs the losses of several steps: set inner.steps to at least 2",
            )
        if self.inner.steps == 0 and self.problem.kind == "images":
            raise impossible(
                "inner.steps", "classes are numbered anew in every task: set it to at least 1"
            )
        return self


class EmbeddingConfig(ExamplesConfig):
    """Few-shot classification in a learned embedding: the reference learners."""

    FAST_DEV_RUN = (
        *("iterations=1", "evaluation.every=1", "evaluation.tasks=4", "evaluation.queries=2"),
    )

    network: SupervisedNetwork
    """The embedding: the network without its last linear layer."""
    outer: SupervisedOuter
    """Update of the embedding."""

    @model_validator(mode="after")
    def _network_embeds_examples(self) -> Self:
        if isinstance(self.network, GRU):
            raise impossible(
                "network.kind", "it reads a sequence, and embeds no example: take mlp or conv"
            )
        if isinstance(self.network, MLP) and not self.network.hidden_sizes:
            raise impossible(
                "network.hidden_sizes", "the hidden layers are the embedding: name at least one"
            )
        return self


class ComparisonConfig(EmbeddingConfig):
    """By comparison with the support."""

    inner: Comparison
    """What is made of a task's support."""
    evaluation: ComparisonEvaluation = ComparisonEvaluation()
    """Predictions on held-out tasks."""


class FineTuningConfig(EmbeddingConfig):
    """By gradient steps on the support, which training knows nothing of."""

    inner: FineTuning
    """What is made of a task's support."""


class LSTMConfig(ExamplesConfig):
    """Few-shot regression and classification by an update that is learned as a whole."""

    FAST_DEV_RUN = SupervisedConfig.FAST_DEV_RUN

    inner: MetaLSTM
    """Adaptation to a task."""
