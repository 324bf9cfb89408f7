"""The first signal is remembered, a second one ends the run at once."""

from __future__ import annotations

import os
import signal

import pytest

from metarl import interrupts
from metarl.errors import Terminated
from metarl.interrupts import Interrupts


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("second", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_second_signal_of_either_kind_raises(monkeypatch, first, second, kind):
    monkeypatch.setattr(interrupts, "FORWARDED", 0.0)
    with Interrupts() as received:
        os.kill(os.getpid(), first)
        assert received.received == first
        with pytest.raises(kind):
            os.kill(os.getpid(), second)
        assert received.received == first


def test_a_sigterm_that_is_sent_along_is_the_same_one(monkeypatch):
    monkeypatch.setattr(interrupts, "FORWARDED", 60.0)
    with Interrupts() as received:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert received.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
