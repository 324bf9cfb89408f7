"""Meta-parameters in a checkpoint: there and back, or refused."""

import pytest
import torch

from metarl.checkpoints import CheckpointError
from metarl.data import Meta
from metarl.metastate import meta_from_tensors, meta_to_tensors

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
