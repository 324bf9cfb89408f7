"""Threads that share the items of a map with the thread that asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

Pending = deque[tuple[Future[Any], Any]]


class Pool:
    """Python threads to map with.

    Each thread takes the next item when it is done with one. An executor would wake a thread for every item, which
    costs as much as ten small operations.

    Args:
        threads: how many, at least 2.
    """

    def __init__(self, threads: int) -> None:
        # A new thread would begin with as many threads inside a product as the machine has cores: asking torch for
        # their number makes it take over the one that was set. Rounding and speed depend on it.
        self._helpers = ThreadPoolExecutor(threads, initializer=torch.get_num_threads)
        self._helping, self._ended = threads - 1, False

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Apply ``function`` to each item, the calling thread being one of the pool's.

        Nothing begins before the first result is asked for, unlike an executor's map.

        Returns:
            The results in the order of the items; each once it is there and the calling thread is done with its item.

        Raises:
            What ``function`` raised for an item, in that item's turn; or at once, what interrupted the calling thread.
            Items that no thread has begun by then are left out.
        """
        futures: deque[Future[Any]] = deque()
        pending: Pending = deque()
        try:
            for item in items:
                futures.append(Future())
                pending.append((futures[-1], item))
            for _ in range(min(self._helping, len(pending) - 1)):
                self._helpers.submit(self._help, function, pending)
            while futures:
                while not futures[0].done() and _take_one(function, pending):
                    pass
                yield futures.popleft().result()
        finally:
            pending.clear()
            futures.clear()

    def apart(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """The same by the other threads alone: the calling one waits, and can be interrupted whatever an item does."""
        return self._helpers.map(function, items)

    def shutdown(self) -> None:
        """End the threads, each when it is done with its item."""
        self._ended = True
        self._helpers.shutdown(cancel_futures=True)

    def _help(self, function: Callable[[Any], Any], pending: Pending) -> None:
        while not self._ended and _take_one(function, pending):
            pass


def _take_one(function: Callable[[Any], Any], pending: Pending) -> bool:
    """Apply ``function`` to the next item; whether there was one."""
    try:
        future, item = pending.popleft()
    except IndexError:
        return False
    try:
        result = function(item)
    except BaseException as error:
        future.set_exception(error)
        if not isinstance(error, Exception):
            raise
    else:
        future.set_result(result)
    finally:
        del future  # an error's traceback has this frame, and the future has the error
    return True


def make_pool(threads: int) -> Pool | None:
    """Threads to map with; None where one is to do it all."""
    return Pool(threads) if threads > 1 else None
