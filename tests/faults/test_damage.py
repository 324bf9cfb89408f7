"""Checkpoints that are damaged, forged or another's: refused in a sentence; --resume falls back and says so."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import driver
import numpy as np
import pytest

from metarl import checkpoints, runs
from metarl.checkpoints import MANIFEST, STATE, TENSORS

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


def seal(newest: Path, **changes) -> None:
    """Make the sums right for what the files hold now, as someone who wants to deceive would."""
    manifest = json.loads((newest / MANIFEST).read_text()) | changes
    manifest.pop("sha256")
    manifest["files"] = {
        name: hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in (TENSORS, STATE)
    }
    sealed = hashlib.sha256(checkpoints._to_json(manifest)).hexdigest()
    (newest / MANIFEST).write_bytes(checkpoints._to_json(manifest | {"sha256": sealed}))


def spoil_format(newest: Path) -> str:
    seal(newest, format=checkpoints.FORMAT + 1)
    return "is of format 2, not 1"


def spoil_shape(newest: Path) -> str:
    seal(newest, iteration="three")
    return "holds what metarl does not write"


def spoil_state(newest: Path) -> str:
    (newest / STATE).write_text("{}")
    seal(newest)
    return "does not hold what outer.method needs"


SPOILS = (
    *(spoil_bit, spoil_random, spoil_folder, spoil_file),
    *(spoil_format, spoil_shape, spoil_state),
)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_what_is_no_checkpoint(server, whole, run, newest, spoil):
    assert_falls_back(server, whole, run, spoil(newest))


def test_another_configurations(server, whole, run, newest):
    other = whole(SAVED, "network.hidden_sizes=[5]")
    shutil.rmtree(newest)
    shutil.copytree(other / "checkpoints" / newest.name, newest)
    assert_falls_back(server, whole, run, "does not fit the configuration")


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
        seal(newest)
    assert_falls_back(server, whole, run)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists(), "the trap works"


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
    assert ended.code == 0
    assert ended.err == f"warning: {run}: has no checkpoint yet, so it begins anew.\n"
    driver.assert_same_run(whole(SAVED), run)
