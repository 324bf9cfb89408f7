"""A run's folder: its record survives crashes, resumes without gaps or doubles, has one writer."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folders
import numpy as np
import pytest
import torch

from metarl import config, runs, system
from metarl.runs import Run, RunError
from metarl.storage import finding


def test_a_new_run_records_what_is_needed_to_repeat_it(run, settings):
    assert finding.RUN_NAME.fullmatch(run.path.name)
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
        (resumed,) = system.read(run.path / "system.json")["resumed"]
        assert resumed["changed"] == {"iterations": [9, 20]}
    assert sorted(path.name for path in run.path.glob("figures/curve/*")) == [
        f"00000{i}.png" for i in (1, 2, 3)
    ]
    assert (run.path / "figures/mine.png").exists()


def test_a_run_that_cannot_be_made_leaves_nothing(settings, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Not a directory"):
        Run.create(settings, "a", tmp_path / "file")

    def fail(*_: object) -> None:
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
        "run.log(0, {'a': 1.0}); run._record._file.write(b'{\"iter');"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run.path)], check=False)
    assert killed.returncode == -9
    assert runs.read_metrics(run.path)[0]["a"] == 1.0
    with Run.reopen(run.path, 1) as again:
        again.log(1, {"a": 2.0})
    assert [record["a"] for record in runs.read_metrics(run.path)] == [1.0, 2.0]


def test_changed_settings_are_recorded_where_the_run_goes_on_with_them(settings, run):
    folders.fill(run, 0, 3, sign=1)
    run.close()
    path = run.path / "config.yaml"
    changed = config.load(path, ["seed=9", "inner.lr=0.3", "outer={method: vpg, lr: 0.1}"])
    Run.reopen(run.path, 3, changed).close()
    Run.reopen(run.path, 3).close()
    path.write_text(path.read_text().replace("iterations: 9", "iterations: 0"))
    Run.reopen(run.path, 2, settings).close()
    first, second, third = system.read(run.path / "system.json")["resumed"]
    assert first["iteration"] == 3
    expected = {"seed": [1, 9], "inner.lr": [0.1, 0.3], "outer.method": ["trpo", "vpg"]}
    assert expected.items() <= first["changed"].items()
    assert first["changed"]["outer.lr"] == [None, 0.1]
    assert (second["changed"], third["changed"]) == ({}, None)


def test_a_run_without_an_id_gets_that_of_its_checkpoint_or_a_new_one(run):
    folders.fill(run, 0, 3, sign=1)
    run.close()
    origin = runs.find_checkpoint(run.path)[0].origin
    facts = run.path / "system.json"
    before = system.read(facts)
    assert before["id"] == origin.run
    facts.unlink()
    Run.reopen(run.path, 3, origin=origin).close()
    assert system.read(facts)["id"] == origin.run
    facts.write_text("{}")
    Run.reopen(run.path, 3).close()
    assert len(system.read(facts)["id"]) == len(origin.run)
    assert system.read(facts)["id"] != origin.run


def test_the_checkpoints_kept_are_those_of_the_settings(run):
    folders.fill(run, 0, 5, sign=1)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [
        "000004",
        "000005",
    ]
