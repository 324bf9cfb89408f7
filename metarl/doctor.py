"""``python -m metarl.doctor``: what training will find on this machine, and what to do about each problem."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from metarl.errors import MISTAKE, run_command

DISTRIBUTION = "metarl-torch"
BACK_ENDS = {
    "egl": "a GPU's driver, or Mesa's libegl1",
    "osmesa": "libosmesa6",
    "glfw": "a display",
}
DRAWING = """
import gymnasium, mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""
RUNS = Path("runs")
ENOUGH_BYTES = 1_000_000_000
ELSEWHERE = {
    "runs": "choose another folder by --run-dir or run.directory",
    "temporary files": "set TMPDIR to a folder that can be written",
    "image cache": "set METARL_CACHE to a folder that can be written",
}
"""What to do about a folder that cannot be written."""


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        subject: what was looked at.
        found: what there is.
        advice: what to do about it; empty where nothing is wrong.
        serious: training cannot run as long as that is so.
    """

    subject: str
    found: str
    advice: str = ""
    serious: bool = False


def packages() -> Iterator[Finding]:
    """Python and what metarl requires: there, of a version in range, and importable."""
    yield Finding("python", sys.version.split()[0])
    try:
        required = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        advice = "install it: pip install -e . in the checkout"
        yield Finding("metarl", "runs from its folder, but is not installed", advice)
        return
    for each in required:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield _package(each)


def _package(required: Requirement) -> Finding:
    name, wanted = required.name, str(required.specifier)
    install = f"pip install '{name}{wanted}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name, "is missing", install, serious=True)
    if not required.specifier.contains(installed, prereleases=True):
        return Finding(name, f"{installed}, but metarl needs {wanted}", install, serious=True)
    try:
        import_module({"pillow": "PIL"}.get(name, name))
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        said = f"{installed}, but it cannot be imported ({_first_line(error)})"
        return Finding(name, said, f"install it anew: {install} --force-reinstall", serious=True)
    return Finding(name, installed)


def devices() -> Iterator[Finding]:
    """Processor, GPU, threads."""
    from metarl.resources import resolve_threads

    try:
        import torch

        from metarl.kernels import compiled
    except ImportError:
        return
    if torch.cuda.is_available():
        yield Finding("device", f"cuda: {torch.cuda.get_device_name()}")
    elif torch.version.cuda:
        advice = "device: auto trains on the CPU; for a GPU check nvidia-smi and its driver"
        yield Finding("device", f"cpu; torch is made for CUDA {torch.version.cuda}", advice)
    else:
        yield Finding("device", "cpu")
    missing = compiled.MISSING
    advice = "" if missing in {"", compiled.UNSUITED} else compiled.ADVICE
    found = f"{missing}; torch takes their place, more slowly" if missing else compiled.NAME
    yield Finding("compiled kernels", found, advice)
    yield Finding("threads", f"{resolve_threads('auto')} for tasks, 1 in each matrix product")
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":
        advice = "unset it: matrices of one task are small, and metarl shares out tasks instead"
        yield Finding("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"], advice)


def drawing() -> Iterator[Finding]:
    """Which of MuJoCo's GL back ends can draw; only films need one."""
    working = [name for name in BACK_ENDS if _draws(name)]
    chosen = os.environ.get("MUJOCO_GL")
    if not working:
        needs = "; ".join(f"{name} needs {what}" for name, what in BACK_ENDS.items())
        advice = f"only --render of MuJoCo's environments needs one: {needs}"
        yield Finding("GL back ends", "none works", advice)
    elif chosen is not None and chosen not in working:
        advice = f"set MUJOCO_GL={working[0]}, or unset it"
        yield Finding("GL back ends", f"{', '.join(working)}; MUJOCO_GL is {chosen}", advice)
    else:
        advice = (
            "" if chosen or "DISPLAY" in os.environ else f"for --render set MUJOCO_GL={working[0]}"
        )
        yield Finding("GL back ends", ", ".join(working), advice)


def _draws(back_end: str) -> bool:
    # In a process of its own: a driver that is half there may end the process.
    environment = os.environ | {"MUJOCO_GL": back_end}
    command = [sys.executable, "-c", DRAWING]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def folders(runs: Path) -> Iterator[Finding]:
    """Where runs, what is temporary and caches of images are kept: writable, with room.

    Args:
        runs: folder of the runs.
    """
    yield _folder("runs", runs, serious=True)
    try:
        yield _folder("temporary files", Path(tempfile.gettempdir()))
    except OSError as error:
        yield Finding("temporary files", _first_line(error), ELSEWHERE["temporary files"])
    try:
        from metarl.datasets import DatasetError, cache
    except ImportError:  # of a package that is reported by name
        return
    try:
        yield _folder("image cache", cache.directory())
    except DatasetError as error:
        yield Finding("image cache", str(error), ELSEWHERE["image cache"])


def _folder(subject: str, path: Path, serious: bool = False) -> Finding:
    there = path
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
        status = os.statvfs(there)
    except OSError as error:
        found = f"{path.absolute()}: cannot be written ({error.strerror})"
        return Finding(subject, found, ELSEWHERE[subject], serious)
    free = status.f_bavail * status.f_frsize
    found = f"{path.absolute()}, {free / 1e9:.1f} GB free"
    return Finding(subject, found, "make room" if free < ENOUGH_BYTES else "")


def image_sets() -> Iterator[Finding]:
    """Which image sets are found, and whether they are cached; only few-shot classification needs them."""
    try:
        from metarl import datasets
    except ImportError:  # of a package that is reported by name
        return
    for name in datasets.SETS:
        try:
            place = datasets.located(name)
            state = "cached" if datasets.cached(name) else "cached by the first run"
            where = ", ".join(map(str, place.paths))
            yield Finding(name, f"{place.layout} {where}; {state}")
        except datasets.NotFoundError:
            advice = (
                "only its configurations need it: python -m metarl.datasets says where to put it"
            )
            yield Finding(name, "not found", advice)
        except datasets.DatasetError as error:
            yield Finding(name, str(error), "correct that; only its configurations need it")


def configuration(path: str) -> Iterator[Finding]:
    """Whether a configuration can be read, and what it describes be built; images are found, but not cached.

    Args:
        path: of the configuration.
    """
    from metarl import config, datasets
    from metarl.building import opened_problem
    from metarl.datasets import cache
    from metarl.errors import is_expected
    from metarl.schema.problems import Images

    try:
        settings = config.load(path)
        chosen = settings.problem
        if isinstance(chosen, Images) and not datasets.cached(
            chosen.data_set, chosen.data, chosen.side
        ):
            place = _folder("image cache", cache.directory(), serious=True)
            found = f"{path}: {chosen.title} can be trained once its images are cached, by the first run"
            yield place if place.serious else Finding("configuration", found)
            return
        with opened_problem(settings) as problem:
            yield Finding("configuration", f"{path}: {problem.name} is ready to train")
    except Exception as error:
        if not is_expected(error):
            raise
        yield Finding("configuration", str(error), "correct that", serious=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.doctor",
        description="Show what training will find on this machine, and what to do about problems.",
        epilog="Exit code 0: training can run. 2: it cannot.",
    )
    result.add_argument(
        "config", nargs="?", help="also check that this configuration can be trained"
    )
    result.add_argument(
        "--run-dir", type=Path, help="folder of the runs, instead of the configuration's"
    )
    result.add_argument("--traceback", action="store_true", help="show where an error came from")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return run_command(lambda: _main(options), options.traceback)


def _main(options: argparse.Namespace) -> int:
    broken = False
    runs = options.run_dir or (_configured_runs(options.config) if options.config else RUNS)
    sections = packages(), devices(), drawing(), folders(runs), image_sets()
    for section in sections:
        for finding in section:
            broken |= show(finding)
    if options.config and not broken:
        for finding in configuration(options.config):
            broken |= show(finding)
    print("training cannot run" if broken else "training can run")
    return MISTAKE if broken else 0


def _configured_runs(path: str) -> Path:
    """Where a configuration keeps its runs; the usual place where it cannot be read, which `configuration` reports."""
    try:
        from metarl import config

        return Path(config.load(path).run.directory)
    except ImportError:  # of a package that is reported by name
        return RUNS
    except config.ConfigError:
        return RUNS


def show(finding: Finding) -> bool:
    """Print a finding; whether it is serious."""
    mark = "PROBLEM" if finding.serious else "note" if finding.advice else "ok"
    advice = f"  -> {finding.advice}" if finding.advice else ""
    print(f"{mark:7}  {finding.subject}: {finding.found}{advice}", flush=True)
    return finding.serious


if __name__ == "__main__":
    sys.exit(main())
