"""One verified cache of each image set: an array that is mapped into memory, and a sealed manifest.

``<cache>/<set>-<size>-<sum of the source's path>/`` holds ``images.npy`` (uint8) and, written last,
``manifest.json`` with its SHA-256. The folder gets its name once both are on disk, so a cache is
whole or not there. Array and manifest are checked at every start: the array by its size, and by its
SHA-256 too where that takes a fraction of a second; `read` with ``thorough`` always takes the sum.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.datasets.builder import FORMAT, IMAGES, MANIFEST, build
from metarl.datasets.locating import Located, expanded, stamp
from metarl.datasets.trees import DatasetError
from metarl.presentation.progress import say
from metarl.storage import disk
from metarl.storage.sealed import unseal

ALWAYS_SUMMED = 2**26
"""Bytes up to which the SHA-256 is taken at every start: 0.3 s on one core, six times Omniglot's."""
SECONDS_BETWEEN_LOOKS = 0.2


class Cached(NamedTuple):
    """A cache that was checked.

    Attributes:
        path: its folder.
        manifest: what it says.
        images: all pictures, train, val and test in this order, ``[I, C, H, W]``, mapped read-only.
    """

    path: Path
    manifest: dict[str, Any]
    images: NDArray[np.uint8]


def directory() -> Path:
    """The folder of all caches: in ``$METARL_CACHE``, or in ``~/.cache/metarl``.

    Raises:
        DatasetError: there is no home.
    """
    if chosen := os.getenv("METARL_CACHE"):
        return expanded(chosen) / "datasets"
    try:
        return Path.home() / ".cache" / "metarl" / "datasets"
    except RuntimeError:
        raise DatasetError(
            "there is no home folder to cache image sets in; set $METARL_CACHE to a folder."
        ) from None


def path_of(located: Located, size: int) -> Path:
    """The folder of a set's cache, one for each place it comes from and each size."""
    source = "\n".join(os.path.realpath(path) for path in located.paths)
    short = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:8]
    return directory() / f"{located.image_set.name}-{size}-{short}"


def read(path: Path, thorough: bool = False) -> Cached | None:
    """A cache that is there; None where there is none.

    Args:
        path: its folder.
        thorough: take the SHA-256 of the array however large it is.

    Raises:
        DatasetError: it is damaged.
    """
    advice = f"delete the folder {path}, and it is built again when it is needed"
    try:
        if not path.is_dir():
            return None
        manifest = unseal((path / MANIFEST).read_bytes())
        if manifest is None or manifest.get("format") != FORMAT:
            what = "is damaged" if manifest is None else f"is not of format {FORMAT}"
            raise DatasetError(f"{path / MANIFEST}: {what}; {advice}.")
        size = (path / IMAGES).stat().st_size
        if size != manifest["bytes"]:
            raise DatasetError(
                f"{path / IMAGES}: is damaged ({size:,} bytes, not {manifest['bytes']:,}); {advice}."
            )
        if (thorough or size <= ALWAYS_SUMMED) and _sum(path / IMAGES) != manifest["images_sha256"]:
            raise DatasetError(
                f"{path / IMAGES}: is damaged (its SHA-256 is not the manifest's); {advice}."
            )
        images = np.load(path / IMAGES, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be used ({error}); {advice}.") from None
    if (str(images.dtype), list(images.shape)) != ("uint8", manifest["shape"]):
        raise DatasetError(f"{path / IMAGES}: is damaged (another shape); {advice}.")
    return Cached(path, manifest, images)


def usable(located: Located, size: int, thorough: bool = False) -> tuple[Cached | None, str]:
    """The cache of a set as it lies on disk now, or None and why it must be built, if not new."""
    path = path_of(located, size)
    try:
        cached = read(path, thorough)
    except DatasetError as error:
        return None, str(error)
    if cached is not None and cached.manifest["source"]["stamp"] != stamp(located):
        return None, f"{located.image_set.name}: its files have changed since {path} was built."
    return cached, ""


def ensure(located: Located, size: int, thorough: bool = False) -> Cached:
    """The cache of a set, built first where it is missing, damaged or older than its source.

    Two processes may ask at once: one builds, the other waits.

    Args:
        located: where the set lies.
        size: pixels of each side.
        thorough: as in `read`.

    Raises:
        DatasetError: the set or the disk does not allow it; no cache is left behind.
    """
    cached, _ = usable(located, size, thorough)
    if cached is not None:
        return cached
    path = path_of(located, size)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            cached, reason = usable(located, size, thorough)
            if cached is None:
                if reason:
                    say(f"{reason.rstrip('.')}; building it again.")
                build(path, located, size)
                cached = read(path)
    if cached is None:
        raise DatasetError(f"{path}: was deleted while it was in use; start again.")
    return cached


def caches(names: tuple[str, ...]) -> list[Path]:
    """The folders of all caches of some sets, in sorted order."""
    with _writing(directory()):
        if not directory().is_dir():
            return []
        return sorted(
            path
            for path in directory().iterdir()
            if path.is_dir() and path.name.rsplit("-", 2)[0] in names
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a cache, which only its building needs; wait for whoever has it."""
    told = False
    while True:
        try:
            descriptor = disk.lock(path.with_name(f".{path.name}.lock"))
            break
        except BlockingIOError:
            if not told:
                say(f"{path}: another process builds it; waiting.")
                told = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(
            f"{path}: cannot be written ({reason}); make room and let it be written, or set "
            "$METARL_CACHE to another folder."
        ) from None


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
