"""A pool's map is the builtin one, on several threads, the calling one among them."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import torch

from metarl.functional.pool import Pool, make_pool

PATIENCE = 30.0
MANY = 1000


class Result:
    """Something to hold on to."""


@pytest.fixture(params=[2, 3])
def threads(request) -> int:
    return request.param


@pytest.fixture
def pool(threads) -> Iterator[Pool]:
    pool = Pool(threads)
    yield pool
    pool.shutdown()


@pytest.fixture
def wait_for_helpers(pool, threads):
    """Until each has nothing else to do."""
    barrier = threading.Barrier(threads)
    return lambda: list(pool.apart(lambda _: barrier.wait(PATIENCE), range(threads)))


@pytest.fixture
def begun() -> list[int]:
    return []


@pytest.fixture
def short(begun):
    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.001)
        return item

    return work


def test_one_thread_is_no_pool():
    assert make_pool(1) is None


@pytest.mark.parametrize("how", ["map", "apart"])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_items(pool, count, how):
    def slow_at_first(item: int) -> int:
        time.sleep(0.001 * (item < 3))
        return item * item

    for _ in range(3):
        results = getattr(pool, how)(slow_at_first, iter(range(count)))
        assert list(results) == [i * i for i in range(count)]


@pytest.mark.parametrize(("how", "among"), [("map", True), ("apart", False)])
def test_as_many_threads_work_at_once(how, among):
    barrier = threading.Barrier(3)

    def meet(_: int) -> int:
        barrier.wait(PATIENCE)
        return threading.get_ident()

    pool = Pool(3)
    idents = set(getattr(pool, how)(meet, range(3)))
    pool.shutdown()
    assert len(idents) == 3
    assert (threading.get_ident() in idents) == among


def test_a_map_may_lie_within_a_map_and_beside_another(pool):
    def rows(item: int) -> list[int]:
        return list(pool.map(lambda factor: factor * item, range(3)))

    one, other = pool.map(rows, range(4)), pool.map(abs, [-1, -2])
    assert next(one) == [0, 0, 0]
    assert list(other) == [1, 2]
    assert list(one) == [[0, i, 2 * i] for i in range(1, 4)]


def test_no_further_item_is_begun_once_the_map_is_dropped(pool, short, begun, wait_for_helpers):
    results = pool.map(short, range(MANY))
    assert next(results) == 0
    del results
    wait_for_helpers()
    assert len(begun) < MANY


def test_no_further_item_is_begun_once_the_pool_is_ended(pool, short, begun):
    results = pool.map(short, range(MANY))
    assert next(results) == 0
    pool.shutdown()
    assert len(begun) < MANY


def test_an_error_is_raised_in_its_items_turn_and_ends_the_map(
    pool, short, begun, wait_for_helpers
):
    reached = threading.Event()

    def fail(item: int) -> int:
        if item == 5:
            reached.wait(PATIENCE)
            raise ValueError(f"item {item}")
        if item == 7:
            reached.set()
            raise KeyError(f"item {item}")
        return short(item)

    results = pool.map(fail, range(MANY))
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        next(results)
    wait_for_helpers()
    assert len(begun) < MANY
    assert list(pool.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("who", ["calling", "helping"])
def test_an_interruption_ends_the_map_whoever_has_the_item(
    pool, short, begun, wait_for_helpers, who
):
    calling = threading.current_thread()

    def interrupted(item: int) -> None:
        short(item)
        if (threading.current_thread() is calling) == (who == "calling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.map(interrupted, range(MANY)))
    wait_for_helpers()
    assert len(begun) < MANY
    assert list(pool.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize(("how", "count"), [("map", 2), ("apart", 1)])
def test_a_signal_gets_through_while_a_helper_does_not_return(how, count):
    stuck, calling, barrier = (
        threading.Event(),
        threading.current_thread(),
        threading.Barrier(count),
    )

    def stay(_: int) -> None:
        barrier.wait(PATIENCE)
        if threading.current_thread() is not calling:
            signal.pthread_kill(calling.ident, signal.SIGINT)
            stuck.wait(PATIENCE)

    pool = Pool(2)
    with pytest.raises(KeyboardInterrupt):
        list(getattr(pool, how)(stay, range(count)))
    stuck.set()
    pool.shutdown()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_held_after_a_map(pool, fails):
    held = []

    def make(item: int) -> Result:
        result = Result()
        held.append(weakref.ref(result))
        if fails and item == 9:
            raise ValueError
        return result

    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(ValueError) if fails else contextlib.nullcontext():  # noqa: PT011
                list(pool.map(make, range(10)))
        pool.shutdown()
        assert [each() for each in held] == [None] * 30
    finally:
        gc.enable()


def test_helpers_take_over_the_number_of_threads_inside_an_operation(monkeypatch):
    asked, barrier = set(), threading.Barrier(3)
    ask = torch.get_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked.add(threading.get_ident()) or ask())
    pool = Pool(3)

    def meet(_: int) -> int:
        barrier.wait(PATIENCE)
        return threading.get_ident()

    helpers = set(pool.map(meet, range(3))) - {threading.get_ident()}
    pool.shutdown()
    assert helpers <= asked
    assert len(helpers) == 2
