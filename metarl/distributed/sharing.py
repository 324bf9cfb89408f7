"""A process's part of the tasks: what it computed is gathered with the others' rows, in task order.

Sums over tasks are taken of the gathered rows, one after another as a single process takes them, and not by all-reduce,
whose order depends on how many processes there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.checks.nonfinite import NonFiniteError
from metarl.problems.protocol import Found, Share

if TYPE_CHECKING:
    from metarl.distributed.processes import ConnectedRanks


class RankShare(Share):
    """A part of the tasks, of several.

    Args:
        ranks: the processes.
        first: row of the meta-batch that the part begins with.
        count: its tasks.
        idle: it belongs to another process, and is computed along for want of tasks; nothing of it counts.
    """

    def __init__(self, ranks: ConnectedRanks, first: int, count: int, idle: bool = False) -> None:
        super().__init__(first, count)
        self.ranks, self.idle = ranks, idle

    def join(self, tree: Any) -> Any:
        """Every leaf's rows of all processes, in task order."""
        leaves, structure = pytree.tree_flatten(tree)
        if self.idle:
            leaves = [leaf[:0] for leaf in leaves]
        rows = [_bytes_of(leaf) for leaf in leaves]
        gathered = torch.cat(self.ranks.gather(torch.cat(rows, dim=1)))
        pieces = gathered.split([each.shape[1] for each in rows], dim=1)
        joined = [
            # Copied even where it is contiguous, as one row is: it may begin where no number of its type can.
            piece.clone(memory_format=torch.contiguous_format)
            .view(leaf.dtype)
            .reshape(-1, *leaf.shape[1:])
            for piece, leaf in zip(pieces, leaves, strict=True)
        ]
        return pytree.tree_unflatten(joined, structure)

    def agree(self, work: Callable[[], Found]) -> Found:
        """What ``work`` returns; a NonFiniteError in any process is raised in all, with everybody's tasks."""
        error: NonFiniteError | None = None
        try:
            found = work()
        except NonFiniteError as raised:
            error = raised
        told = b"" if error is None else json.dumps([str(error), *error.tasks]).encode()
        wrong = [json.loads(each) for each in self.ranks.exchange(told) if each]
        if wrong:
            tasks = sorted({task for _, *blamed in wrong for task in blamed})
            raise NonFiniteError(wrong[0][0], *tasks)
        return found

    def keep(self, left: Sequence[int]) -> tuple[list[int], Share]:
        """Leave tasks out; who has none left computes its first one along."""
        own = [row - self.first for row in left if self.first <= row < self.first + self.count]
        before = sum(row < self.first for row in left)
        if self.idle or not own:
            return [0], RankShare(self.ranks, min(before, len(left) - 1), 1, idle=True)
        return own, RankShare(self.ranks, before, len(own))


def _bytes_of(leaf: Tensor) -> Tensor:
    """``[n, ...] -> [n, B]``, the same bytes."""
    flat = leaf.flatten(1) if leaf.ndim > 1 else leaf.unsqueeze(1)
    return flat.contiguous().view(torch.uint8)
