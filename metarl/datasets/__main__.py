"""``python -m metarl.datasets``: which image sets are found, whether their caches are whole, building them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from metarl.datasets import DatasetError, cache, located, locating, side
from metarl.datasets.layouts import classes_of
from metarl.datasets.sets import SETS
from metarl.errors import MISTAKE, run_command
from metarl.presentation.progress import say


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m metarl.datasets",
        description="List the image sets that are found here; verify or build their caches.",
        epilog="Sets are looked for in $METARL_DATA, then in ~/.cache/metarl; caches lie in "
        "$METARL_CACHE or ~/.cache/metarl.",
    )
    add = result.add_argument
    add("action", nargs="?", default="list", choices=list(ACTIONS), help="default: list")
    add("name", nargs="*", metavar="NAME", help=f"{' or '.join(SETS)}; default: all")
    add("--data", metavar="DIR", help="look for the sets in this folder (or zip) alone")
    add("--image-size", type=int, metavar="N", help="pixels of each side, instead of the set's own")
    add("--traceback", action="store_true", help="show where an error came from")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return run_command(lambda: _main(options), options.traceback)


def _main(options: argparse.Namespace) -> int:
    for name in options.name:
        if name not in SETS:
            raise DatasetError(f"image set {name!r}: is none of {', '.join(SETS)}; name one.")
    return ACTIONS[options.action](options, tuple(options.name) or tuple(SETS))


def _list(options: argparse.Namespace, names: tuple[str, ...]) -> int:
    """Say what is found; 2 if something of it cannot be used."""
    code = 0
    for name in names:
        try:
            place = located(name, options.data)
            _show(f"{name}: {place.layout} {', '.join(map(str, place.paths))}")
            found, reason = cache.usable(place, side(SETS[name], options.image_size))
            _show(f"  {_counts(place, found)}")
            _show(f"  {_state(found) if found else reason or 'not cached yet'}")
        except locating.NotFoundError as error:
            _show(str(error))
        except DatasetError as error:
            _show(f"  {error}")
            code = MISTAKE
    return code


def _verify(options: argparse.Namespace, names: tuple[str, ...]) -> int:
    """Take the sums of all caches; 2 if one is wrong, or there is none."""
    paths = cache.caches(names)
    if not paths:
        raise DatasetError(
            f"{cache.directory()}: holds no cache of {' or '.join(names)}; build one with "
            "python -m metarl.datasets build."
        )
    code = 0
    for path in paths:
        try:
            found = cache.read(path, thorough=True)
        except DatasetError as error:
            say(f"metarl: error: {error}")
            code = MISTAKE
        else:
            if found is not None:
                _show(f"{_state(found)}: whole")
    return code


def _build(options: argparse.Namespace, names: tuple[str, ...]) -> int:
    """Build the caches of the sets that are named, or of all that are found."""
    missing = []
    for name in names:
        try:
            place = located(name, options.data)
        except locating.NotFoundError as error:
            if options.name:
                raise
            missing.append(str(error))
            continue
        found = cache.ensure(place, side(SETS[name], options.image_size), thorough=True)
        _show(f"{name}: {_state(found)}")
    if len(missing) == len(names):
        raise DatasetError(" ".join(missing))
    return 0


ACTIONS = {"list": _list, "verify": _verify, "build": _build}


def _counts(place: locating.Located, found: cache.Cached | None) -> str:
    """Classes and images of each split: from the cache, or by listing the files."""
    if found is not None:
        images = iter(count for _, count in found.manifest["classes"])
        numbers = {
            split: (classes, sum(next(images) for _ in range(classes)))
            for split, classes in found.manifest["splits"].items()
        }
    else:
        numbers = {
            split: (len(classes), sum(len(each.files) for each in classes))
            for split, classes in classes_of(place).items()
        }
    return "; ".join(
        f"{split} {classes:,} classes, {images:,} images"
        for split, (classes, images) in numbers.items()
    )


def _state(found: cache.Cached) -> str:
    size = found.manifest["image_size"]
    return f"cached {size}x{size}, {found.manifest['bytes'] / 1e6:,.1f} MB, in {found.path}"


def _show(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
