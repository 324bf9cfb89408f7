"""Which files of an image set belong to which class, checked against what is known of the set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from metarl.datasets.locating import Located
from metarl.datasets.sets import CSV_FILES, IMAGES, SPLITS, ImageSet, split_classes
from metarl.datasets.trees import (
    PICTURES,
    DatasetError,
    Folder,
    Row,
    Tree,
    Zip,
    open_tree,
    read_rows,
)

AGAIN = "copy or download it again"
Member = tuple[str, tuple[Tree, str]]
"""A class's name, and one picture of it: its tree and its name there."""


class ClassFiles(NamedTuple):
    """The pictures of one class: the tree of each and its name there, in sorted order."""

    name: str
    files: tuple[tuple[Tree, str], ...]


def classes_of(located: Located) -> dict[str, list[ClassFiles]]:
    """The classes of each split, sorted by name, checked against what is known of the set.

    Raises:
        DatasetError: a file is missing, double or damaged, or a count is wrong.
    """
    image_set = located.image_set
    found = _whole(located) if image_set.parts else _split(located)
    seen: dict[str, str] = {}
    for split, classes in found.items():
        for each in classes:
            _check_class(each, split, image_set, seen)
    return found


def place_of(tree: Tree, name: str) -> str:
    """A file's name for a person."""
    return f"{tree.path}: {name}" if isinstance(tree, Zip) else str(tree.path / name)


def _whole(located: Located) -> dict[str, list[ClassFiles]]:
    """The classes of a set whose parts hold them all: ``.../<alphabet>/<character>/<drawing>``."""
    image_set = located.image_set
    classes: dict[str, ClassFiles] = {}
    for path, (part, expected) in zip(located.paths, image_set.parts, strict=True):
        tree = open_tree(path)
        names = [name for name in _pictures(tree.names()) if name.count("/") >= 2]
        grouped = _grouped((("/".join(name.split("/")[-3:-1])), (tree, name)) for name in names)
        if len(grouped) != expected:
            raise DatasetError(
                f"{path}: holds {len(grouped)} classes with pictures, not the {expected} of {part}; "
                f"{AGAIN}."
            )
        for each in grouped:
            if each.name in classes:
                raise DatasetError(f"{path}: holds {each.name}, as another part does; {AGAIN}.")
            classes[each.name] = each
    split = split_classes(list(classes), image_set.counts)
    return {name: [classes[each] for each in members] for name, members in split.items()}


def _split(located: Located) -> dict[str, list[ClassFiles]]:
    """The classes of a set that comes split, by folders or by lists."""
    first = located.paths[0]
    only = tuple(path.name for path in located.paths)
    tree = Folder(first.parent, only) if located.layout != "zip" else Zip(first)
    names = tree.names()
    by_folder = [name for name in _pictures(names) if _part(name, -3) in SPLITS]
    lists = {_part(name, -1): name for name in reversed(names) if _part(name, -1) in CSV_FILES}
    if {_part(name, -3) for name in by_folder} == set(SPLITS):
        # The nearest, should there be a second copy deeper down.
        top = min(name.count("/") for name in by_folder)
        found: dict[str, list[Member]] = {split: [] for split in SPLITS}
        for name in by_folder:
            if name.count("/") == top:
                found[_part(name, -3)].append((_part(name, -2), (tree, name)))
        beside = {file: name for file, name in lists.items() if name.count("/") == top - 2}
        if len(beside) == len(SPLITS):
            _hold_against(tree, beside, found)
    else:
        if len(lists) != len(SPLITS):
            raise DatasetError(
                f"{tree.path}: is not {located.image_set.name}; expected is "
                f"{located.image_set.expected}."
            )
        found = _listed(tree, lists, set(_pictures(names)))
    classes = {split: _grouped(members) for split, members in found.items()}
    for split, expected in zip(SPLITS, located.image_set.counts, strict=True):
        if len(classes[split]) != expected:
            raise DatasetError(
                f"{tree.path}: {split} holds {len(classes[split])} classes with pictures, not the "
                f"{expected} of {located.image_set.name}; {AGAIN}."
            )
    return classes


def _listed(tree: Tree, lists: dict[str, str], pictures: set[str]) -> dict[str, list[Member]]:
    """The pictures that the lists name, each with its class."""
    seen: dict[str, Row] = {}
    found = {}
    for split, file in zip(SPLITS, CSV_FILES, strict=True):
        members = []
        for row in read_rows(tree, lists[file]):
            name = f"{lists[file].removesuffix(file)}{IMAGES}/{row.filename}"
            if row.filename in seen:
                raise DatasetError(
                    f"{row.place}: names {row.filename}, as {seen[row.filename].place} does; {AGAIN}."
                )
            if name not in pictures:
                raise DatasetError(
                    f"{row.place}: names {row.filename}, which {IMAGES}/ does not hold; copy or "
                    "download the pictures again."
                )
            seen[row.filename] = row
            members.append((row.label, (tree, name)))
        found[split] = members
    return found


def _hold_against(tree: Tree, lists: dict[str, str], found: dict[str, list[Member]]) -> None:
    """Refuse folders that lack a picture of the lists beside them, unless those are of another kind or another copy."""
    try:
        rows = [
            (split, row)
            for split, file in zip(SPLITS, CSV_FILES, strict=True)
            for row in read_rows(tree, lists[file])
        ]
    except DatasetError:
        return
    held = {
        (split, label, _part(name, -1))
        for split, members in found.items()
        for label, (_, name) in members
    }
    missing = [row for split, row in rows if (split, row.label, row.filename) not in held]
    if missing and len(missing) < len(rows):
        first = missing[0]
        raise DatasetError(
            f"{first.place}: names {first.filename}, which no folder {first.label} of that split "
            "holds; copy or download the pictures again."
        )


def _check_class(each: ClassFiles, split: str, image_set: ImageSet, seen: dict[str, str]) -> None:
    place = place_of(*each.files[0])
    if not re.fullmatch(image_set.class_pattern, each.name):
        raise DatasetError(
            f"{place}: is of class {each.name}, which is none of {image_set.name}; another set?"
        )
    if each.name in seen:
        raise DatasetError(
            f"{place}: class {each.name} is in {split} and in {seen[each.name]}; {AGAIN}."
        )
    seen[each.name] = split
    if image_set.per_class not in (None, len(each.files)):
        raise DatasetError(
            f"{place}: class {each.name} has {len(each.files)} pictures, not {image_set.per_class}; "
            f"{AGAIN}."
        )


def _grouped(members: Iterable[Member]) -> list[ClassFiles]:
    groups: dict[str, list[tuple[Tree, str]]] = defaultdict(list)
    for name, file in members:
        groups[name].append(file)
    return [
        ClassFiles(name, tuple(sorted(files, key=lambda file: file[1])))
        for name, files in sorted(groups.items())
    ]


def _pictures(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(PICTURES)]


def _part(name: str, index: int) -> str:
    parts = name.split("/")
    return parts[index] if len(parts) >= -index else ""
