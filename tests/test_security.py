"""SECURITY.md keeps its word: the tests that it names are there, no string becomes code, nothing is sent or fetched."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())))
SOURCES = sorted([*ROOT.glob("metarl/**/*.py"), *ROOT.glob("envs/**/*.py")])
WATCHED = re.compile(
    r"eval|exec|compile|__import__|importlib\.import_module|runpy\..*|gymnasium\.(make|make_vec|spec)"
    r"|os\.(exec|spawn|posix_spawn|system|popen|fork).*|(subprocess|pty|socket|urllib|http)\..*"
    r"|pickle\..*|numpy\.load|torch\.(load|hub|jit|package)\b.*|torch\.distributed\..*object.*"
)
ALLOWED = {
    "metarl/datasets/cache.py": {"read: numpy.load(path / IMAGES)"},
    "metarl/doctor.py": {
        "_package: importlib.import_module({'pillow': 'PIL'}.get(name, name))",
        "_draws: subprocess.run(command)",
    },
    "metarl/distributed/liveness.py": {"_meet: socket.gethostname()"},
    "metarl/problems/environments.py": {
        "_find: importlib.import_module(module)",
        "_find: gymnasium.spec(name)",
        "_find_resident: gymnasium.spec(f'{physics}/{name}')",
        "_find_resident: importlib.import_module(form.vector_entry_point.partition(':')[0])",
        "_make_vector: gymnasium.make_vec(env)",
        "single: gymnasium.make(self.env)",
    },
    "metarl/system.py": {"_git: subprocess.run(command)"},
}
"""Every call that is watched: the function that makes it, what it calls, with what first."""

AUDITED = """
import json, sys

EVENTS = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "subprocess.", "pty.", "os.system")
EVENTS += ("os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.startfile")
told = []

def watch(event, arguments):
    if event.startswith(EVENTS) and event != "socket.gethostname":
        told.append([event, str(arguments[0]) if event == "subprocess.Popen" else ""])

sys.addaudithook(watch)
{work}
print("told:", json.dumps(told))
"""
TRAINS_AND_EVALUATES = """
from metarl import evaluate, train
small = ["outer.tasks=2", "problem.episodes=2", "problem.horizon=4", "iterations=1", "threads=2"]
validation = "evaluation={every: 1, tasks: 2, episodes: 2, steps: 1}"
assert train.main(["configs/nav2d.yaml", *small, validation, "--run-dir", sys.argv[1]]) == 0
assert evaluate.main(["latest", "--run-dir", sys.argv[1]]) == 0
"""


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_it_names_is_there(path, name):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_it_names_tests_at_all():
    assert len(NAMED) > 12


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a file imports stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def calls(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call, with the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        yield from calls(child, child.name if isinstance(child, ast.FunctionDef) else function)


def offences(code: str) -> set[str]:
    """Calls that turn a string into code, a command or an import, unpickle, or talk to a network."""
    tree = ast.parse(code)
    names, found = imported(tree), set()
    for function, call in calls(tree):
        first, *rest = ast.unparse(call.func).split(".")
        called = ".".join([names.get(first, first), *rest])
        if WATCHED.fullmatch(called):
            found.add(f"{function}: {called}({', '.join(map(ast.unparse, call.args[:1]))})")
        unsafe = [one for one in call.keywords if one.arg in {"shell", "allow_pickle"}]
        found |= {f"{function}: {one.arg}" for one in unsafe if ast.unparse(one.value) != "False"}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_string_becomes_code(path):
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    assert offences(path.read_text()) == allowed


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module as load\nload(name)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from subprocess import run\nrun(command)",
        "import gymnasium as gym\ngym.spec(name)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch.distributed as dist\ndist.broadcast_object_list(values)",
        "import socket\nclass A:\n    def f(self):\n        return [socket.socket()]",
    ],
)
def test_the_check_sees_an_offence(code):
    assert offences(code)


def told(work: str, *arguments: str) -> list[list[str]]:
    """What the interpreter tells of sockets and programs while a child does this work."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITED.replace("{work}", work), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("told: ")[2])


def test_training_and_evaluation_open_no_socket_and_start_no_program_but_git(tmp_path):
    """And fc-list, where Matplotlib makes its list of fonts, and ldconfig, by which torch for GPUs finds libraries."""
    events = told(TRAINS_AND_EVALUATES, str(tmp_path))
    assert {event for event, _ in events} <= {"subprocess.Popen"}, events
    allowed = {"git", "fc-list", "ldconfig"}
    assert {Path(program).name for _, program in events} <= allowed, events


@pytest.mark.parametrize(
    ("work", "event"),
    [
        ("import socket; socket.socket().close()", "socket.__new__"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import os; os.fork() or os._exit(0)", "os.fork"),
    ],
)
def test_what_a_child_does_is_told(work, event):
    assert event in {each for each, _ in told(work)}
