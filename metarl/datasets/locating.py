"""Where an image set lies on disk, found without opening any of its files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from metarl.datasets.sets import CSV_FILES, IMAGES, SPLITS, ImageSet
from metarl.datasets.trees import DatasetError

SEARCH_DEPTH, MAX_FOLDERS = 3, 5_000


class NotFoundError(DatasetError):
    """No files of a set lie where they are looked for."""


class Located(NamedTuple):
    """Files of a set, found without opening any of them.

    Attributes:
        image_set: which set.
        layout: a few words for a person.
        paths: the folders and files that hold it.
        depth: levels of folders below them.
    """

    image_set: ImageSet
    layout: str
    paths: tuple[Path, ...]
    depth: int


def places(root: str | Path | None = None) -> list[tuple[str, Path]]:
    """Where sets are looked for, each with what names it: the root alone, or the usual places."""
    if root is not None:
        return [("the folder asked for", expanded(root))]
    found = [("$METARL_DATA", expanded(data))] if (data := os.getenv("METARL_DATA")) else []
    with contextlib.suppress(RuntimeError):
        found.append(("the usual place", Path.home() / ".cache" / "metarl"))
    return found


def expanded(path: str | Path) -> Path:
    """The path with the home folder for ``~``.

    Raises:
        DatasetError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DatasetError(
            f"{path}: begins with a home folder that is not known; write the path in full."
        ) from None


def locate(image_set: ImageSet, root: str | Path | None = None) -> Located:
    """Find a set in the first place that holds it.

    Args:
        image_set: which.
        root: the only folder (or zip) to look at; None: ``$METARL_DATA``, then ``~/.cache/metarl``.

    Raises:
        NotFoundError: none holds it; says where was looked, for what, and what to do.
        DatasetError: a place cannot be searched.
    """
    looked = []
    for name, place in places(root):
        find = _find_parts if image_set.parts else _find_splits
        found, missing = find(image_set, place)
        if found is not None:
            return found
        looked.append(f"{place} ({name}{missing})")
    raise NotFoundError(
        f"{image_set.name}: not found in {' or '.join(looked) or 'any place, as there is no home'}; "
        f"expected is {image_set.expected}; put it there, or name its folder by $METARL_DATA, by "
        "problem.data of a configuration, or by --data of python -m metarl.datasets."
    )


def stamp(located: Located) -> str:
    """A sum that differs once files are added, removed, renamed, or replaced in a zip or a list.

    No picture is read, so one that is overwritten in its folder does not show.
    """
    digest = hashlib.sha256()
    try:
        for path in located.paths:
            for line in _stamps(path, path.name, located.depth):
                digest.update(line.encode(errors="surrogateescape"))
    except OSError as error:
        raise DatasetError(
            f"{error.filename}: cannot be read ({error.strerror}); make it readable."
        ) from None
    return digest.hexdigest()


def _find_parts(image_set: ImageSet, root: Path) -> tuple[Located | None, str]:
    """Each part as a folder, or as a zip of its name; what is missing otherwise."""
    found: dict[str, Path] = {}
    for folder, folders, files in _search(root):
        for part, _ in image_set.parts:
            if part in folders:
                found.setdefault(part, folder / part)
            elif f"{part}.zip" in files:
                found.setdefault(part, folder / f"{part}.zip")
        if len(found) == len(image_set.parts):
            break
    else:
        missing = next(part for part, _ in image_set.parts if part not in found)
        has = f", which has {', '.join(found)} but no {missing}"
        return None, has if found else _absence(root)
    paths = tuple(found[part] for part, _ in image_set.parts)
    zipped = {path.suffix == ".zip" for path in paths}
    layout = "folder and zip" if len(zipped) > 1 else "zips" if zipped == {True} else "folders"
    return Located(image_set, layout, paths, depth=2), ""


def _find_splits(image_set: ImageSet, root: Path) -> tuple[Located | None, str]:
    """One folder or zip with all splits; one that bears the set's name before any other."""
    if _is(Path.is_file, root):
        return Located(image_set, "zip", (root,), depth=0), ""
    named = re.compile(image_set.name.replace("-", "[-_ ]?"), re.IGNORECASE)
    first: Located | None = None
    for folder, folders, files in _search(root):
        if folders.issuperset(SPLITS):
            beside = CSV_FILES if files.issuperset(CSV_FILES) else ()
            paths = tuple(folder / each for each in (*SPLITS, *beside))
            found = [Located(image_set, "class folders", paths, depth=1)]
        elif IMAGES in folders and files.issuperset(CSV_FILES):
            paths = tuple(folder / name for name in (*CSV_FILES, IMAGES))
            found = [Located(image_set, "images with CSV files", paths, depth=0)]
        else:
            zips = sorted(each for each in files if each.endswith(".zip") and named.match(each))
            found = [Located(image_set, "zip", (folder / each,), depth=0) for each in zips]
        for each in found:
            if each.layout == "zip" or any(named.search(part) for part in folder.parts):
                return each, ""
            first = first or each
    return first, _absence(root)


def _search(root: Path) -> Iterator[tuple[Path, set[str], set[str]]]:
    """Folders with the names of the folders and files in each, nearest first, no sets entered."""
    level, visited = [root], 0
    sets = {*SPLITS, IMAGES, "images_background", "images_evaluation"}
    for _ in range(SEARCH_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            visited += 1
            if visited > MAX_FOLDERS:
                raise DatasetError(
                    f"{root}: holds too many folders to search; name the one that holds the set."
                )
            folders, files = _entries(folder)
            yield folder, folders, files
            deeper += [folder / name for name in sorted(folders - sets)]
        level = deeper


def _entries(folder: Path) -> tuple[set[str], set[str]]:
    folders: set[str] = set()
    files: set[str] = set()
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if entry.is_dir() else files).add(entry.name)
    return folders, files


def _absence(root: Path) -> str:
    return "" if _is(Path.is_dir, root) else ", which is no folder"


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """What the path is, as far as this process may know."""
    with contextlib.suppress(OSError):
        return kind(path)
    return False


def _stamps(path: Path, name: str, depth: int) -> Iterator[str]:
    info = path.stat()
    if not path.is_dir():
        yield f"{name} {info.st_size} {info.st_mtime_ns}\n"
        return
    yield f"{name} {info.st_mtime_ns}\n"
    if depth:
        with os.scandir(path) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir())
        for each in inner:
            yield from _stamps(path / each, f"{name}/{each}", depth - 1)
