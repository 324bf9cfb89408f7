"""A run's record: every number comes back, no line is lost unnoticed."""

from __future__ import annotations

import math

import folders
import numpy as np
import pytest
import torch

from metarl import runs
from metarl.runs import Run, RunError


def test_every_float_round_trips_and_what_is_no_number_is_null(run):
    numbers = [0.1, -0.0, 1e-320, 1 / 3, 1.7976931348623157e308, float(np.float32(0.1))]
    metrics = {str(i): value for i, value in enumerate(numbers)}
    odd = {
        "nan": math.nan,
        "inf": -math.inf,
        "tensor": torch.tensor(0.5),
        "array": np.float64(0.25),
    }
    run.log(0, metrics | odd | {"accepted": True, "env_steps": 10**15})
    (record,) = runs.read_metrics(run.path)
    assert [repr(record[name]) for name in metrics] == [repr(value) for value in numbers]
    assert (record["nan"], record["inf"]) == (None, None)
    assert (record["tensor"], record["array"], record["accepted"]) == (0.5, 0.25, 1.0)
    assert record["env_steps"] == 10**15
    assert record["iteration"] == 0


def test_a_record_is_on_disk_at_once(run):
    run.log(0, {"a": 1.0})
    assert runs.read_metrics(run.path)[0]["a"] == 1.0


def test_a_full_disk_is_one_sentence(run):
    record = run.path / "metrics.jsonl"
    record.unlink()
    record.symlink_to("/dev/full")
    run._record._file = record.open("wb", buffering=0)
    with pytest.raises(RunError, match="No space left on device") as caught:
        run.log(0, {"a": 1.0})
    assert "metrics.jsonl" in str(caught.value)


def test_a_damaged_record_is_refused_and_left_as_it_is(run):
    folders.fill(run, 0, 3, sign=1)
    run.close()
    metrics = run.path / "metrics.jsonl"
    damaged = metrics.read_bytes().replace(b'{"iteration": 1,', b'{"iteration" 1,')
    metrics.write_bytes(damaged)
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 3 is damaged"):
        Run.reopen(run.path, 2)
    assert metrics.read_bytes() == damaged
    metrics.write_bytes(b"7\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        runs.read_metrics(run.path)


@pytest.mark.parametrize("left", [5, 7])
def test_a_record_that_has_not_the_lines_it_had_is_refused_and_left_as_it_is(run, left):
    folders.fill(run, 0, 3, sign=1)
    run.log(3, {"a": 1.0})
    run.close()
    origin = runs.find_checkpoint(run.path)[0].origin
    metrics = run.path / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    changed = b"".join(lines[1:] if left == 5 else [lines[0], *lines])
    metrics.write_bytes(changed)
    said = rf"has {left} lines before iteration 3, where the checkpoint's record had 6; restore"
    with pytest.raises(RunError, match=said):
        Run.reopen(run.path, 3, origin=origin)
    assert metrics.read_bytes() == changed
    metrics.write_bytes(b"".join(lines))
    Run.reopen(run.path, 3, origin=origin).close()


def test_a_record_that_is_missing_is_not_made_anew(run):
    folders.fill(run, 0, 3, sign=1)
    run.close()
    metrics = run.path / "metrics.jsonl"
    metrics.unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl: is missing; restore the file"):
        Run.reopen(run.path, 3)
    assert not metrics.exists()
