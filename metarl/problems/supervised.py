"""Few-shot regression and classification: any tasks, any module, any differentiable loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from metarl import memory
from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional import objectives
from metarl.functional.losses import LOSSES
from metarl.functional.objectives import Objective
from metarl.functional.pool import make_pool
from metarl.functional.tasks import Join, Mapper, alone, chunks, take
from metarl.problems.learners import Adaptation, Learner
from metarl.problems.modules import PerThread
from metarl.problems.protocol import Share, Split, Variant
from metarl.seeding import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MakeNetwork = Callable[[torch.Generator], nn.Module]
"""Makes an untrained module, ``[N, ...] -> [N, ...]``, from a source of random numbers."""


class TaskSource(Protocol):
    """A distribution over supervised tasks.

    Attributes:
        queries: of each task (and class) while training.
    """

    queries: int

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` tasks as rows of floats, ``[count, D]``."""
        ...

    def examples(
        self, tasks: np.ndarray, queries: int, key: Key, draw: int = 0
    ) -> tuple[Examples, Examples]:
        """Support and query of each task, which share no example, on the CPU: ``[M, N, ...]``.

        The same tasks, key and draw give the same numbers. Inputs that are bytes (``torch.uint8``) are pictures: a
        network reads them scaled to [0, 1].
        """
        ...


@runtime_checkable
class Curves(Protocol):
    """A source whose tasks are functions of one number, which can be drawn.

    Attributes:
        interval: of x.
        names: of the numbers that make a task.
    """

    interval: tuple[float, float]
    names: Sequence[str]

    def truth(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """``[M, D]``, ``[M, N, 1] -> [M, N, 1]``."""
        ...

    def inputs(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What the network reads at x, ``[M, N, I]``: x first, then what it is told of the task."""
        ...


class SupervisedProblem:
    """What a learner makes of a support set, judged on a query set.

    Args:
        source: of tasks and examples.
        make_network: makes the module. Parameters that need no gradient stay as they are made. One with a method
            ``stacked(params [C, ...], x [C, N, ...])`` takes C tasks in one call, others by ``vmap``.
        loss: a key of ``LOSSES``: ``mse`` or ``cross_entropy``.
        learner: how the support is learned from: `Adaptation`, the inner loop of gradient steps, or one of
            :mod:`metarl.problems.embedding`.
        tasks_at_once: C; None: all. 1 is the loop over tasks, which large networks on a CPU want, and modules that
            ``vmap`` does not serve, such as torch's recurrent layers.
        device: of networks and examples.
        threads: Python threads that share the chunks of tasks.
        dtype: of parameters and examples.

    Raises:
        ValueError: the module has buffers, a state that tasks would share.
    """

    def __init__(
        self,
        source: TaskSource,
        make_network: MakeNetwork,
        loss: str = "mse",
        learner: Learner | None = None,
        tasks_at_once: int | None = None,
        device: str = "cpu",
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source, self.make_network = source, make_network
        self.learner = learner or Adaptation()
        self.loss, self.device, self.dtype = LOSSES[loss], torch.device(device), dtype
        self.name, self.measure = type(source).__name__, self.loss.measure
        self.network = make_network(torch.Generator().manual_seed(0)).to(self.device, self.dtype)
        if next(self.network.buffers(), None) is not None:
            raise ValueError(
                "a network with buffers keeps state between tasks, which adaptation cannot share; "
                "take normalisation layers with track_running_stats=False, or metarl.nets.layers."
            )
        # vmap has no rule for torch's recurrent layers. It serves the normalisation layers, as derivatives are taken
        # outside of it: inside their second ones are wrong, without an error.
        by_one = any(isinstance(each, nn.RNNBase) for each in self.network.modules())
        self.tasks_at_once = 1 if by_one else tasks_at_once
        self.pool = make_pool(threads)
        self.mapper: Mapper = self.pool.map if self.pool else map
        self._own_network = PerThread(self.network)
        self._fitting: dict[int, int] = {}

    def initial_meta(self, rng: np.random.Generator) -> Meta:
        """The network's initial parameters, and what the learner has beside them."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        theta = {
            name: value.detach().to(self.device, self.dtype)
            for name, value in self.make_network(generator).named_parameters()
            if value.requires_grad
        }
        return self.learner.initial_meta(theta, generator)

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` tasks, ``[count, D]``."""
        return self.source.sample_tasks(count, rng, split)

    def collect(
        self, meta: Meta, tasks: np.ndarray, key: Key, share: Share | None = None
    ) -> tuple[MetaBatch[Examples], dict[str, float]]:
        """Support and query of each task, as the learner wants them."""
        rows = share.rows if share else slice(None)

        def draw(number: int) -> tuple[Examples, Examples]:
            queries = 0 if number else self.source.queries
            return self._read(self._drawn(tasks, queries, key, number, rows))

        return self.learner.collect(tasks[rows], draw), {}

    def objective(
        self,
        meta: Meta,
        batch: MetaBatch[Examples],
        variant: Variant,
        iteration: int = 0,
        join: Join = alone,
    ) -> Objective:
        """The outer objective of ``variant`` at a meta-iteration."""
        stacked = self.learner.objective(self._apply, self.loss, variant, iteration)
        size = self.tasks_at_once or len(batch.query.y)
        return objectives.by_parts(stacked, batch, meta, self.mapper, size, join=join)

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        queries: int | None,
        key: Key,
        share: Share | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """``measure`` on ``queries`` of each task (and class) after each step on one support; see `Problem`."""
        share = share or Share(0, len(tasks))
        batch = self._drawn(tasks, queries or self.source.queries, key, rows=share.rows)

        def curve(part: slice) -> Tensor:
            support, query = self._read(take(batch, part))
            predictions = self.predictions(meta, support, query.x, rates)
            return torch.stack([self.loss.score(each, query.y) for each in predictions], dim=1)

        mapper, at_once = self._parted(batch)
        found = []
        for scores in mapper(curve, chunks(share.count, at_once)):
            found.append(scores.double().cpu())
            advance(scores.numel())
        return np.ascontiguousarray(share.join(torch.cat(found)).numpy().T)

    def predictions(
        self, meta: Meta, support: Examples, x: Tensor, rates: Sequence[float | Params]
    ) -> list[Tensor]:
        """Predictions at ``x`` ``[C, N, ...]`` after 0, 1, ... steps on ``support``, without derivatives."""
        return self.learner.predictions(self._apply, self.loss, meta, support, x, rates)

    def examples_figure(
        self, meta: Meta, tasks: np.ndarray, rates: Sequence[float | Params], key: Key
    ) -> Figure | None:
        """The curves of the first tasks, where tasks are curves: truth, support, predictions after 0, 1, ... steps."""
        if not isinstance(self.source, Curves):
            return None
        from metarl.presentation.figures import Panel, regression_figure

        tasks = tasks[:DRAWN]
        x = np.linspace(*self.source.interval, 201)
        stacked = np.tile(x[:, None], (len(tasks), 1, 1))
        support, _ = self._read(self._drawn(tasks, 0, key))
        inputs = torch.as_tensor(self.source.inputs(tasks, stacked)).to(support.x)
        predictions = self.predictions(meta, support, inputs, rates)
        truth = self.source.truth(tasks, stacked)
        steps = sorted({0, min(1, len(rates)), len(rates)})
        drawn = {step: predictions[step].squeeze(-1).cpu().numpy() for step in steps}
        points = [each[..., 0].cpu().numpy() for each in support]
        titles = lambda task: (  # noqa: E731
            f"{name} {value:.3g}" for name, value in zip(self.source.names, task, strict=True)
        )
        return regression_figure(
            [
                Panel(
                    *(", ".join(titles(task)), x, truth[index, :, 0]),
                    {step: values[index] for step, values in drawn.items()},
                    (points[0][index], points[1][index]),
                )
                for index, task in enumerate(tasks)
            ]
        )

    def close(self) -> None:
        """End the threads."""
        if self.pool:
            self.pool.shutdown()

    def _drawn(
        self,
        tasks: np.ndarray,
        queries: int,
        key: Key,
        draw: int = 0,
        rows: slice = slice(None),
    ) -> tuple[Examples, Examples]:
        # All are drawn, wherever they are wanted: what a task gets may depend on those before it.
        return take(self.source.examples(tasks, queries, key, draw), rows)

    def _parted(self, drawn: tuple[Examples, Examples]) -> tuple[Mapper, int]:
        """What maps over the parts of an evaluation, and how many tasks each has."""
        on_cpu = self.device.type == "cpu"
        if on_cpu or self.tasks_at_once:
            return self.mapper if on_cpu else map, self.tasks_at_once or EVALUATED_AT_ONCE
        examples = sum(part.x.shape[1] for part in drawn)
        if examples not in self._fitting:  # found once: rounding depends on it
            x, within = self._inputs(drawn[0].x[0]), memory.budget(self.device)
            fitting = memory.tasks_that_fit(self.network, x, examples, within)
            self._fitting[examples] = min(EVALUATED_AT_ONCE, fitting)
        return map, self._fitting[examples]

    def _read(self, parts: tuple[Examples, Examples]) -> tuple[Examples, Examples]:
        """What a network is given of them, where it is and of its type."""
        support, query = (Examples(self._inputs(part.x), self._moved(part.y)) for part in parts)
        return support, query

    def _inputs(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x.to(self.device).to(self.dtype).div_(255.0)
        return self._moved(x)

    def _moved(self, each: Tensor) -> Tensor:
        return each.to(self.device, self.dtype if each.is_floating_point() else each.dtype)

    def _apply(self, params: Params, x: Tensor) -> Tensor:
        """C networks at once: ``[C, *shape]``, ``[C, N, ...] -> [C, N, ...]``."""
        network: Any = self._own_network()
        if hasattr(network, "stacked"):
            return network.stacked(params, x)
        if len(x) == 1:
            return torch.func.functional_call(network, take(params, 0), (x[0],)).unsqueeze(0)
        call = lambda own, its: torch.func.functional_call(network, own, (its,))  # noqa: E731
        return torch.func.vmap(call)(params, x)


EVALUATED_AT_ONCE, DRAWN = 200, 4
"""Tasks, where they are not taken one by one: a bound on memory, on a GPU as many as fit; those that are drawn."""
