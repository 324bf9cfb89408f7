"""The fuzzers for a few seconds each; fuzz.py takes longer on request."""

from __future__ import annotations

import fuzz
import pytest


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_every_input_is_read_or_refused_in_one_sentence(target, tmp_path):
    assert fuzz.fuzz(target, seconds=10.0, seed=0, folder=tmp_path) > 10


def test_a_reader_that_fails_is_seen(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("iteration")

    monkeypatch.setattr(fuzz.checkpoints, "load", fail)
    with pytest.raises(AssertionError, match=r"(?s)checkpoint, seed 3, input 0: .*KeyError"):
        fuzz.fuzz("checkpoint", seconds=20.0, seed=3, folder=tmp_path)
