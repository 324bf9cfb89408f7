"""Meta-parameters in a checkpoint: there and back, or refused."""

from pathlib import Path

import pytest
import torch

from metarl.data import Meta, Outcome
from metarl.functional.objectives import Linearisation, Objective
from metarl.functional.trpo import TrustRegion
from metarl.outer import SGD, TRPO, Adam, Descent, Schedule
from metarl.storage.checkpoints import Checkpoint, CheckpointError
from metarl.storage.metastate import (
    meta_from_tensors,
    meta_to_tensors,
    outer_to_tensors,
    restore_outer,
)

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


OUTERS = {
    "trpo": lambda: TRPO(TrustRegion(), momentum=0.9),
    "vpg": lambda: Descent(Adam(Schedule(0.1))),
    "sgd": lambda: Descent(SGD(Schedule(0.1))),
}


def trained(method, size=10):
    """An outer step that remembers one gradient of so many parameters; META has 10."""
    outer = OUTERS[method]()
    outer.step(
        Meta({"a": torch.zeros(size)}, {}),
        lambda _: Objective(
            lambda v: Outcome(v.sum(), torch.zeros(())),
            lambda v: Linearisation(
                Outcome(v.sum(), torch.zeros(())), torch.ones_like(v), lambda u: u
            ),
        ),
    )
    return outer


def checkpoint(outer, **changes):
    memory, values = outer.state()
    tensors = meta_to_tensors(META) | outer_to_tensors(memory | changes)
    return Checkpoint(Path("x"), 1, tensors, {"env_steps": 7, "outer": values}, None)


@pytest.mark.parametrize("method", OUTERS)
def test_the_outer_steps_memory_comes_back(method):
    before, after = trained(method), OUTERS[method]()
    assert restore_outer(after, checkpoint(before), META, "cpu") == 7
    (tensors, values), (expected, others) = after.state(), before.state()
    assert values == others
    assert tensors.keys() == expected.keys() != set()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("method", "name", "shape"),
    [
        ("trpo", "average", (9,)),
        ("vpg", "exp_avg", (1,)),
        ("vpg", "exp_avg_sq", (2, 5)),
        ("vpg", "step", (10,)),
        ("sgd", "step", (1,)),
    ],
)
def test_memory_of_another_size_is_refused_and_changes_nothing(method, name, shape):
    wrong = checkpoint(trained(method), **{name: torch.ones(shape)})
    outer = OUTERS[method]()
    wanted = () if name == "step" else (10,)
    with pytest.raises(CheckpointError) as caught:
        restore_outer(outer, wrong, META, "cpu")
    assert f"its outer/{name} is {shape}, where {wanted} is configured" in str(caught.value)
    assert outer.state() == OUTERS[method]().state()


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
        (torch.arange(9.0), {}, r"outer/average is \(9,\), where \(10,\) is configured"),
        (torch.full((10,), torch.nan), {}, "outer/average does not hold finite numbers"),
        (torch.arange(10), {}, "outer/average does not hold finite numbers"),
        (torch.arange(10.0), {"env_steps": float("inf")}, "does not hold what outer.method needs"),
        (torch.arange(10.0), {"outer": []}, "does not hold what outer.method needs"),
    ],
)
def test_a_memory_that_is_not_its_own_is_refused(average, state, said):
    with pytest.raises(CheckpointError, match=said):
        remembered(average, **state)
