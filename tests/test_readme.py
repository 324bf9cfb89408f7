"""What the README tells a reader to do works as it stands there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl import config, runs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_ones_own_environment_trains_as_the_readme_says(tmp_path):
    code = CODE[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    (tmp_path / "my_envs.py").write_text(code)
    (command,) = re.findall(r"python -m (metarl\.train .*my_envs.*)", README)
    module, path, *overrides = command.split()
    small = ["--fast-dev-run", "--run-dir", str(tmp_path / "runs")]
    subprocess.run(
        [sys.executable, "-m", module, str(ROOT / path), *overrides, *small],
        cwd=tmp_path,
        check=True,
    )
    (record,) = runs.read_metrics(runs.find_run("latest", tmp_path / "runs"))
    assert record["env_steps"] == 2 * 4 * 2 * 30
    # The point starts at the origin and moves at most 0.1 x sqrt(2) a step, the target is within sqrt(2).
    assert -30 * (2**0.5 + 3 * 2**0.5) < record["return/pre"] < 0


def test_ones_own_module_and_data_are_learned_as_the_readme_says(capsys):
    code = CODE[1]
    statements = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(statements) <= 20
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "README.md", "exec"), {})
    before, *after = map(float, capsys.readouterr().out.strip(" []\n").split())
    # The mean over a ~ U(−2, 2) and x ~ U(−1, 1) of (a x²)² is 4/3 · 1/5: what no adaptation can get below.
    assert 0.2 < before < 0.5
    assert max(after) < 0.65 * 4 / 15


@pytest.mark.parametrize("path", sorted(set(re.findall(r"configs/\w+\.yaml", README))))
def test_every_configuration_it_names_is_there_and_valid(path):
    config.load(ROOT / path)


@pytest.mark.parametrize("name", ["README.md", "benchmarks/README.md"])
def test_every_table_has_rows(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert tables
    assert not [table for table in tables if len(table.splitlines()) < 3]


@pytest.mark.parametrize("name", ["nav2d", "cheetah_vel", "cheetah_dir"])
def test_its_returns_are_those_of_the_reference_runs(name):
    (row,) = re.findall(rf"^\| `{name}` \| \d+ \|.*$", README, flags=re.MULTILINE)
    path = ROOT / "runs" / "reference" / name / "evaluation" / "adaptation.json"
    found = json.loads(path.read_text())
    pairs = zip(found["mean_return"], found["standard_error"], strict=True)
    assert re.findall(r"(-?\d+\.\d) ± (\d+\.\d)", row) == [
        (f"{mean:.1f}", f"{error:.1f}") for mean, error in pairs
    ]


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        (file, settings)
        for file, heading in (
            ("omniglot_5way_1shot", "variant"),
            ("omniglot_prototypical_5way_1shot", "learner"),
        )
        for row in re.findall(rf"\| {heading} \|.*\n(?:\|.*\n)+", README)[0].splitlines()[2:]
        for settings in re.findall(r"`([^`]+)`", row.split("|")[2])
        if "=" in settings
    ],
)
def test_every_variant_it_names_is_valid(file, settings):
    if settings != "inner.steps=0":  # of curves and policies
        config.load(ROOT / "configs" / f"{file}.yaml", shlex.split(settings))


def test_every_module_it_names_is_there():
    for path in set(re.findall(r"metarl/[\w/]+\.py", README)):
        assert (ROOT / path).is_file(), path
