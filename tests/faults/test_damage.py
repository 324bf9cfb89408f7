"""Checkpoints that are damaged, forged or another's: refused in a sentence; --resume falls back and says so."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import driver
import folders
import numpy as np
import pytest

from metarl import runs
from metarl.storage import checkpoints
from metarl.storage.checkpoints import MANIFEST, STATE, TENSORS
from metarl.storage.sealed import seal

SAVED, LENGTH = 3, 5


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A run of three iterations, with a checkpoint of each."""
    return shutil.copytree(whole(SAVED), tmp_path / "nav2d" / whole(SAVED).name)


@pytest.fixture
def newest(run) -> Path:
    return run / "checkpoints" / f"{SAVED:06d}"


def assert_falls_back(server, whole, run: Path, *said: str) -> None:
    """Resuming says in one sentence what is refused, and goes on from the checkpoint before it."""
    ended = server.run(f"iterations={LENGTH}", "--resume", str(run))
    assert ended.code == 0, ended
    (warning,) = [line for line in ended.err.splitlines() if line.startswith("warning: ")]
    for part in (f"{SAVED:06d}", *said):
        assert part in warning
    resumed = json.loads((run / "system.json").read_text())["resumed"]
    assert [each["iteration"] for each in resumed] == [SAVED - 1]
    driver.assert_same_run(whole(LENGTH), run)


@pytest.mark.parametrize("percent", [0.0, 10.0, 50.0, 95.0, 99.9])
@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_truncation(server, whole, run, newest, name, percent):
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: int(len(content) * percent / 100.0)])
    assert_falls_back(server, whole, run, name)


def test_each_of_200_flipped_bits_is_found(newest):
    rng, found = np.random.default_rng(1), 0
    for _ in range(200):
        path = newest / rng.choice([TENSORS, STATE, MANIFEST])
        content = path.read_bytes()
        altered = bytearray(content)
        altered[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        checkpoint, refused = checkpoints.newest_valid(newest.parent.parent)
        found += checkpoint.iteration == SAVED - 1 and path.name in refused[0]
        path.write_bytes(content)
    assert found == 200


def spoil_bit(newest: Path) -> str:
    content = bytearray((newest / TENSORS).read_bytes())
    content[len(content) // 2] ^= 4
    (newest / TENSORS).write_bytes(content)
    return TENSORS


def spoil_random(newest: Path) -> str:
    for name in (TENSORS, STATE, MANIFEST):
        (newest / name).write_bytes(np.random.default_rng(2).bytes(500))
    return "is damaged"


def spoil_folder(newest: Path) -> str:
    (newest / TENSORS).unlink()
    (newest / TENSORS).mkdir()
    return "Is a directory"


def spoil_file(newest: Path) -> str:
    shutil.rmtree(newest)
    newest.write_text("not a folder")
    return "there is no such checkpoint folder"


def forge_sums(newest: Path, **changes) -> None:
    """Make the sums right for what the files hold now, as someone who wants to deceive would."""
    manifest = json.loads((newest / MANIFEST).read_text()) | changes
    manifest.pop("sha256")
    manifest["files"] = {
        name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in (TENSORS, STATE)
    }
    (newest / MANIFEST).write_bytes(seal(manifest))


def spoil_format(newest: Path) -> str:
    forge_sums(newest, format=checkpoints.FORMAT + 1)
    return "is of format 2, not 1"


def spoil_manifest(newest: Path) -> str:
    forge_sums(newest, iteration="three")
    return "holds what metarl does not write"


def spoil_state(newest: Path) -> str:
    (newest / STATE).write_text("{}")
    forge_sums(newest)
    return "does not hold what outer.method needs"


def spoil_numbers(newest: Path) -> str:
    change_tensors(newest, lambda name, value: value / 0.0 if name == "theta/log_std" else value)
    return "theta/log_std does not hold finite numbers"


def spoil_memory(newest: Path) -> str:
    change_tensors(newest, lambda name, value: value[:-1] if name == "outer/average" else value)
    return "its outer/average is (23,), where (24,) is configured"


def change_tensors(newest: Path, change) -> None:
    """Save the checkpoint anew, with its tensors changed."""
    saved = checkpoints.load(newest)
    tensors = {name: change(name, value) for name, value in saved.tensors.items()}
    checkpoints.save(newest.parent, saved.iteration, tensors, saved.state, saved.score)


SPOILS = (
    *(spoil_bit, spoil_random, spoil_folder, spoil_file),
    *(spoil_format, spoil_manifest, spoil_state, spoil_numbers, spoil_memory),
)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_what_is_no_checkpoint(server, whole, run, newest, spoil):
    assert_falls_back(server, whole, run, spoil(newest))


def put_in_place(other: Path, newest: Path) -> None:
    """Copy another run's checkpoint of the same iteration over a run's own."""
    shutil.rmtree(newest)
    shutil.copytree(other / "checkpoints" / newest.name, newest)


def test_another_configurations(server, whole, run, newest):
    """One that does not say of which run it is, as older versions wrote them."""
    put_in_place(whole(SAVED, "network.hidden_sizes=[5]"), newest)
    forge_sums(newest, origin=None)
    assert_falls_back(server, whole, run, "does not fit the configuration")


def test_another_runs(server, whole, run, newest):
    """It would fit: only the numbers that it was trained with differ."""
    put_in_place(whole(SAVED, "seed=7", "problem.discount=0.5"), newest)
    assert_falls_back(server, whole, run, "is of another run, so it is not used here")


class Malicious:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_a_malicious_pickle_is_never_executed(server, whole, run, newest, tmp_path, name, sealed):
    trap = tmp_path / "executed"
    (newest / name).write_bytes(pickle.dumps(Malicious(trap)))
    if sealed and name != MANIFEST:
        forge_sums(newest)
    assert_falls_back(server, whole, run)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists(), "the trap works"


RECORDS = {
    "a line too deep": (runs.METRICS, "[" * 100_000, "line 2 is damaged"),
    "a line without its time": (runs.METRICS, '{"iteration": 1}', "line 2 is damaged"),
    "a line of text": (runs.METRICS, '{"iteration": 1, "time": 1, "a": "b"}', "line 2 is damaged"),
    "a line less": (
        runs.METRICS,
        "",
        f"has 2 lines before iteration {SAVED}, where the checkpoint's",
    ),
    "no file": (runs.METRICS, None, "is missing; restore the file"),
    "no JSON": (runs.SYSTEM, "{", "is damaged"),
    "another value": (runs.SYSTEM, "[]", "is damaged"),
    "another value inside": (runs.SYSTEM, '{"resumed": 3}', "is damaged"),
    "another id": (runs.SYSTEM, '{"id": 3}', "is damaged"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_damaged_record_ends_it_before_anything_is_changed(server, run, case):
    name, text, said = RECORDS[case]
    lines = (run / runs.METRICS).read_text().splitlines(keepends=True)
    if text is None:
        (run / name).unlink()
    elif name == runs.METRICS:
        (run / name).write_text("".join([lines[0], f"{text}\n" if text else "", *lines[2:]]))
    else:
        (run / name).write_text(text)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = server.run(f"iterations={LENGTH}", "--resume", str(run))
    driver.assert_one_sentence(ended, str(run / name), said)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_no_run_starts_from_scratch_in_silence(server, whole, run):
    for path in (run / "checkpoints").iterdir():
        (path / STATE).unlink()
    before = (run / runs.METRICS).read_bytes()
    ended = server.run("--resume", str(run))
    driver.assert_one_sentence(ended, str(run), "no checkpoint that can be used; start a new run")
    assert ended.err.count("state.json: is missing") == SAVED
    assert (run / runs.METRICS).read_bytes() == before
    shutil.rmtree(run / "checkpoints")
    ended = server.run("--resume", str(run))
    said = f"its record has {SAVED} iterations, but there is no checkpoint; restore the checkpoints"
    driver.assert_one_sentence(ended, str(run), said)
    assert (run / runs.METRICS).read_bytes() == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew_and_says_so(
    server, whole, tmp_path
):
    """The fifth fsync is of the record, before the checkpoint of the first iteration is written."""
    arguments = driver.new(tmp_path, f"iterations={SAVED}")
    driver.assert_one_sentence(server.run(*arguments, hook=("fail_once", "fsync", 5)))
    run = runs.find_run("latest", tmp_path)
    assert len(folders.record(run)) == 1
    assert not (run / "checkpoints").exists()
    ended = server.run("--resume", str(run))
    assert (ended.code, ended.err) == (
        0,
        f"warning: {run}: has no checkpoint yet, so it begins anew.\n",
    )
    driver.assert_same_run(whole(SAVED), run)
