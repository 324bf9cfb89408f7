"""Checkpoints: folders of tensors and JSON that are complete and unaltered, or refused.

``<iteration>/`` holds ``tensors.safetensors``, ``state.json`` and, written last, ``manifest.json``
with the SHA-256 of both and of itself. Neither format notices a flipped bit, so nothing is parsed
before its sum is verified.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metarl.storage import disk
from metarl.storage.sealed import seal, to_json, unseal

FORMAT = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that cannot be written or must not be used; one sentence that names the file."""


class Origin(NamedTuple):
    """Which moment of which run a checkpoint was saved in.

    Attributes:
        run: the run's id.
        lines: that its record had.
    """

    run: str
    lines: int


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
        path: its folder.
        iteration: iterations completed, so the one to continue with.
        tensors: on the CPU, in the order they were saved.
        state: plain JSON values.
        score: what the best checkpoint is chosen by, higher is better; None: not measured.
        origin: None: it does not say, as those of older versions do not.
    """

    path: Path
    iteration: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    score: float | None
    origin: Origin | None = None


def save(
    directory: Path,
    iteration: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    score: float | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write one checkpoint, so that at any moment it is either whole or not there.

    Args:
        directory: folder of the checkpoints, made if missing; that which holds it must be there.
        iteration: iterations completed.
        tensors: on any device.
        state: JSON values; a tuple comes back as a list.
        score: higher is better; None or not finite: not measured.
        origin: the run and its record; not in the state, so that runs with the same numbers have the same state.

    Returns:
        The checkpoint's folder, ``directory/<iteration>``; one that was there is replaced.

    Raises:
        CheckpointError: the disk does not take it; nothing is left behind.
    """
    from safetensors.torch import save as to_bytes

    # Clones, because safetensors refuses tensors that share memory.
    cloned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    files = {TENSORS: to_bytes(cloned), STATE: to_json(dict(state))}
    manifest = {
        "format": FORMAT,
        "iteration": iteration,
        "score": None if score is None or not math.isfinite(score) else float(score),
        "origin": origin and origin._asdict(),
        "tensors": list(tensors),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files[MANIFEST] = seal(manifest)
    final = directory / f"{iteration:06d}"
    try:
        directory.mkdir(exist_ok=True)  # never the run's folder itself, if somebody removed it
        with disk.replace_folder(final) as folder:
            for name, content in files.items():
                disk.write(folder / name, content)
    except OSError as error:
        raise CheckpointError(f"{final}: cannot be written ({error.strerror}).") from error
    return final


def load(path: str | Path) -> Checkpoint:
    """Read one checkpoint, every byte of it verified first.

    Args:
        path: the checkpoint's folder.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or of another format.
    """
    from safetensors.torch import load as from_bytes

    path = Path(path)
    manifest = _read_manifest(path)
    contents = {name: _read(path / name) for name in (TENSORS, STATE)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
            raise CheckpointError(f"{path / name}: is damaged (its SHA-256 is not the manifest's).")
    # The sums are right, so it was made like this: by another program, or to deceive.
    try:
        tensors = from_bytes(contents[TENSORS])
        state = json.loads(contents[STATE])
        named = {name: tensors[name] for name in manifest["tensors"]}
    except Exception as error:  # noqa: BLE001 - there is no list of what the parsers raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: holds what metarl does not write ({reason}).") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / STATE}: holds what metarl does not write.")
    origin = Origin(**manifest["origin"]) if manifest.get("origin") else None
    return Checkpoint(path, manifest["iteration"], named, state, manifest["score"], origin)


def pack(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as bytes, for another process of the run; `unpack` is the inverse, but for path and origin."""
    from safetensors.torch import save as to_bytes

    head = [checkpoint.iteration, list(checkpoint.tensors), checkpoint.state, checkpoint.score]
    cloned = {name: each.detach().cpu().clone() for name, each in checkpoint.tensors.items()}
    return json.dumps(head).encode() + b"\n" + to_bytes(cloned)


def unpack(sent: bytes) -> Checkpoint:
    """What `pack` made bytes of."""
    from safetensors.torch import load as from_bytes

    head, _, content = sent.partition(b"\n")
    iteration, names, state, score = json.loads(head)
    tensors = from_bytes(content)
    return Checkpoint(Path(), iteration, {name: tensors[name] for name in names}, state, score)


def newest_valid(
    run: str | Path, use: Callable[[Checkpoint], None] = lambda _: None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a run that can be trusted, and used.

    Args:
        run: the run's folder.
        use: takes the checkpoint; raises CheckpointError if it is of no use.

    Returns:
        The checkpoint or None, and a sentence for each newer one that was refused.
    """
    refused: list[str] = []
    for path in reversed(in_order(Path(run) / "checkpoints")):
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            refused.append(str(error))
            continue
        try:
            use(checkpoint)
        except CheckpointError as error:
            refused.append(f"{path}: {error}")
            continue
        return checkpoint, refused
    return None, refused


def in_order(directory: Path) -> list[Path]:
    """The folders of finished checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    finished = (path for path in directory.iterdir() if path.name.isdecimal())
    return sorted(finished, key=lambda path: int(path.name))


def best(directory: Path) -> Path | None:
    """The folder with the highest score, the newer of equals; None where no score was measured."""
    scored = []
    for path in in_order(directory):
        try:
            score = _read_manifest(path)["score"]
        except CheckpointError:
            continue
        if score is not None:
            scored.append((score, int(path.name), path))
    return max(scored)[-1] if scored else None


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best, and what failed saves left."""
    kept = {*in_order(directory)[-keep:], best(directory)}
    for path in in_order(directory):
        if path not in kept:
            disk.remove(path)
    remove_leftovers(directory)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary folders of saves that were interrupted."""
    for path in directory.glob(".[0-9]*.[0-9]*"):
        disk.remove(path)


def set_aside(directory: Path, iteration: int) -> None:
    """Rename the checkpoints after ``iteration``, so that a run continued there forgets them."""
    for path in in_order(directory):
        if int(path.name) > iteration:
            aside = path.with_name(f"{path.name}.refused")
            disk.remove(aside)
            path.rename(aside)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint folder.")
    manifest = unseal(_read(path / MANIFEST))
    if manifest is None:
        raise CheckpointError(f"{path / MANIFEST}: is damaged.")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path / MANIFEST}: is of format {manifest.get('format')}, not {FORMAT} as read here."
        )
    if not _is_complete(manifest):
        raise CheckpointError(f"{path / MANIFEST}: holds what metarl does not write.")
    return manifest


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    files, names = manifest.get("files"), manifest.get("tensors")
    score = manifest.get("score", math.nan)
    return (
        isinstance(files, dict)
        and {TENSORS, STATE} <= files.keys()
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and type(manifest.get("iteration")) is int
        and manifest["iteration"] >= 0
        and (score is None or (isinstance(score, float) and math.isfinite(score)))
        and _is_origin(manifest.get("origin"))
    )


def _is_origin(origin: Any) -> bool:
    return origin is None or (
        isinstance(origin, dict)
        and origin.keys() == set(Origin._fields)
        and isinstance(origin["run"], str)
        and type(origin["lines"]) is int
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
