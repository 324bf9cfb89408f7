"""Few-shot regression and classification: any tasks, any module, any differentiable loss."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from metarl.data import Examples, Meta, MetaBatch, Params
from metarl.functional import few_shot, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.few_shot import Rule
from metarl.functional.losses import LOSSES
from metarl.functional.objectives import Objective
from metarl.functional.params import for_tasks
from metarl.functional.tasks import Join, Mapper, alone, chunks, take
from metarl.problems.protocol import LearnRates, Share, Split, Variant, initial_rates
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

        The same tasks, key and draw give the same numbers.
        """
        ...


@runtime_checkable
class Curves(Protocol):
    """A source whose tasks are functions of one number, which can be drawn.

    Attributes:
        interval: of x.
    """

    interval: tuple[float, float]

    def truth(self, tasks: np.ndarray, x: np.ndarray) -> np.ndarray:
        """``[M, D]``, ``[M, N, 1] -> [M, N, 1]``."""
        ...


class Adaptation(NamedTuple):
    """The inner loop.

    Attributes:
        steps: K.
        update: rates, derivative order and adapted parameters.
        learn_rates: which inner rates are learned, from ``update.lr``.
        fresh_support: every inner step of training has examples of its own (Reptile's batches).
        multi_step_until: iteration until which the query loss of every step counts (MAML++); 0: never.
        per_step: parameters of which every step has its own, which are not adapted (MAML++'s normalisation).
    """

    steps: int = 1
    update: InnerUpdate = InnerUpdate(0.01)
    learn_rates: LearnRates = False
    fresh_support: bool = False
    multi_step_until: int = 0
    per_step: frozenset[str] = frozenset()


class SupervisedProblem:
    """Gradient steps on a support set, judged on a query set.

    Args:
        source: of tasks and examples.
        make_network: makes the module. One with a method ``stacked(params [C, ...], x [C, N, ...])`` takes C tasks
            in one call, others by ``vmap``.
        loss: a key of ``LOSSES``: ``mse`` or ``cross_entropy``.
        adaptation: the inner loop.
        tasks_at_once: C; None: all. 1 is the loop over tasks, which large networks on a CPU want, and modules that
            ``vmap`` does not serve, such as torch's own normalisation layers.
        device: of networks and examples.
        threads: Python threads that share the chunks of tasks.
    """

    def __init__(
        self,
        source: TaskSource,
        make_network: MakeNetwork,
        loss: str = "mse",
        adaptation: Adaptation | None = None,
        tasks_at_once: int | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.source, self.make_network = source, make_network
        self.adaptation = adaptation or Adaptation()
        self.loss, self.device = LOSSES[loss], torch.device(device)
        self.name, self.measure = type(source).__name__, self.loss.measure
        self.network = self._new_network(0).to(self.device)
        if next(self.network.buffers(), None) is not None:
            raise ValueError(
                "a network with buffers keeps state between tasks, which adaptation cannot share; "
                "take normalisation layers with track_running_stats=False, or metarl.nets.layers."
            )
        # torch's affine normalisation has wrong second derivatives under vmap, without an error.
        by_one = any(isinstance(each, NOT_MAPPED) for each in self.network.modules())
        self.tasks_at_once = 1 if by_one else tasks_at_once
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.mapper: Mapper = self.pool.map if self.pool else map
        self._local = threading.local()

    def initial_meta(self, rng: np.random.Generator) -> Meta:
        """The network's initial parameters, repeated for the steps that have their own; initial rates."""
        network, row = self._new_network(int(rng.integers(2**62))), self.adaptation
        theta = {}
        for name, parameter in network.named_parameters():
            value = parameter.detach().to(self.device)
            theta[name] = value
            if name in row.per_step:
                theta[name] = value.expand(row.steps + 1, *value.shape).clone()
        adapted = [name for name in row.update.names(theta) if name not in row.per_step]
        rates = initial_rates(
            {name: theta[name] for name in adapted}, row.learn_rates, row.update.lr, row.steps
        )
        return Meta(theta, rates)

    def sample_tasks(
        self, count: int, rng: np.random.Generator, split: Split = "train"
    ) -> np.ndarray:
        """``count`` tasks, ``[count, D]``."""
        return self.source.sample_tasks(count, rng, split)

    def collect(
        self, meta: Meta, tasks: np.ndarray, key: Key, share: Share | None = None
    ) -> tuple[MetaBatch[Examples], dict[str, float]]:
        """Support and query of each task; support is the same in every inner step unless it is to be fresh."""
        rows = share.rows if share else slice(None)
        support, query = self._examples(tasks, self.source.queries, key, rows=rows)
        steps = [support] * self.adaptation.steps
        if self.adaptation.fresh_support:
            others = range(1, self.adaptation.steps)
            steps[1:] = [self._examples(tasks, 0, key, draw, rows)[0] for draw in others]
        return MetaBatch(tuple(steps), query), {}

    def objective(
        self,
        meta: Meta,
        batch: MetaBatch[Examples],
        variant: Variant,
        iteration: int = 0,
        join: Join = alone,
    ) -> Objective:
        """The outer objective of ``variant`` at a meta-iteration."""
        row = self.adaptation
        rule = self._rule(row.update.at(iteration))
        if variant.reptile:
            stacked = few_shot.reptile(rule)
        else:
            progress = iteration / row.multi_step_until if row.multi_step_until else 1.0
            stacked = few_shot.post_update(rule, few_shot.step_weights(row.steps, progress))
        size = self.tasks_at_once or len(batch.query.y)
        return objectives.by_parts(stacked, batch, meta, self.mapper, size, curved=False, join=join)

    def adaptation_curve(
        self,
        meta: Meta,
        tasks: np.ndarray,
        rates: Sequence[float | Params],
        queries: int | None,
        key: Key,
        share: Share | None = None,
    ) -> np.ndarray:
        """``measure`` on the query of each task after 0, 1, ... steps on its support, ``[steps + 1, M]``.

        Args:
            meta: what was learned.
            tasks: held-out tasks, ``[M, D]``.
            rates: α of each step, or the learned rates.
            queries: of each task (and class); None: as in training.
            key: names the random numbers.
            share: the tasks that are adapted to here; None: all.
        """
        share = share or Share(0, len(tasks))
        batch = self._examples(tasks, queries or self.source.queries, key, rows=share.rows)

        def curve(part: slice) -> Tensor:
            support, query = take(batch, part)
            predictions = self.predictions(meta, support, query.x, rates)
            return torch.stack([self.loss.score(each, query.y) for each in predictions], dim=1)

        parts = chunks(share.count, self.tasks_at_once or EVALUATED_AT_ONCE)
        found = torch.cat(list(self.mapper(curve, parts))).double().cpu()
        return np.ascontiguousarray(share.join(found).numpy().T)

    def predictions(
        self, meta: Meta, support: Examples, x: Tensor, rates: Sequence[float | Params]
    ) -> list[Tensor]:
        """Predictions at ``x`` ``[C, N, ...]`` after 0, 1, ... steps on ``support``, without derivatives."""
        rule, found = self._rule(self.adaptation.update), []
        with torch.no_grad():
            params = for_tasks(meta.theta, len(x))
            for step in range(len(rates) + 1):
                found.append(rule.predict(params, x, step))
                if step < len(rates):
                    params = rule.step(params, step, support, rates[step])
        return found

    def examples_figure(
        self, meta: Meta, tasks: np.ndarray, rates: Sequence[float | Params], key: Key
    ) -> Figure | None:
        """The curves of the first tasks, where tasks are curves: truth, support, predictions after 0, 1, ... steps."""
        if not isinstance(self.source, Curves):
            return None
        from metarl.figures import Panel, regression_figure

        tasks = tasks[:DRAWN]
        x = np.linspace(*self.source.interval, 201)
        support = self._examples(tasks, 0, key)[0]
        grid = torch.as_tensor(x, dtype=support.x.dtype, device=self.device)
        stacked = grid.reshape(1, -1, 1).expand(len(tasks), -1, 1)
        predictions = self.predictions(meta, support, stacked, rates)
        truth = self.source.truth(tasks, np.broadcast_to(x[:, None], (len(tasks), len(x), 1)))
        steps = sorted({0, min(1, len(rates)), len(rates)})
        drawn = {step: predictions[step].squeeze(-1).cpu().numpy() for step in steps}
        points = [each.squeeze(-1).cpu().numpy() for each in support]
        return regression_figure(
            [
                Panel(
                    *(", ".join(f"{value:.3g}" for value in task), x, truth[index, :, 0]),
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

    def _rule(self, update: InnerUpdate) -> Rule:
        return Rule(self._apply, self.loss, update, self.adaptation.per_step)

    def _new_network(self, seed: int) -> nn.Module:
        return self.make_network(torch.Generator().manual_seed(seed))

    def _examples(
        self,
        tasks: np.ndarray,
        queries: int,
        key: Key,
        draw: int = 0,
        rows: slice = slice(None),
    ) -> tuple[Examples, Examples]:
        # All are drawn, wherever they are wanted: what a task gets may depend on those before it.
        support, query = take(self.source.examples(tasks, queries, key, draw), rows)
        moved = (Examples(*(each.to(self.device) for each in part)) for part in (support, query))
        return next(moved), next(moved)

    def _apply(self, params: Params, x: Tensor) -> Tensor:
        """C networks at once: ``[C, *shape]``, ``[C, N, ...] -> [C, N, ...]``."""
        # functional_call exchanges the module's parameters while it runs: each thread needs its own.
        if not hasattr(self._local, "network"):
            self._local.network = copy.deepcopy(self.network)
        network = self._local.network
        if hasattr(network, "stacked"):
            return network.stacked(params, x)
        if len(x) == 1:
            return torch.func.functional_call(network, take(params, 0), (x[0],)).unsqueeze(0)
        call = lambda own, its: torch.func.functional_call(network, own, (its,))  # noqa: E731
        return torch.func.vmap(call)(params, x)


EVALUATED_AT_ONCE, DRAWN = 200, 4
"""Tasks, where they are not taken one by one: a bound on memory; those that are drawn."""

NOT_MAPPED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
