"""Feeds the readers of configurations, checkpoints and records what nobody would write, for as long as is asked.

    python tests/faults/fuzz.py config --seconds 600 --seed 1
    python tests/faults/fuzz.py checkpoint --seconds 600

A reader may read it or refuse it in one sentence; anything else is printed with its input, and ends with code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from metarl import config, runs
from metarl.config import ConfigError
from metarl.data import Meta
from metarl.functional.trpo import TrustRegion
from metarl.outer import PPO, SGD, TRPO, Adam, Descent, Outer, Schedule
from metarl.storage import checkpoints
from metarl.storage.checkpoints import MANIFEST, STATE, TENSORS, Checkpoint, CheckpointError, Origin
from metarl.storage.metastate import meta_from_tensors, meta_to_tensors, restore_outer
from metarl.storage.sealed import seal

ROOT = Path(__file__).parent.parent.parent
SLOW_SECONDS = 20.0
SYNTAX = (": ", "- ", "[", "]", "{", "}", ",", "#", "&a ", "*a", "? ", "<<: ", "|\n", ">-\n")
TAGS = ("!!int ", "!!python/name:os.system ", "---\n", "...\n", "%YAML 1.1\n", "=", "@", "`")
QUOTES = ("'", '"', "\\", "\t", "\n", "  ", "    ", "\u2028", "\ufeff", "\x00", "é", "\U0001f600")
VALUES = ("~", "null", "true", ".nan", "-.inf", "1e999", "0x1F", "0o8", "1_000", "-0", "1.0")
NAMES = ("lr", "seed", "outer", "method", "problem.kind", "directory", "sha256", "iteration")
ESCAPES = ('"\\0"', '"\\uD800"', "2001-01-01", "9" * 30, "9" * 5000, "a" * 200, "[" * 2000, "NaN")
FRAGMENTS = (*SYNTAX, *TAGS, *QUOTES, *VALUES, *NAMES, *ESCAPES)


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a few places: bits, bytes, fragments in, stretches out, doubled or moved."""
    for _ in range(int(rng.geometric(0.4))):
        start, stop = sorted(int(each) for each in rng.integers(0, len(content) + 1, 2))
        before, inside, after = content[:start], content[start:stop], content[stop:]
        match int(rng.integers(6)):
            case 0:
                flipped = bytes([(inside or b"\0")[0] ^ (1 << int(rng.integers(8)))])
                content = before + flipped + inside[1:] + after
            case 1:
                content = before + rng.bytes(int(rng.integers(1, 5))) + inside + after
            case 2 | 3:
                content = before + str(rng.choice(FRAGMENTS)).encode() + inside + after
            case 4:
                content = before + after[: int(rng.integers(0, len(after) + 1))]
            case _:
                content = before + after[:40] + inside + after
    return content


def fuzz_config(folder: Path, rng: np.random.Generator) -> bytes:
    """Read one changed configuration, or one changed override; what was read is written and read again."""
    examples = sorted(ROOT.glob("configs/*.yaml"))
    path, overrides = folder / "a.yaml", []
    content = examples[int(rng.integers(len(examples)))].read_bytes()
    if rng.random() < 0.3:
        given = mutate(b"inner.lr=0.1", rng).decode("utf-8", "surrogateescape")
        overrides = [given]
        path.write_bytes(content)
        content += f"\noverride {given!r}".encode()
    else:
        content = mutate(content, rng)
        path.write_bytes(content)
    (folder / "input").write_bytes(content)
    try:
        read = config.load(path, overrides)
    except ConfigError as error:
        expect_one_line(error)
    else:
        path.write_text(config.dump(read), encoding="utf-8")
        assert config.load(path) == read, (
            "what was read is not read back from what is written of it"
        )
    return content


META = Meta({"w": torch.arange(6.0).view(2, 3), "b": torch.zeros(2)}, {"w": torch.full((), 0.1)})


def make_outers() -> list[Outer]:
    """One of each, as settings make them."""
    adam, sgd = Adam(Schedule(0.1)), SGD(Schedule(0.1))
    return [
        TRPO(TrustRegion(), 0.9),
        Descent(adam),
        Descent(sgd),
        PPO(Schedule(0.1), 0.2, 2, 0.01, 0.1),
    ]


def use(found: Checkpoint) -> None:
    """Take it as --resume does: whoever reads it refuses it, or can go on."""
    assert isinstance(found.state, dict)
    meta = meta_from_tensors(found.tensors, META)
    for part, expected in zip(meta, META, strict=True):
        assert [value.shape for value in part.values()] == [v.shape for v in expected.values()]
        assert all(value.isfinite().all() for value in part.values())
    for outer in make_outers():
        with contextlib.suppress(CheckpointError):
            restore_outer(outer, found, META, "cpu")
            assert all(value.isfinite().all() for value in outer.state()[0].values())


def fuzz_checkpoint(folder: Path, rng: np.random.Generator) -> bytes:
    """Read and use a checkpoint with one changed file, half of them with sums made right for it."""
    saved = folder / "000007"
    if not saved.exists():
        memory = {"outer/average": torch.ones(9)}
        state = {"env_steps": 5, "outer": {"steps": 3}}
        checkpoints.save(folder, 7, meta_to_tensors(META) | memory, state, 1.5, Origin("a1", 3))
        for name in (TENSORS, STATE, MANIFEST):
            (folder / name).write_bytes((saved / name).read_bytes())
    for name in (TENSORS, STATE, MANIFEST):
        (saved / name).write_bytes((folder / name).read_bytes())
    name = str(rng.choice([TENSORS, STATE, MANIFEST]))
    whole = (saved / name).read_bytes()
    content = mutate(whole, rng)
    (saved / name).write_bytes(content)
    sealed = rng.random() < 0.5 and forge_sums(saved)
    (folder / "input").write_bytes(content)
    try:
        found = checkpoints.load(saved)
        assert sealed or content == whole, "a change was not noticed"
        use(found)
    except CheckpointError as error:
        expect_one_line(error)
    return content


def fuzz_record(folder: Path, rng: np.random.Generator) -> bytes:
    """Read a changed record of metrics."""
    lines = [{"iteration": i, "time": 1.5 * i, "return/pre": None, "env_steps": i} for i in (0, 1)]
    content = mutate(b"".join(json.dumps(line).encode() + b"\n" for line in lines), rng)
    (folder / "input").write_bytes(content)
    (folder / runs.METRICS).write_bytes(content)
    try:
        found = runs.read_metrics(folder)
    except runs.RunError as error:
        expect_one_line(error)
    else:
        assert all(record["iteration"] + record["time"] is not None for record in found)
    return content


def expect_one_line(error: Exception) -> None:
    """A refusal is one sentence."""
    assert "\n" not in str(error), f"more than one line: {error}"


def forge_sums(saved: Path) -> bool:
    """Make the sums right, as someone who wants to deceive would; whether that was possible."""
    try:
        manifest = json.loads((saved / MANIFEST).read_bytes())
        manifest.pop("sha256", None)
        manifest["files"] = {
            name: hashlib.sha256((saved / name).read_bytes()).hexdigest()
            for name in (TENSORS, STATE)
        }
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False
    (saved / MANIFEST).write_bytes(seal(manifest))
    return True


TARGETS: dict[str, Callable[[Path, np.random.Generator], bytes]] = {
    "config": fuzz_config,
    "checkpoint": fuzz_checkpoint,
    "record": fuzz_record,
}


def fuzz(target: str, seconds: float, seed: int, folder: Path) -> int:
    """Try until the time is over; how many inputs that were.

    Raises:
        AssertionError: with the input and the traceback of the first one that a reader did not stand.
    """
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        started = time.process_time()
        try:
            TARGETS[target](folder, np.random.default_rng([seed, count]))
            taken = time.process_time() - started
            assert taken < SLOW_SECONDS, f"took {taken:.0f} s"
        except Exception as error:
            content = (folder / "input").read_bytes()
            raise AssertionError(
                f"{target}, seed {seed}, input {count}: {content!r}\n{traceback.format_exc()}"
            ) from error
        count += 1
    return count


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            count = fuzz(options.target, options.seconds, options.seed, Path(folder))
        except AssertionError as error:
            sys.exit(str(error))
    print(f"{options.target}: {count} inputs, each read or refused in one sentence")


if __name__ == "__main__":
    main()
