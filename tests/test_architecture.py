"""The import direction: data <- functional <- problems <- building <- evaluate <- train; envs stands apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("metarl/**/*.py"), *ROOT.glob("envs/**/*.py")])
ALLOWED = {
    "metarl.functional": ["torch", "metarl.data", "metarl.kernels"],
    "metarl.nets": ["torch"],
    "metarl.kernels": ["torch", "numpy"],
    "metarl.datasets": [
        *("numpy", "PIL"),
        *("metarl.errors", "metarl.presentation.plaintext", "metarl.presentation.progress"),
        *("metarl.storage.disk", "metarl.storage.sealed"),
    ],
}
LAYERS = [
    f"metarl.{name}" for name in ("data", "functional", "problems", "building", "evaluate", "train")
]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Everything a file imports, anywhere in it, as dotted names: `from a import b` is a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(path: Path) -> Iterator[str]:
    """The imports of one file that go against the design."""
    here = module(path)
    for name in imports(path):
        third_party = name.partition(".")[0] not in sys.stdlib_module_names
        if within(here, "envs") and within(name, "metarl"):
            yield name
        if within(here, "metarl") and within(name, "envs"):
            yield name
        for package, allowed in ALLOWED.items():
            if within(here, package) and third_party and not within(name, package, *allowed):
                yield name
        if within(name, "gymnasium") and not within(
            here, "envs", "metarl.problems.environments", "metarl.sampler"
        ):
            yield name
        if within(name, "metarl.config", "metarl.schema") and within(
            here, *LAYERS[:2], "metarl.nets", "metarl.sampler"
        ):
            yield name
        for layer, above in enumerate(LAYERS):
            if within(name, above) and any(within(here, below) for below in LAYERS[:layer]):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_imports_follow_the_design(path):
    assert not sorted(set(offences(path)))


@pytest.mark.parametrize(
    ("here", "code"),
    [
        ("metarl/functional/x.py", "import numpy"),
        ("metarl/functional/x.py", "from metarl import sampler"),
        ("metarl/functional/x.py", "def f():\n    from metarl.problems import rl"),
        ("metarl/nets/x.py", "from metarl.data import Params"),
        ("metarl/datasets/x.py", "import torch"),
        ("metarl/runs.py", "import gymnasium as gym"),
        ("metarl/problems/rl.py", "import envs"),
        ("metarl/problems/rl.py", "import metarl.train"),
        ("metarl/problems/rl.py", "from metarl.building import make_problem"),
        ("metarl/sampler.py", "from metarl.config import Config"),
        ("envs/x.py", "from metarl import seeding"),
    ],
)
def test_the_check_sees_an_offence(here, code, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / here
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert list(offences(path))


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


DRAWS = {f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal")} | {
    *("torch.bernoulli", "torch.multinomial", "torch.rand_like", "torch.randn_like"),
}


def without_a_generator(tree: ast.AST) -> Iterator[str]:
    """What torch draws from its global generator, as no function that has a `generator` does that is given one."""
    for node in ast.walk(tree):
        drawn = isinstance(node, ast.Call) and ast.unparse(node.func) in DRAWS
        if drawn and "generator" not in {each.arg for each in node.keywords}:
            yield ast.unparse(node)


def test_a_draw_without_a_generator_is_seen():
    code = "torch.rand(2)\ntorch.randn(3, generator=g)\ntorch.randn_like(x)"
    assert list(without_a_generator(ast.parse(code))) == ["torch.rand(2)", "torch.randn_like(x)"]


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_nothing_draws_from_a_global_generator_or_loads_code(path):
    banned = {
        "np.random.seed",
        "numpy.random.seed",
        "torch.manual_seed",
        "torch.load",
        "torch.seed",
    }
    assert not {*calls(path), *imports(path)} & banned
    assert {name for name in calls(path) if name.startswith("np.random.")} <= {
        *("np.random.default_rng", "np.random.SeedSequence", "np.random.Generator"),
    }
    assert not list(without_a_generator(ast.parse(path.read_text())))
    assert not {name.partition(".")[0] for name in imports(path)} & {
        *("random", "pickle", "dill", "cloudpickle")
    }


def test_one_module_alone_makes_environments():
    makers = {
        module(path)
        for path in SOURCES
        if any(call.endswith((".make", ".make_vec")) for call in calls(path))
    }
    assert makers == {"metarl.problems.environments"}


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_modules_are_named_for_what_they_hold(path):
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}
    assert path.stem not in sys.stdlib_module_names


def test_tests_are_no_packages():
    """Else tests/envs would hide envs."""
    assert not list(ROOT.glob("tests/**/__init__.py"))
