"""Meta-parameters in a checkpoint: there and back, or refused."""

from pathlib import Path

import pytest
import torch

from metarl.checkpoints import Checkpoint, CheckpointError
from metarl.data import Meta
from metarl.functional.trpo import TrustRegion
from metarl.metastate import meta_from_tensors, meta_to_tensors, restore_outer
from metarl.outer import TRPO

META = Meta({"a": torch.arange(3.0), "b": torch.ones(2, 2)}, {"a": torch.full((3,), 0.1)})


def test_round_trip():
    tensors = meta_to_tensors(META)
    assert list(tensors) == ["theta/a", "theta/b", "rates/a"]
    found = meta_from_tensors(tensors | {"outer/m": torch.ones(1)}, META)
    for part, expected in zip(found, META, strict=True):
        assert list(part) == list(expected)
        assert all((part[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("change", [{"theta/b": None}, {"theta/c": 1}, {"theta/a": 2}])
def test_what_does_not_fit_is_refused(change):
    tensors = meta_to_tensors(META)
    for name, size in change.items():
        tensors.pop(name, None)
        if size is not None:
            tensors[name] = torch.ones(size)
    with pytest.raises(CheckpointError, match=f"{next(iter(change))} is "):
        meta_from_tensors(tensors, META)


def test_learned_rates_are_missed():
    tensors = meta_to_tensors(META._replace(rates={}))
    with pytest.raises(CheckpointError, match="rates/a is missing"):
        meta_from_tensors(tensors, META)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_what_is_not_finite_is_refused(bad):
    tensors = meta_to_tensors(META)
    tensors["theta/b"] = torch.tensor([[1.0, bad], [0.0, 0.0]])
    with pytest.raises(CheckpointError, match="theta/b does not hold finite numbers"):
        meta_from_tensors(tensors, META)


def remembered(average, **state):
    """An outer step that remembers what a checkpoint says of it."""
    outer = TRPO(TrustRegion(), 0.9)
    values = {"env_steps": 12, "outer": {"steps": 3}} | state
    saved = Checkpoint(Path("a"), 1, {"outer/average": average}, values, None)
    return restore_outer(outer, saved, META, "cpu"), outer


def test_an_outer_step_remembers():
    average = torch.arange(10.0)
    steps, outer = remembered(average)
    assert (steps, outer.steps) == (12, 3)
    assert torch.equal(outer.average, average)


@pytest.mark.parametrize(
    ("average", "state", "said"),
    [
        (torch.arange(9.0), {}, r"outer/average is \(9,\), where 10 numbers are learned"),
        (torch.full((10,), torch.nan), {}, "outer/average does not hold finite numbers"),
        (torch.arange(10), {}, "outer/average does not hold finite numbers"),
        (torch.arange(10.0), {"env_steps": float("inf")}, "does not hold what outer.method needs"),
        (torch.arange(10.0), {"outer": []}, "does not hold what outer.method needs"),
    ],
)
def test_a_memory_that_is_not_its_own_is_refused(average, state, said):
    with pytest.raises(CheckpointError, match=said):
        remembered(average, **state)
