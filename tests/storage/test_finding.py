"""What a path means: a run, one of its checkpoints, the latest; and which checkpoints are a run's own."""

from __future__ import annotations

import os
import shutil

import folders
import pytest

from metarl import config, runs
from metarl.runs import Run, RunError
from metarl.storage.checkpoints import CheckpointError


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


def test_a_checkpoint_of_another_run_is_not_taken_for_its_own(settings, tmp_path):
    one, other = (folders.new_run(settings, tmp_path) for _ in range(2))
    for each in (one, other):
        folders.fill(each, 0, 3, sign=1)
        each.close()
    copy = shutil.copytree(one.path, tmp_path / "copy")
    newest = copy / "checkpoints/000003"
    shutil.rmtree(newest)
    shutil.copytree(other.path / "checkpoints/000003", newest)
    found, refused = runs.find_checkpoint(copy)
    assert found.iteration == 2
    assert refused == [f"{newest}: is of another run, so it is not used here."]
    assert runs.find_checkpoint(newest)[0].iteration == 3, "named itself it is as good as any"
    (copy / "system.json").unlink()
    assert runs.newest_checkpoint(copy)[0].iteration == 3, "nothing says whose they are"


def test_a_record_is_given_up_only_where_there_never_was_a_checkpoint(settings, run):
    runs.check_unsaved(run.path)
    run.log(0, {"a": 1.0})
    runs.check_unsaved(run.path)
    run.save_checkpoint(1, {}, {})
    run.close()
    shutil.rmtree(run.path / "checkpoints")
    said = r"its record has 1 iterations, but there is no checkpoint; restore the checkpoints, or"
    with pytest.raises(RunError, match=said):
        runs.check_unsaved(run.path)
    Run.reopen(run.path, 0).close()
    runs.check_unsaved(run.path)


def test_of_an_older_run_it_is_not_known_whether_there_was_a_checkpoint(run):
    (run.path / "system.json").write_text("{}")
    runs.check_unsaved(run.path)
    run.log(0, {"a": 1.0})
    with pytest.raises(RunError, match="there is no checkpoint"):
        runs.check_unsaved(run.path)
