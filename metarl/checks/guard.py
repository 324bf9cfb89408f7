"""A meta-iteration in which nothing is learned from numbers that are NaN or infinite."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from metarl.checks.nonfinite import NonFiniteError
from metarl.data import Meta, MetaBatch
from metarl.distributed.ranks import ALONE, Ranks
from metarl.functional.objectives import Objective
from metarl.functional.params import flatten_meta
from metarl.functional.tasks import take
from metarl.outer import Outer
from metarl.problems.protocol import Problem, Share, Variant
from metarl.seeding import Key

logger = logging.getLogger(__name__)


class Guard:
    """Carries one meta-iteration out, and ends it where a number is not finite.

    Args:
        problem: what is learned.
        tasks: of the meta-batch, ``[M, D]``.
        skip: leave the tasks that are to blame out of the iteration, and go on with the others.
        iteration: meta-iterations done, for what is annealed.
        ranks: the processes that share the tasks; all of them leave the same tasks out.

    Attributes:
        tasks: those that are left.
    """

    def __init__(
        self,
        problem: Problem,
        tasks: np.ndarray,
        skip: bool,
        iteration: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.problem, self.tasks, self.skip, self.iteration = problem, tasks, skip, iteration
        self.ranks, self._count = ranks, len(tasks)
        self._share = ranks.share(len(tasks))

    def collect(self, meta: Meta, key: Key) -> tuple[MetaBatch[Any], dict[str, float]]:
        """`Problem.collect` for the tasks; anew where some had to be left out.

        Raises:
            NonFiniteError: nothing can be left out, or shall be.
        """
        while True:
            try:
                return self.problem.collect(meta, self.tasks, key, self._share)
            except NonFiniteError as error:
                self._leave_out(error)
                self._share = self.ranks.share(len(self.tasks))

    def step(
        self, outer: Outer, meta: Meta, batch: MetaBatch[Any]
    ) -> tuple[Meta, dict[str, float]]:
        """`Outer.step` on the batch; anew where some of its tasks had to be left out.

        Returns:
            The new meta-parameters, all of them finite, and what to log.

        Raises:
            NonFiniteError: nothing can be left out, or shall be; ``outer`` is as it was before.
        """
        while True:
            make = _Recorder(self.problem, meta, batch, self.iteration, self._share)
            before = outer.state()
            found, info = outer.step(meta, make)
            wrong = _first_not_finite(found, info, outer.state()[0])
            if wrong is None:
                skipped = {"outer/skipped_tasks": float(self._count - len(self.tasks))}
                return found, info | (skipped if self.skip else {})
            outer.restore(*before)
            left = self._leave_out(self._blame(wrong, meta, batch, make.variants[0]))
            rows, self._share = self._share.keep(left)
            batch = take(batch, rows)

    def _leave_out(self, error: NonFiniteError) -> list[int]:
        """Take the tasks that are to blame out; the rows that stay. Raises where that is no way out."""
        left = [row for row in range(len(self.tasks)) if row not in error.tasks]
        if not (self.skip and error.tasks and left):
            raise error
        logger.warning("%s Left out of this meta-batch: %d tasks.", error, len(error.tasks))
        self.tasks = self.tasks[left]
        return left

    def _blame(
        self, wrong: str, meta: Meta, batch: MetaBatch[Any], variant: Variant
    ) -> NonFiniteError:
        """Which tasks by themselves have a loss, a gradient or a gradient's norm that is not finite."""
        try:
            self._share.agree(lambda: self._check_alone(meta, batch, variant))
        except NonFiniteError as error:
            return error
        return NonFiniteError(
            f"{self.problem.name}, outer step: {wrong} not finite, though every task's loss and "
            "gradient is: take a smaller step, by outer.lr or outer.max_kl."
        )

    def _check_alone(self, meta: Meta, batch: MetaBatch[Any], variant: Variant) -> None:
        """Raise with those of this process's tasks that by themselves give what is not finite."""
        vector = flatten_meta(meta)
        blamed: dict[int, str] = {}
        for row in range(self._share.count):
            single = take(batch, slice(row, row + 1))
            alone = self.problem.objective(meta, single, variant, self.iteration)
            start = alone.linearise(vector)
            quantities = {
                "loss": start.outcome.loss,
                "gradient": start.gradient,
                # Its squares overflow long before it does.
                "the gradient's norm": start.gradient.norm(),
            }
            for name, values in quantities.items():
                if not values.isfinite().all():
                    blamed.setdefault(self._share.first + row, name)
        if blamed:
            row, name = next(iter(blamed.items()))
            task = f"{self.problem.name}, outer step: {name} not finite in task {row}"
            advice = "" if self.skip else ", or leave such tasks out by on_nonfinite=skip_task"
            raise NonFiniteError(
                f"{task} {self.tasks[row].tolist()}: lower inner.lr{advice}.", *blamed
            )


class _Recorder:
    """Makes objectives of a batch, and remembers of which variants."""

    def __init__(
        self, problem: Problem, meta: Meta, batch: MetaBatch[Any], iteration: int, share: Share
    ) -> None:
        self._made_from = problem, meta, batch, iteration, share
        self.variants: list[Variant] = []

    def __call__(self, variant: Variant) -> Objective:
        problem, meta, batch, iteration, share = self._made_from
        self.variants.append(variant)
        return problem.objective(meta, batch, variant, iteration, share.join)


def validated(
    evaluate: Callable[[], float], skip: bool
) -> tuple[float | None, NonFiniteError | None]:
    """The score of an evaluation on the way, or the error to raise once the iteration that it is of is saved.

    Args:
        evaluate: gives the score.
        skip: warn, and leave the evaluation out, where a number in it is not finite: no score and no error.
    """
    try:
        return evaluate(), None
    except NonFiniteError as error:
        named = NonFiniteError(f"evaluation on validation tasks: {error}", *error.tasks)
    if not skip:
        return None, named
    logger.warning("%s This evaluation is left out.", named)
    return None, None


def _first_not_finite(
    meta: Meta, info: Mapping[str, float], state: Mapping[str, Tensor]
) -> str | None:
    """The name of the first number of an outer step that is not finite."""
    tensors = {**{f"parameter {name}": value for name, value in meta.theta.items()}}
    tensors |= {f"rate of {name}": value for name, value in meta.rates.items()} | dict(state)
    wrong = [name for name, value in info.items() if not math.isfinite(value)]
    wrong += [name for name, value in tensors.items() if not value.isfinite().all()]
    return wrong[0] if wrong else None
