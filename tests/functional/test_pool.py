"""A pool's map is the builtin one, on several threads, the calling one among them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from metarl.functional.pool import Pool, make_pool

PATIENCE = 30.0


@pytest.fixture(params=[2, 3])
def pool(request) -> Iterator[Pool]:
    pool = Pool(request.param)
    yield pool
    pool.shutdown()


def test_one_thread_is_no_pool():
    assert make_pool(1) is None


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_items(pool, count):
    def slow_at_first(item: int) -> int:
        time.sleep(0.001 * (item < 3))
        return item * item

    for _ in range(3):
        assert list(pool.map(slow_at_first, iter(range(count)))) == [i * i for i in range(count)]


def test_as_many_threads_work_at_once_the_calling_one_among_them():
    barrier = threading.Barrier(3)

    def meet(_: int) -> int:
        barrier.wait(PATIENCE)
        return threading.get_ident()

    pool = Pool(3)
    idents = set(pool.map(meet, range(3)))
    pool.shutdown()
    assert len(idents) == 3
    assert threading.get_ident() in idents


def test_a_result_comes_before_the_last_item_is_begun(pool):
    begun = []
    results = pool.map(lambda item: begun.append(item) or time.sleep(0.001), range(1000))
    next(results)
    assert len(begun) < 1000
    results.close()
    time.sleep(0.01)
    left = len(begun)
    time.sleep(0.01)
    assert len(begun) == left < 1000


def test_an_error_is_raised_in_its_items_turn_and_ends_the_map(pool):
    begun = []

    def fail(item: int) -> int:
        begun.append(item)
        time.sleep(0.001)
        if item in (5, 7):
            raise ValueError(f"item {item}")
        return item

    results = pool.map(fail, range(1000))
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="item 5"):
        next(results)
    assert len(begun) < 1000
    assert list(pool.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("who", ["calling", "helping"])
def test_an_interruption_ends_the_map_at_once_whoever_has_the_item(pool, who):
    calling = threading.current_thread()

    def interrupted(_: int) -> None:
        time.sleep(0.001)
        if (threading.current_thread() is calling) == (who == "calling"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.map(interrupted, range(1000)))
    assert list(pool.map(abs, [-1, -2])) == [1, 2]


def test_helpers_take_over_the_number_of_threads_inside_an_operation():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pool, barrier = Pool(2), threading.Barrier(2)
        counts = list(
            pool.map(lambda _: (barrier.wait(PATIENCE), torch.get_num_threads())[1], "ab")
        )
        pool.shutdown()
    finally:
        torch.set_num_threads(before)
    assert counts == [1, 1]
