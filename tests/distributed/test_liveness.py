"""Who has ended or hangs is known to all, with the cause; here ranks are threads and seconds are tenths."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from metarl.checks.failures import EnvironmentFailureError, Naming
from metarl.distributed import liveness
from metarl.distributed.liveness import End, Person, RankEndedError, Vigil

FAST = {"BEAT": 0.02, "SILENT": 1.0, "SUSPECTED": 0.4, "STUCK": 0.3, "FIRST": 30.0, "SLOW": 30.0}
FAST |= {"GRACE": 0.2}

ENV = SimpleNamespace(unwrapped=SimpleNamespace(spec=SimpleNamespace(id="Slow-v0")))


@pytest.fixture
def vigils(monkeypatch):
    """Three ranks that watch each other; and what ended them by force."""
    for name, seconds in FAST.items():
        monkeypatch.setattr(liveness, name, seconds)
    store, left = dist.HashStore(), []
    for rank in range(3):  # they meet before the last of them is made
        store.set(f"{liveness.PERSON}/{rank}", f'[{rank}, "host", "", {100 + rank}]')
        store.set(f"{liveness.SIGN}/{rank}", "[1]")
    made = [Vigil(store, rank, 3, lambda code, rank=rank: left.append(rank)) for rank in range(3)]
    made[0].left = left
    yield made
    for each in made:
        each._stopped.set()


def wait_for_end(*vigils):
    deadline = time.monotonic() + 10
    while any(each.end is None for each in vigils) and time.monotonic() < deadline:
        time.sleep(0.01)
    return {each.end for each in vigils}


def stop_silently(vigil):
    vigil._stopped.set()
    vigil._thread.join()


def test_ranks_that_work_are_left_alone(vigils):
    vigils[0].begin_wait()
    time.sleep(2 * FAST["SILENT"])
    assert [each.end for each in vigils] == [None, None, None]
    vigils[0].check()


def test_a_rank_that_falls_silent_is_named_to_all(vigils):
    stop_silently(vigils[1])
    (end,) = wait_for_end(vigils[0], vigils[2])
    assert end.rank == 1
    with pytest.raises(RankEndedError, match=r"rank 1 of 3 \(process \d+ on .*\) gives no sign of"):
        vigils[0].check()


def test_after_a_broken_connection_silence_is_enough_sooner(vigils):
    stop_silently(vigils[2])
    vigils[0].find_cause()
    assert vigils[0].end == End(2, "ended without a word: killed, or crashed", said=False)


def test_a_rank_that_hangs_in_an_environment_is_named_with_the_step(vigils):
    with Naming(ENV, "step 0"):
        pass
    with Naming(ENV, "step 7", slot=3):
        for each in (vigils[0], vigils[1]):
            each.begin_wait()
        (end,) = wait_for_end(*vigils)
    assert end.rank == 2
    assert end.cause.startswith("hangs in Slow-v0, slot 3, step 7: no progress for ")


def test_the_first_call_of_an_environment_may_take_longer(vigils, monkeypatch):
    """It may compile what it needs."""
    monkeypatch.setattr(Naming, "returned", set())
    with Naming(ENV, "reset"):
        pass
    with Naming(ENV, "step 0", slot=3):
        vigils[0].begin_wait()
        time.sleep(4 * FAST["STUCK"])
        assert [each.end for each in vigils] == [None, None, None]
        monkeypatch.setattr(liveness, "FIRST", FAST["STUCK"])
        (end,) = wait_for_end(*vigils)
    assert end.cause.startswith("hangs in Slow-v0, slot 3, step 0: no progress for ")


def test_an_environment_has_been_called_once_it_has_returned(monkeypatch):
    monkeypatch.setattr(Naming, "returned", set())
    with pytest.raises(EnvironmentFailureError), Naming(ENV, "step 0"):
        raise ValueError
    for step, first in enumerate((True, False)):
        assert Naming(ENV, f"step {step}").first == first
        with Naming(ENV, f"step {step}"):
            pass
    assert Naming(ENV, "reset").first


def test_a_rank_that_hangs_elsewhere_is_named_later(vigils, monkeypatch):
    monkeypatch.setattr(liveness, "SLOW", 0.6)
    began = time.monotonic()
    for each in (vigils[0], vigils[2]):
        each.begin_wait()
    (end,) = wait_for_end(vigils[0])
    assert end.rank == 1
    assert end.cause.startswith("hangs: no progress for")
    assert time.monotonic() - began > 0.5


def test_who_makes_progress_may_take_as_long_as_it_takes(vigils, monkeypatch):
    monkeypatch.setattr(liveness, "SLOW", 0.6)
    vigils[0].begin_wait()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        with Naming(ENV, "step 0"):
            time.sleep(0.01)
    assert vigils[0].end is None


def test_who_writes_is_waited_for(vigils, monkeypatch):
    vigils[1].excused = vigils[2].excused = True
    time.sleep(5 * FAST["BEAT"])
    monkeypatch.setattr(liveness, "SLOW", 0.2)
    vigils[0].begin_wait()
    time.sleep(1.0)
    assert vigils[0].end is None


def test_the_first_cause_is_kept_and_told_once_on_every_host(vigils):
    assert vigils[1].report(1, "ended: no such file", said=True)
    assert not vigils[2].report(2, "has lost the others")
    (end,) = wait_for_end(*vigils)
    assert end == End(1, "ended: no such file", said=True)
    people = [Person(0, "a", "", 1), Person(1, "a", "", 2), Person(2, "b", "", 3)]
    for each in vigils:
        each.people = people
    assert [each.speaks(end) for each in vigils] == [False, False, True]
    assert [each.speaks(end._replace(said=False)) for each in vigils] == [True, False, True]


def test_who_does_not_end_by_itself_is_ended(vigils):
    vigils[0].report(0, "ended: a mistake", said=True)
    deadline = time.monotonic() + 10
    while len(set(vigils[0].left)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(vigils[0].left) == {0, 1, 2}


def test_ranks_that_are_done_are_not_missed(vigils):
    vigils[1].stop()
    time.sleep(2 * FAST["SILENT"])
    assert vigils[0].end is None


def test_who_slept_blames_nobody(vigils):
    vigils[0]._heard = [time.monotonic() - 60.0] * 3
    vigils[0]._looked = time.monotonic() - 60.0
    time.sleep(5 * FAST["BEAT"])
    assert vigils[0].end is None


def test_a_lost_store_is_said(vigils):
    stop_silently(vigils[0])
    vigils[0]._looked = time.monotonic() - 60.0
    with pytest.raises(RankEndedError, match="lost the store"):
        vigils[0].check()
    assert vigils[0].speaks(vigils[0].end)
