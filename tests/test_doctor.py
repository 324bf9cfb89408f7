"""The doctor: it says what is there, what to do about each problem, and whether training can run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import folders
import pytest
import torch
from packaging.requirements import Requirement

from metarl import datasets, doctor
from metarl.doctor import Finding

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "nav2d.yaml")


@pytest.fixture
def drawing(monkeypatch):
    """Which back ends can draw, without the seconds that it takes to find out."""

    def drawing(*working):
        monkeypatch.setattr(doctor, "_draws", lambda name: name in working)

    drawing("egl")
    return drawing


def test_a_sound_machine_is_ready(drawing, tmp_path, capsys):
    assert doctor.main(["--run-dir", str(tmp_path / "runs"), CONFIG]) == 0
    said = capsys.readouterr().out
    for package in ("torch", "mujoco", "gymnasium", "numpy", "safetensors"):
        assert f"ok       {package}: {metadata.version(package)}\n" in said
    assert f"ok       python: {sys.version.split()[0]}\n" in said
    assert ("device: cuda" in said) == torch.cuda.is_available()
    assert f"threads: {len(os.sched_getaffinity(0))} for tasks" in said
    assert f"runs: {tmp_path / 'runs'}, " in said
    assert "envs:Navigation2D-v0 is ready to train" in said
    assert "PROBLEM" not in said
    assert said.endswith("training can run\n")
    assert not (tmp_path / "runs").exists()


def test_it_runs_as_a_command(tmp_path):
    """A folder that is a file: exit code 2, and every other line is still there."""
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "metarl.doctor", "--run-dir", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert f"PROBLEM  runs: {tmp_path / 'file'}: cannot be written (Not a directory)" in done.stdout
    assert "-> choose another folder by --run-dir or run.directory" in done.stdout
    assert "GL back ends: " in done.stdout
    assert done.stdout.endswith("training cannot run\n")


@pytest.mark.parametrize(
    ("requirement", "found", "advice"),
    [
        ("no-such-package>=1", "is missing", "pip install 'no-such-package>=1'"),
        ("numpy>=999", "but metarl needs >=999", "pip install 'numpy>=999'"),
        ("numpy<0.1", "but metarl needs <0.1", "pip install 'numpy<0.1'"),
    ],
)
def test_a_package_that_is_missing_or_of_another_version(requirement, found, advice):
    finding = doctor._package(Requirement(requirement))
    assert found in finding.found
    assert finding.advice == advice
    assert finding.serious


def test_a_package_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    finding = doctor._package(Requirement("scipy"))
    assert "cannot be imported" in finding.found
    assert "--force-reinstall" in finding.advice
    assert finding.serious


def test_metarl_that_is_not_installed_is_a_note(monkeypatch):
    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(doctor, "requires", missing)
    *_, finding = doctor.packages()
    assert "not installed" in finding.found
    assert "pip install -e ." in finding.advice
    assert not finding.serious


@pytest.mark.parametrize(
    ("working", "chosen", "found", "advice"),
    [
        ((), None, "none works", "egl needs a GPU's driver, or Mesa's libegl1; osmesa needs"),
        (("osmesa",), "egl", "osmesa; MUJOCO_GL is egl", "set MUJOCO_GL=osmesa"),
        (("egl", "osmesa"), None, "egl, osmesa", "for --render set MUJOCO_GL=egl"),
        (("egl",), "egl", "egl", ""),
    ],
)
def test_back_ends(drawing, monkeypatch, working, chosen, found, advice):
    drawing(*working)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if chosen:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    (finding,) = doctor.drawing()
    assert finding.found == found
    assert advice in finding.advice
    assert bool(finding.advice) == bool(advice)
    assert not finding.serious


def test_a_back_end_that_is_none_draws_nothing():
    assert not doctor._draws("no-such-back-end")


def test_threads_inside_products_are_advised_against(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert Finding("OMP_NUM_THREADS", "8", *_advice("OMP_NUM_THREADS")) in doctor.devices()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not _advice("OMP_NUM_THREADS")


def _advice(subject):
    return [finding.advice for finding in doctor.devices() if finding.subject == subject]


@pytest.mark.parametrize("name", ["x" * 300, "hidden/runs"])
def test_a_folder_that_cannot_even_be_looked_for(tmp_path, name, monkeypatch):
    """A name longer than any; a folder below one that may not be entered, which root may."""
    exists = Path.exists

    def forbidden(path, **options):
        if path.parent.name == "hidden":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", forbidden)
    finding = doctor._folder("runs", tmp_path / name, serious=True)
    reason = "Permission denied" if name.startswith("hidden") else "File name too long"
    assert finding.found == f"{tmp_path / name}: cannot be written ({reason})"
    assert finding.serious


@pytest.mark.parametrize("option", [[], ["--run-dir"]])
def test_the_folder_of_runs_is_the_configurations_or_the_one_asked_for(
    drawing, tmp_path, capsys, option
):
    """Nothing can be made below a file."""
    (tmp_path / "file").touch()
    path = tmp_path / "a.yaml"
    path.write_text(f"{Path(CONFIG).read_text()}\nrun: {{directory: {tmp_path}/file/runs}}\n")
    asked = [*option, str(tmp_path)] if option else []
    assert doctor.main([*asked, str(path)]) == (0 if option else 2)
    said = capsys.readouterr().out
    assert (f"PROBLEM  runs: {tmp_path}/file/runs: cannot be written" in said) == (not option)
    assert (f"ok       runs: {tmp_path}, " in said) == bool(option)


def test_a_configuration_that_cannot_be_read_has_the_usual_folder(tmp_path):
    assert doctor._configured_runs(str(tmp_path / "nowhere.yaml")) == Path("runs")


def test_a_cache_that_cannot_be_written(pictures, tmp_path, monkeypatch):
    """A note, but for a configuration that needs it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "file"))
    *_, finding = doctor.folders(tmp_path)
    assert finding.found == f"{tmp_path}/file/datasets: cannot be written (Not a directory)"
    assert finding.advice == "set METARL_CACHE to a folder that can be written"
    assert not finding.serious
    (needed,) = doctor.configuration(small_images(tmp_path))
    assert needed == finding._replace(serious=True)


def test_no_home_to_cache_in(monkeypatch, tmp_path):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("METARL_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    *_, finding = doctor.folders(tmp_path)
    assert (finding.subject, finding.serious) == ("image cache", False)
    assert "there is no home folder to cache image sets in" in finding.found


def test_a_disk_with_little_room(monkeypatch, tmp_path):
    free = os.statvfs(tmp_path)
    monkeypatch.setattr(doctor, "ENOUGH_BYTES", free.f_blocks * free.f_frsize + 1)
    finding = doctor._folder("runs", tmp_path)
    assert finding.advice == "make room"
    assert not finding.serious


@pytest.fixture
def pictures(monkeypatch, tmp_path):
    """A tiny image set where sets are looked for; its folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pictures = folders.tiny_image_set(tmp_path, monkeypatch)
    monkeypatch.setenv("METARL_DATA", str(pictures))
    return pictures


def small_images(folder: Path) -> str:
    """A configuration of the tiny image set; its path."""
    settings = ROOT.joinpath("configs/miniimagenet_5way_1shot.yaml").read_text()
    for key, value in (("ways: 5", "ways: 2"), ("queries: 15", "queries: 2")):
        assert key in settings
        settings = settings.replace(key, value)
    path = folder / "a.yaml"
    path.write_text(settings)
    return str(path)


def test_image_sets_that_are_found_and_those_that_are_not(pictures):
    omniglot, other = doctor.image_sets()
    assert (omniglot.subject, omniglot.found) == ("omniglot", "not found")
    assert "only its configurations need it: python -m metarl.datasets" in omniglot.advice
    where = ", ".join(str(pictures / split) for split in ("train", "val", "test"))
    found = f"class folders {where}; cached by the first run"
    assert other == Finding("mini-imagenet", found)
    datasets.load("mini-imagenet", "train")
    assert list(doctor.image_sets())[1].found == f"class folders {where}; cached"
    assert not omniglot.serious


def test_an_image_set_that_cannot_be_searched_is_a_note(monkeypatch):
    monkeypatch.setenv("METARL_DATA", "~nobody-of-this-name/data")
    for finding in doctor.image_sets():
        assert "begins with a home folder that is not known" in finding.found
        assert finding.advice
        assert not finding.serious


def test_looking_at_a_configuration_of_images_caches_none(pictures, tmp_path):
    path = small_images(tmp_path)
    (finding,) = doctor.configuration(path)
    assert "mini-imagenet, 2-way 1-shot can be trained once its images are cached" in finding.found
    assert not (tmp_path / "cache").exists()
    datasets.load("mini-imagenet", "train")
    (finding,) = doctor.configuration(path)
    assert finding.found.endswith("is ready to train")
    assert finding.advice == ""
    pictures.rename(tmp_path / "elsewhere")
    (finding,) = doctor.configuration(path)
    assert "mini-imagenet: not found in" in finding.found
    assert finding.serious


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("iterations: 0\n", "a.yaml: "),
        (Path(CONFIG).read_text().replace("Navigation2D", "Nowhere"), "envs:Nowhere-v0"),
    ],
)
def test_a_configuration_that_cannot_be_trained(tmp_path, content, said):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    (finding,) = doctor.configuration(str(path))
    assert said in finding.found
    assert finding.serious
