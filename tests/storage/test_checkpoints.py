"""Checkpoints come back equal to the bit, or are refused in one sentence that names the file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarl.storage import checkpoints
from metarl.storage.checkpoints import MANIFEST, STATE, TENSORS, CheckpointError
from metarl.storage.sealed import seal, unseal


def example() -> dict[str, torch.Tensor]:
    shared = torch.arange(6.0)
    return {
        "theta/weight": shared[:4].view(2, 2),
        "theta/a": shared[2:],
        "transposed": torch.arange(6.0, dtype=torch.float64).view(2, 3).T,
        "scalar": torch.tensor(-0.0),
        "odd": torch.tensor([float("nan"), float("inf"), 1e-45]),
        "steps": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    return checkpoints.save(tmp_path, 12, example(), {"env_steps": 10**12, "x": 0.1}, score=-1.5)


def test_a_checkpoint_comes_back_to_the_bit_and_in_order(saved):
    loaded = checkpoints.load(saved)
    assert saved.name == "000012"
    assert (loaded.iteration, loaded.score, loaded.path) == (12, -1.5, saved)
    assert loaded.state == {"env_steps": 10**12, "x": 0.1}
    assert list(loaded.tensors) == list(example())
    for name, tensor in example().items():
        back = loaded.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        torch.testing.assert_close(back, tensor, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(back), torch.signbit(tensor))


def test_a_loaded_tensor_can_be_trained(saved):
    weight = checkpoints.load(saved).tensors["theta/weight"].requires_grad_()
    weight.square().sum().backward()
    assert torch.equal(weight.grad, 2 * weight)


def test_no_score_and_no_tensors_are_possible(tmp_path):
    assert checkpoints.load(checkpoints.save(tmp_path, 0, {}, {})).score is None
    assert checkpoints.load(checkpoints.save(tmp_path, 1, {}, {}, float("nan"))).score is None


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_every_flipped_bit_is_noticed(saved, name):
    path = saved / name
    content = path.read_bytes()
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 << (position % 8)
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=name):
            checkpoints.load(saved)
    path.write_bytes(content)
    checkpoints.load(saved)


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("keep", [0, 1, -1])
def test_truncation_growth_and_absence_are_noticed(saved, name, keep):
    path = saved / name
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=name):
        checkpoints.load(saved)
    path.write_bytes(content + b"\n")
    with pytest.raises(CheckpointError, match=name):
        checkpoints.load(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is missing"):
        checkpoints.load(saved)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_manifest_of_anything_is_refused(saved, content):
    (saved / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError):
        checkpoints.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"score": None, "s}core": 1.5},
        {"score": float("nan")},
        {"score": 10**400},
        {"iteration": -1},
        {"iteration": True},
        {"tensors": [1]},
        {"files": {}},
        {"origin": {"run": "a1"}},
        {"origin": {"run": 1, "lines": 1}},
        {"origin": {"run": "a1", "lines": True}},
        {"origin": []},
    ],
)
def test_a_manifest_that_was_sealed_by_another_is_refused(saved, change):
    manifest = unseal((saved / MANIFEST).read_bytes()) | change
    if "s}core" in change:
        del manifest["score"]
    (saved / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(CheckpointError, match="holds what metarl does not write"):
        checkpoints.load(saved)


def test_another_format_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    path = checkpoints.save(tmp_path, 1, {}, {})
    monkeypatch.setattr(checkpoints, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="is of format 2, not 1"):
        checkpoints.load(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        checkpoints.load(tmp_path / "000001")
    with pytest.raises(CheckpointError, match=r"manifest\.json: is missing"):
        checkpoints.load(tmp_path)


def run_with(tmp_path: Path, *scores: float | None) -> Path:
    """A run whose checkpoint of iteration i, from 1, has the i-th score."""
    for iteration, score in enumerate(scores, start=1):
        checkpoints.save(tmp_path / "checkpoints", iteration, example(), {}, score)
    return tmp_path


def test_the_newest_that_can_be_trusted_is_found_and_the_others_named(tmp_path):
    run = run_with(tmp_path, None, None, None)
    (run / "checkpoints/000003" / STATE).write_text("[]")
    (run / "checkpoints/000002" / TENSORS).unlink()
    found, refused = checkpoints.newest_valid(run)
    assert found is not None
    assert found.iteration == 1
    assert [sentence.split("checkpoints/")[1].split(":")[0] for sentence in refused] == [
        f"000003/{STATE}",
        f"000002/{TENSORS}",
    ]


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoints.newest_valid(tmp_path) == (None, [])
    assert checkpoints.best(tmp_path) is None


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((None, None, None), [2, 3]),
        ((5.0, 1.0, 2.0, None), [1, 3, 4]),
        ((1.0, 5.0, 5.0, 2.0, 2.0), [3, 4, 5]),
        ((-1.0, float("nan"), -3.0, -2.0), [1, 3, 4]),
        ((1.0,), [1]),
    ],
)
def test_the_last_two_and_the_best_are_kept(tmp_path, scores, kept):
    run = run_with(tmp_path, *scores)
    checkpoints.prune(run / "checkpoints", keep=2)
    assert [int(path.name) for path in checkpoints.in_order(run / "checkpoints")] == kept


def test_order_is_by_number_even_beyond_six_digits(tmp_path):
    for iteration in (1_000_000, 999_999, 2):
        checkpoints.save(tmp_path / "checkpoints", iteration, {}, {})
    found, _ = checkpoints.newest_valid(tmp_path)
    assert found is not None
    assert found.iteration == 1_000_000


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(saved, call, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name for path in saved.parent.iterdir()}
    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "rename")), full)
    for iteration in (12, 13):
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left on device\)"):
            checkpoints.save(saved.parent, iteration, {}, {})
    assert {path.name for path in saved.parent.iterdir()} == before
    assert checkpoints.load(saved).score == -1.5


def test_a_replacement_that_fails_half_way_puts_the_old_checkpoint_back(saved, monkeypatch):
    rename = Path.rename

    def refuse_the_new(path: Path, target: Path) -> Path:
        if path.name.endswith(f".{os.getpid()}"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoints.save(saved.parent, 12, {}, {})
    assert [path.name for path in saved.parent.iterdir()] == ["000012"]
    assert checkpoints.load(saved).score == -1.5


def test_every_interruption_leaves_a_valid_checkpoint_or_none(tmp_path, monkeypatch):
    """Stop the process, by an error nobody handles, at the n-th call to the disk, for every n."""

    class Stopped(BaseException):
        pass

    left = iter(())

    def count_down(*_: object) -> None:
        if next(left, None) is None:
            raise Stopped

    monkeypatch.setattr(os, "fsync", count_down)
    outcomes = set()
    for calls in range(10):
        run = tmp_path / str(calls)
        left = iter(range(1000))
        run.mkdir()
        checkpoints.save(run / "checkpoints", 1, example(), {"saved": "before"})
        left = iter(range(calls))
        with contextlib.suppress(Stopped):
            checkpoints.save(run / "checkpoints", 2, example(), {"saved": "after"})
        found, refused = checkpoints.newest_valid(run)
        assert found is not None
        assert not refused
        outcomes.add(found.state["saved"])
        checkpoints.remove_leftovers(run / "checkpoints")
        assert all(path.name.isdecimal() for path in (run / "checkpoints").iterdir())
    assert outcomes == {"before", "after"}


def test_a_checkpoint_of_the_same_iteration_is_replaced(saved):
    checkpoints.save(saved.parent, 12, {}, {"new": True})
    assert checkpoints.load(saved).state == {"new": True}
    assert [path.name for path in saved.parent.iterdir()] == ["000012"]


def test_later_checkpoints_are_set_aside_not_lost(tmp_path):
    run = run_with(tmp_path, 1.0, 2.0, 3.0)
    checkpoints.set_aside(run / "checkpoints", 1)
    assert [path.name for path in checkpoints.in_order(run / "checkpoints")] == ["000001"]
    aside = run / "checkpoints/000003.refused"
    assert checkpoints.load(aside).iteration == 3


def test_what_was_set_aside_before_makes_way_whatever_it_is(tmp_path):
    """A file, where a file had the name of a checkpoint; a link, but not what it leads to."""
    run = run_with(tmp_path, 1.0, 2.0, 3.0)
    (run / "checkpoints/000002.refused").symlink_to(run / "checkpoints/000001")
    (run / "checkpoints/000003.refused").write_text("no folder")
    checkpoints.set_aside(run / "checkpoints", 1)
    for iteration in (2, 3):
        aside = run / f"checkpoints/{iteration:06d}.refused"
        assert checkpoints.load(aside).iteration == iteration
    assert checkpoints.load(run / "checkpoints/000001").iteration == 1


def test_a_file_with_the_name_of_a_checkpoint_is_replaced_and_removed(tmp_path):
    run = run_with(tmp_path, None, None)
    for name in ("000000", "000003"):
        (run / "checkpoints" / name).write_text("no folder")
    run_with(tmp_path, None, None, None)
    checkpoints.prune(run / "checkpoints", keep=2)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000002", "000003"]
    assert checkpoints.load(run / "checkpoints/000003").iteration == 3


def test_what_run_it_is_of_comes_back_with_it(tmp_path):
    origin = checkpoints.Origin("a1b2", 3)
    path = checkpoints.save(tmp_path, 1, {}, {"i": 1}, origin=origin)
    assert checkpoints.load(path).origin == origin
    assert checkpoints.load(checkpoints.save(tmp_path, 2, {}, {})).origin is None


def test_a_copied_checkpoint_loads_from_anywhere(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "elsewhere")
    assert checkpoints.load(tmp_path / "elsewhere").iteration == 12
