"""What a run ran on: part of its record, because the last bits of its numbers depend on it."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from metarl.kernels import compiled
from metarl.processor import described
from metarl.storage import disk
from metarl.storage.record import RunError

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
        "cpu": described("model name"),
        "kernels": compiled.NAME,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "gpu": kind,
        "cuda": torch.version.cuda if kind else None,
        **_commit(Path(__file__).resolve().parent.parent),
    }


def begun() -> dict[str, Any]:
    """What is recorded as a run begins: `describe`, an id, and that it has ``saved`` no checkpoint yet."""
    return {"id": secrets.token_hex(8), "saved": False, **describe()}


def resumed(
    facts: Mapping[str, Any],
    iteration: int,
    changed: Mapping[str, tuple[Any, Any]] | None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """The same as it is continued: what on, and with which settings changed, is added under ``resumed``.

    Args:
        facts: what `read` gave; of an older run they have no id.
        iteration: the first one to come.
        changed: settings, each with its value before and now; None: not known.
        run_id: what its checkpoint says, for a run that has none.
    """
    entry = {"iteration": iteration, "changed": changed, **describe()}
    named = facts if "id" in facts else {"id": run_id or secrets.token_hex(8), **facts}
    return {**named, "saved": iteration > 0, "resumed": [*facts.get("resumed", []), entry]}


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Record what `begun` or `resumed` says."""
    disk.replace(path, (json.dumps(facts, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote; nothing where there is no file.

    Raises:
        RunError: it is something else, or cannot be read.
    """
    with disk.failures_as(RunError, path):
        try:
            facts = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            facts = None
    if not _is_known(facts):
        raise RunError(f"{path}: is damaged; restore the file, or remove it.")
    return dict(facts)


def _is_known(facts: Any) -> bool:
    """Whether it is what `write` writes, as far as it is read again."""
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("id", ""), str)
        and isinstance(facts.get("saved", True), bool)
        and isinstance(facts.get("resumed", []), list)
    )


def gpu() -> str | None:
    """The name of the GPU that this process would use."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
