"""The kept few-shot runs give, on the real images, what was kept of them; the README's tables say no more than that."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from metarl.evaluate import main as evaluate

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEPT = ROOT / "runs" / "reference"
BARS = {
    "omniglot_5way_1shot": (3, 0.98),
    "omniglot_5way_5shot": (3, 0.99),
    "omniglot_mlp_5way_1shot": (3, 0.88),
    "omniglot_prototypical_5way_1shot": (0, 0.97),
    "omniglot_prototypical_20way_1shot": (0, 0.92),
    "omniglot_20way_1shot": (5, 0.80),
}
"""Gradient steps, and the least accuracy with one query image of each class."""
STEPS = {name: steps for name, (steps, _) in BARS.items()} | {"miniimagenet_5way_1shot": 10}
VARIANTS = {
    "MAML": ("maml", 3),
    "FOMAML": ("fomaml", 3),
    "ANIL": ("anil", 3),
    "Meta-SGD": ("meta_sgd", 3),
    "MAML++": ("mamlpp", 5),
    "Reptile": ("reptile", 10),
    "nearest neighbour": ("nearest_neighbour", 0),
    "fine-tuning, 10 steps": ("fine_tuning", 10),
    "meta-learner LSTM, 5 steps": ("lstm", 5),
    "matching networks": ("matching", 0),
    "Siamese networks": ("siamese", 0),
}
ROWS = [(f"`{name}`", name, steps) for name, steps in STEPS.items()] + [
    (label, f"omniglot_variants/{folder}", steps) for label, (folder, steps) in VARIANTS.items()
]


def kept(run: str, queries: int) -> dict:
    path = KEPT / run / "evaluation" / f"queries_{queries}" / "adaptation.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize(("label", "run", "steps"), ROWS)
def test_the_readmes_accuracies_are_those_of_the_kept_runs(label, run, steps):
    rows = re.findall(rf"^\| {re.escape(label)} \|.* ± .*$", README, flags=re.MULTILINE)
    assert len(rows) == 1
    found = [kept(run, queries) for queries in (1, 15)]
    assert all(len(each["per_task_accuracy"][0]) == 600 for each in found)
    expected = [
        (
            f"{100 * each['mean_accuracy'][steps]:.1f}",
            f"{100 * each['half_interval_95'][steps]:.1f}",
        )
        for each in found
    ]
    assert re.findall(r"(\d+\.\d) ± (\d\.\d)", rows[0]) == expected


@pytest.mark.parametrize("shots", [5, 10])
def test_so_are_its_errors_on_sinusoids(shots):
    (row,) = re.findall(rf"^\| `sinusoid_{shots}shot` \|.*$", README, flags=re.MULTILINE)
    path = KEPT / f"sinusoid_{shots}shot" / "evaluation" / "adaptation.json"
    found = json.loads(path.read_text())
    assert found["not_finite"] == [0.0] * 11
    expected = [
        (f"{found['mean_mse'][step]:.2f}", f"{found['half_interval_95'][step]:.2f}")
        for step in (0, 1, 5, 10)
    ]
    assert re.findall(r"(\d\.\d\d) ± (\d\.\d\d)", row) == expected
    assert float(row.split("|")[-2]) == round(found["median"][10], 2)


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("METARL_DATA"), reason="METARL_DATA names no folder")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", BARS)
def test_a_kept_run_gives_its_accuracies_again(name, tmp_path):
    steps, least = BARS[name]
    arguments = ["--queries", "1", "--output", str(tmp_path)]
    arguments += ["--steps", str(steps)] if steps else []
    assert evaluate([str(KEPT / name), "--tasks", "600", *arguments]) == 0
    found = json.loads((tmp_path / "adaptation.json").read_text())["mean_accuracy"]
    assert found == pytest.approx(kept(name, 1)["mean_accuracy"][: steps + 1], abs=2e-3)
    assert found[steps] >= least
