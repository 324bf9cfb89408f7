"""What a run ran on: part of its record, because the last bits of its numbers depend on it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metarl import disk

PACKAGES = {"metarl": "metarl-torch", "torch": "torch", "mujoco": "mujoco"} | {
    name: name
    for name in ("gymnasium", "numpy", "scipy", "safetensors", "mujoco-warp", "warp-lang")
}


def describe() -> dict[str, Any]:
    """Versions, processor, accelerator, threads and commit of this process, as JSON values."""
    kind = gpu()
    return {
        "python": platform.python_version(),
        **{name: _version(package) for name, package in PACKAGES.items()},
        # Its metadata may leave out which build it is, +cpu or +cu130.
        "torch": str(torch.__version__),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "gpu": kind,
        "cuda": torch.version.cuda if kind else None,
        **_commit(Path(__file__).resolve().parent.parent),
    }


def write(path: Path) -> None:
    """Record what a run was started on."""
    disk.replace(path, _to_json(describe()))


def resumed(path: Path, iteration: int) -> bytes:
    """The record with what a run is continued on added to it, under ``resumed``.

    Raises:
        ValueError: the record is not what `write` or this wrote.
    """
    try:
        record = json.loads(path.read_bytes()) if path.exists() else {}
        before = [*record.get("resumed", [])]
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return _to_json(record | {"resumed": [*before, {"iteration": iteration, **describe()}]})


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def gpu() -> str | None:
    """The name of the GPU that this process would use."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit(checkout: Path) -> dict[str, Any]:
    """The commit of the checkout that metarl runs from; whether tracked files differ from it."""
    if not (checkout / ".git").exists():
        return {"commit": None, "dirty": None}
    commit = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(checkout: Path, *arguments: str) -> str | None:
    # Without its lock: a commit that the user makes at the same moment must not fail because of it.
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
