"""SECURITY.md keeps its word: the tests that it names are there, and no string becomes code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())))
SOURCES = sorted([*ROOT.glob("metarl/**/*.py"), *ROOT.glob("envs/**/*.py")])
IMPORTERS = {"metarl/problems/environments.py", "metarl/doctor.py"}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_it_names_is_there(path, name):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_it_names_tests_at_all():
    assert len(NAMED) > 12


def called(tree: ast.AST) -> set[str]:
    """What a file calls by a bare name, or as an attribute of a module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id=name):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id=module), attr=name):
                    names.add(f"{module}.{name}")
    return names


def offences(code: str) -> set[str]:
    """Calls that turn a string into code or a command, and imports by name."""
    tree = ast.parse(code)
    found = called(tree) & (
        {"eval", "exec", "compile", "__import__", "import_module"}
        | {"os.system", "os.popen", "importlib.import_module", "runpy.run_path"}
    )
    shells = {
        "shell" for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shell"
    }
    return found | shells


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_becomes_code(path):
    allowed = {"import_module", "importlib.import_module"}
    importer = path.relative_to(ROOT).as_posix() in IMPORTERS
    assert not offences(path.read_text()) - (allowed if importer else set())


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import importlib\nimportlib.import_module(name)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_the_check_sees_an_offence(code):
    assert offences(code)
