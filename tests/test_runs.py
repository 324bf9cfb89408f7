"""A run's folder: its record survives crashes, resumes without gaps or doubles, has one writer."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folders
import numpy as np
import pytest
import torch

from metarl import config, runs, system
from metarl.checkpoints import CheckpointError
from metarl.runs import Run, RunError


@pytest.fixture
def settings(tmp_path):
    return folders.run_settings(tmp_path)


@pytest.fixture
def run(settings, tmp_path):
    with Run.create(settings, "a", tmp_path / "runs") as run:
        yield run


def test_a_new_run_records_what_is_needed_to_repeat_it(run, settings):
    assert runs._RUN_NAME.fullmatch(run.path.name)
    assert run.path.parent.name == "a"
    assert config.load(run.path / "config.yaml") == settings
    record = json.loads((run.path / "system.json").read_text())
    assert record["python"] == sys.version.split()[0]
    assert record["torch"] == torch.__version__
    assert record["numpy"] == np.__version__
    assert record["torch_threads"] == torch.get_num_threads()
    assert record["cores"] >= 1


def test_runs_that_start_together_get_folders_of_their_own(settings, tmp_path):
    def create(_: int) -> Path:
        with Run.create(settings, "a", tmp_path / "runs") as run:
            return run.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(create, range(24)))
    assert len(set(paths)) == 24
    assert all((path / "config.yaml").is_file() for path in paths)


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


@pytest.mark.parametrize("how", ["closed", "killed", "cut short"])
def test_a_resumed_run_has_each_step_once_in_the_record_and_in_tensorboard(settings, tmp_path, how):
    run = Run.create(settings, "a", tmp_path / "runs")
    folders.fill(run, 0, 6, sign=1)
    run.close()
    if how != "closed":
        for path in run.path.glob("events.out.*"):
            path.write_bytes(path.read_bytes()[:-30])
    if how == "cut short":
        metrics = run.path / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes()[:-7])
    with Run.reopen(run.path, 4) as again:
        assert again.config == settings
        assert not list((run.path / "checkpoints").glob("00000[56]"))
        folders.fill(again, 4, 7, sign=-1)
    expected = [(i, float(i if i < 4 else -i)) for i in range(7)]
    records = runs.read_metrics(run.path)
    assert [(r["iteration"], r["return/pre"]) for r in records if "return/pre" in r] == expected
    assert folders.scalars(run.path, "return/pre") == expected
    assert folders.scalars(run.path, "eval/return_step_0") == expected
    assert folders.scalars(run.path, "return_by_env_steps/pre") == [
        (10 * i, value) for i, value in expected
    ]
    assert [event.step for event in folders.events(run.path).Images("curve")] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]
    assert len(list(run.path.glob("events.out.*"))) == 1
    checkpoint, refused = runs.find_checkpoint(run.path)
    assert (checkpoint.iteration, refused) == (7, [])
    assert json.loads((run.path / "system.json").read_text())["resumed"][0]["iteration"] == 4


def test_resuming_in_place_keeps_everything(run, settings):
    folders.fill(run, 0, 3, sign=1)
    run.close()
    before = (run.path / "metrics.jsonl").read_bytes()
    longer = settings.model_copy(update={"iterations": 20})
    (run.path / "figures/mine.png").write_bytes(b"")
    with Run.reopen(run.path, 3, longer):
        assert (run.path / "metrics.jsonl").read_bytes() == before
        assert config.load(run.path / "config.yaml").iterations == 20
    assert sorted(path.name for path in run.path.glob("figures/curve/*")) == [
        f"00000{i}.png" for i in (1, 2, 3)
    ]
    assert (run.path / "figures/mine.png").exists()


def test_a_full_disk_is_one_sentence(run):
    record = run.path / "metrics.jsonl"
    record.unlink()
    record.symlink_to("/dev/full")
    run._metrics = record.open("wb", buffering=0)
    with pytest.raises(RunError, match="No space left on device") as caught:
        run.log(0, {"a": 1.0})
    assert "metrics.jsonl" in str(caught.value)


def test_a_run_that_cannot_be_made_leaves_nothing(settings, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Not a directory"):
        Run.create(settings, "a", tmp_path / "file")

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "write", fail)
    with pytest.raises(RunError, match="No space left on device"):
        Run.create(settings, "a", tmp_path / "runs")
    assert not list(tmp_path.glob("runs/a/*"))


def test_two_processes_cannot_write_one_run(run):
    run.log(0, {"a": 1.0})
    with pytest.raises(RunError, match="another process writes this run"):
        Run.reopen(run.path, 0)
    run.close()
    code = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(run.path / ".lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        other.stdout.readline()
        with pytest.raises(RunError, match="another process writes this run"):
            Run.reopen(run.path, 0)
        assert runs.read_metrics(run.path)[0]["a"] == 1.0
        other.kill()
    Run.reopen(run.path, 0).close()


def test_a_run_that_was_killed_can_be_opened_at_once(settings, tmp_path):
    run = Run.create(settings, "a", tmp_path / "runs")
    run.close()
    code = (
        "import os, sys; from metarl.runs import Run; run = Run.reopen(sys.argv[1], 0);"
        "run.log(0, {'a': 1.0}); run._metrics.write(b'{\"iter');"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run.path)], check=False)
    assert killed.returncode == -9
    assert runs.read_metrics(run.path)[0]["a"] == 1.0
    with Run.reopen(run.path, 1) as again:
        again.log(1, {"a": 2.0})
    assert [record["a"] for record in runs.read_metrics(run.path)] == [1.0, 2.0]


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


def test_latest_is_the_run_created_last_in_any_group(settings, tmp_path):
    root = tmp_path / "runs"
    names = ["b/20250101T000000Z-s1", "a/20250102T000000Z-s1", "b/20241231T235959Z-s9"]
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.yaml").write_text(config.dump(settings))
    (root / "reference/curves").mkdir(parents=True)
    (root / "reference/curves/config.yaml").touch()
    os.utime(root / names[0])
    assert runs.find_run("latest", root) == root / names[1]
    with Run.create(settings, "c", root) as first, Run.create(settings, "c", root) as second:
        assert first.path != second.path
        assert runs.find_run("latest", root) == second.path


def test_a_run_and_a_checkpoint_are_found_by_path(run):
    folders.fill(run, 0, 3, sign=1)
    checkpoint = run.path / "checkpoints/000002"
    assert runs.find_run(run.path) == run.path
    assert runs.find_run(checkpoint) == run.path
    assert runs.find_checkpoint(checkpoint)[0].iteration == 2
    assert runs.find_checkpoint(run.path)[0].iteration == 3
    (run.path / "checkpoints/000003/state.json").unlink()
    found, refused = runs.find_checkpoint(run.path)
    assert found.iteration == 2
    assert len(refused) == 1


def test_what_is_not_there_is_one_sentence(run, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        runs.find_run("latest", tmp_path / "nothing")
    with pytest.raises(RunError, match="no such folder"):
        runs.find_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"is not a run, it has no config\.yaml"):
        runs.find_run(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        runs.find_checkpoint(run.path)
    run.save_checkpoint(1, {}, {})
    (run.path / "checkpoints/000001/state.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"none that can be trusted: .*state\.json: is missing"
    ):
        runs.find_checkpoint(run.path)
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        runs.read_metrics(tmp_path)


def test_the_checkpoints_kept_are_those_of_the_settings(run):
    folders.fill(run, 0, 5, sign=1)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [
        "000004",
        "000005",
    ]
