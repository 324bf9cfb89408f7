"""Read-only trees of image files: a folder, or a zip that is read in memory and never extracted.

A name from a zip or a list is looked up among the names of the tree, never joined to a path, and no
more bytes are read than a picture may have. So a hostile archive can name no other file and fill
neither disk nor memory.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

PICTURES = (".png", ".jpg", ".jpeg")
MAX_BYTES, MAX_FILES, MAX_DEPTH = 2**25, 200_000, 3


class DatasetError(Exception):
    """An image set that is missing or must not be used; one sentence: which file, what to do."""


class Tree(Protocol):
    """Files by their names, which are relative and have ``/`` between folders."""

    path: Path

    def names(self) -> list[str]:
        """Pictures and CSV files in sorted order, without hidden ones."""

    def read(self, name: str) -> bytes:
        """The content of one."""


def open_tree(path: Path) -> Tree:
    """The tree of a folder, or of what is else taken for a zip."""
    return Folder(path) if path.is_dir() else Zip(path)


class Folder:
    """A folder on disk.

    Args:
        path: of the folder.
        only: its entries that belong to the set; None: all.
    """

    def __init__(self, path: Path, only: tuple[str, ...] | None = None) -> None:
        self.path, self._only = path, only

    def names(self) -> list[str]:
        """See `Tree`."""
        try:
            return sorted(name for name in self._walk("", MAX_DEPTH) if is_data(name))
        except OSError as error:
            raise DatasetError(
                f"{error.filename or self.path}: cannot be listed ({error.strerror}); make it readable."
            ) from None

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        path = self.path / name
        try:
            with path.open("rb") as file:
                return _limited(file.read(MAX_BYTES + 1), str(path))
        except OSError as error:
            raise DatasetError(
                f"{path}: cannot be read ({error.strerror}); copy the file again."
            ) from None

    def _walk(self, folder: str, depth: int) -> Iterator[str]:
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                if not folder and self._only is not None and entry.name not in self._only:
                    continue
                if entry.is_file():
                    yield folder + entry.name
                elif depth and entry.is_dir() and not entry.name.startswith("."):
                    yield from self._walk(f"{folder}{entry.name}/", depth - 1)


class Zip:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DatasetError(
                f"{path}: is not a whole zip file ({error}); copy or download it again."
            ) from None

    def names(self) -> list[str]:
        """See `Tree`."""
        infos = self._archive.infolist()
        if len(infos) > MAX_FILES:
            raise DatasetError(f"{self.path}: holds more than {MAX_FILES:,} files; name another.")
        counts = Counter(each.filename for each in infos if is_data(each.filename))
        for name, count in counts.items():
            if count > 1:
                raise DatasetError(f"{self.path}: holds {name} twice; make the archive anew.")
        return sorted(counts)

    def read(self, name: str) -> bytes:
        """See `Tree`."""
        try:
            with self._archive.open(name) as file:
                return _limited(file.read(MAX_BYTES + 1), f"{self.path}: {name}")
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise DatasetError(
                f"{self.path}: {name} cannot be read ({error}); copy or download the archive again."
            ) from None


class Row(NamedTuple):
    """A row of a CSV file: the picture's file name, its class, and where it stands."""

    filename: str
    label: str
    place: str


def read_rows(tree: Tree, name: str) -> list[Row]:
    """The rows of a CSV file with a header ``filename,label``."""
    path = f"{tree.path}: {name}" if isinstance(tree, Zip) else str(tree.path / name)
    try:
        reader = csv.reader(io.StringIO(tree.read(name).decode("utf-8-sig"), newline=""))
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: is no CSV file ({error}); copy it again.") from None
    if not rows or [cell.strip() for cell in rows[0][1]] != ["filename", "label"]:
        raise DatasetError(f"{path}: does not begin with filename,label; copy it again.")
    for number, row in rows:
        if len(row) != 2:
            raise DatasetError(f"{path}: line {number} is not filename,label; copy it again.")
    return [Row(row[0].strip(), row[1].strip(), f"{path}, line {at}") for at, row in rows[1:]]


def is_data(name: str) -> bool:
    """Whether a file is a picture or a CSV file, not hidden and not outside (``..``)."""
    parts = name.removeprefix("./").split("/")
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not hidden and name.lower().endswith((*PICTURES, ".csv"))


def _limited(content: bytes, place: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise DatasetError(
            f"{place}: is larger than {MAX_BYTES >> 20} MiB, so no picture of this set; remove it."
        )
    return content
