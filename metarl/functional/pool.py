"""Threads that share the items of a map with the thread that asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


class Pool:
    """Python threads to map with, the calling one among them.

    Each thread takes the next item when it is done with one. So no thread is woken for each item, as by an executor's
    map, which would cost as much as ten small operations: threads that compute hand the interpreter's lock to each
    other as it is.

    Args:
        threads: how many, at least 2.
    """

    def __init__(self, threads: int) -> None:
        # A new thread would begin with as many threads inside a product as the machine has cores: asking torch for
        # their number makes it take over the one that was set. Rounding and speed depend on it.
        self._helpers = ThreadPoolExecutor(threads - 1, initializer=torch.get_num_threads)
        self._count = threads - 1

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply ``function`` to each item; the results come in the order of the items, each when it is there.

        Raises:
            Whatever ``function`` raises, in its item's turn; items that no thread has begun by then are left out.
        """
        given = [(Future[Any](), item) for item in items]
        pending = deque(given)
        for _ in range(min(self._count, len(given) - 1)):
            self._helpers.submit(_work, function, pending)
        try:
            for future, _ in given:
                _work(function, pending, until=future)
                yield future.result()
        finally:
            pending.clear()

    def shutdown(self) -> None:
        """End the threads, each when it is done with its item."""
        self._helpers.shutdown(cancel_futures=True)


def _work(
    function: Callable[[Any], Any],
    pending: deque[tuple[Future[Any], Any]],
    until: Future[Any] | None = None,
) -> None:
    """Take one item after the other while there are any; no further one once ``until`` is done."""
    while until is None or not until.done():
        try:
            future, item = pending.popleft()
        except IndexError:
            return
        try:
            future.set_result(function(item))
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise


def make_pool(threads: int) -> Pool | None:
    """Threads to map with; None where one is to do it all."""
    return Pool(threads) if threads > 1 else None
