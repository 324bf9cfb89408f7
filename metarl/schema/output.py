"""What is measured and kept."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from metarl.schema.base import Count, CountOrZero, PathName, Rates, Section, impossible


class Evaluation(Section):
    """Adaptation to held-out tasks: a measure after 0, 1, ..., `steps` gradient steps."""

    LATER_RATE: ClassVar[float]
    """Factor of the rate of every gradient step but the first."""
    AMOUNT: ClassVar[str]
    """The setting of the data of each task at each step."""

    every: CountOrZero = 25
    """Evaluate during training every so many iterations; 0: never."""
    tasks: Count
    """Held-out tasks."""
    steps: CountOrZero
    """Gradient steps."""
    lr: Rates | None = None
    """Rate of each gradient step; null: as the protocol has it."""

    @model_validator(mode="after")
    def _one_rate_for_each_step(self) -> Evaluation:
        if self.lr is not None and len(self.lr) != self.steps:
            raise impossible(
                "lr", f"must hold one rate for each of the {self.steps} evaluation.steps"
            )
        return self

    @property
    def amount(self) -> int | None:
        """Data of each task at each step; None: as in training."""
        return getattr(self, self.AMOUNT)


class RLEvaluation(Evaluation):
    """Returns on held-out tasks, by the protocol of the paper."""

    LATER_RATE = 0.5
    AMOUNT = "episodes"

    tasks: Count = 40
    """Held-out tasks."""
    steps: CountOrZero = 3
    """Gradient steps."""
    lr: Rates | None = None
    """Rate of each gradient step; null: inner.lr for the first, half of it for every later one."""
    episodes: Count | None = None
    """Episodes of each task at each step; null: problem.episodes."""


class SupervisedEvaluation(Evaluation):
    """Predictions on held-out tasks."""

    LATER_RATE = 1.0
    AMOUNT = "queries"

    every: CountOrZero = 1000
    """Evaluate during training every so many iterations; 0: never."""
    tasks: Count = 600
    """Held-out tasks."""
    steps: CountOrZero = 10
    """Gradient steps."""
    lr: Rates | None = None
    """Rate of each gradient step; null: inner.lr for all."""
    queries: Count | None = None
    """Query examples of each task (and class); null: as in training."""


class ComparisonEvaluation(SupervisedEvaluation):
    """Predictions on held-out tasks, without gradient steps."""

    steps: CountOrZero = 0
    """Gradient steps: there are none to take."""

    @model_validator(mode="after")
    def _nothing_is_adapted(self) -> ComparisonEvaluation:
        if self.steps:
            raise impossible("steps", "inner.rule takes no gradient steps: set it to 0")
        return self


class Output(Section):
    """Where a run is kept, and how much of it."""

    directory: PathName = "runs"
    """Folder that holds the runs."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints; the last iteration always makes one."""
    keep: Count = 3
    """Newest checkpoints kept, beside the best one."""
    log_every: Count = 1
    """Iterations between the lines of the record; the last one, and evaluations, always are."""
