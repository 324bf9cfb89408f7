"""Device and threads that a configuration leaves open."""

import pytest

from metarl.errors import UserError
from metarl.resources import resolve_device, resolve_threads


def test_resources(monkeypatch):
    assert resolve_threads(3) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    assert resolve_threads("auto") == 3
    for available, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert (resolve_device("auto"), resolve_device("cpu")) == (auto, "cpu")
    assert resolve_device("cuda") == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        resolve_device("cuda")
