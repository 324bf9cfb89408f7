"""The settings of a run, whatever is learned, and those of meta-reinforcement learning."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from metarl.schema.base import Count, Section, impossible
from metarl.schema.learning import (
    PPO,
    TRPO,
    VPG,
    Comparison,
    Descent,
    FineTuning,
    Inner,
    MetaLSTM,
    RLInner,
    RLOuter,
)
from metarl.schema.networks import GaussianMLP, SupervisedNetwork
from metarl.schema.output import Evaluation, Output, RLEvaluation
from metarl.schema.problems import RLProblem, SupervisedProblem


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
    precision: Literal["float32", "float64"] = "float32"
    """Of parameters, data and derivatives."""
    iterations: Count
    """Meta-iterations."""
    on_nonfinite: Literal["raise", "skip_task"] = "raise"
    """A task whose numbers become NaN or infinite ends the run, or is left out of its meta-batch."""
    problem: RLProblem | SupervisedProblem
    """What is learned, and from which data."""
    network: GaussianMLP | SupervisedNetwork
    """What is adapted."""
    inner: Inner | Comparison | FineTuning | MetaLSTM
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
    def _what_needs_a_closed_form_has_one(self) -> RLConfig:
        closed = not self.inner.learn_rates and self.inner.adapt == "all"
        if not isinstance(self.outer, TRPO) or (closed and self.outer.curvature != "autograd"):
            return self
        for key, off in (("kfac_damping", None), ("curvature_share", 1.0)):
            if getattr(self.outer, key) != off:
                raise impossible(
                    f"outer.{key}",
                    "it needs the closed form, which outer.curvature: autograd, inner.learn_rates "
                    "and inner.adapt rule out: leave one of them out",
                )
        return self

    @property
    def protocol(self) -> str:
        """How held-out tasks are measured."""
        return (
            f"{HELD_OUT}; fresh data at every step; the stochastic policy's undiscounted return; "
            f"{MEAN}"
        )
