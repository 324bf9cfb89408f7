"""The benchmarks run, at tiny sizes, and find what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl.kernels import compiled

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")


def run(script, tmp_path, *options, asked=()):
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / f"{script}.py",
            "--quick",
            "--results",
            tmp_path,
            *options,
        ],
        check=True,
        cwd=tmp_path,
        timeout=900,
    )
    (path,) = tmp_path.glob("*.json")
    assert path.name == "-".join([script, *asked, "quick.json"])
    record = json.loads(path.read_text())
    assert record["name"] == script
    assert f"benchmarks/{script}.py --quick" in record["command"]
    assert {"seed", "rounds", "system", "load", "results"} <= set(record)
    assert all(record["results"].values())
    return record["results"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_sampler_benchmark_simulates_the_same_trajectories(tmp_path):
    (rows,) = run("sampler", tmp_path).values()
    assert {(row["preset"], row["threads"]) for row in rows} == {
        (preset, threads) for preset in ("paper", "gym") for threads in (1, 2)
    }
    assert all(row["steps/s"] > 0 for row in rows)
    assert all(row["off by"] == 0.0 for row in rows if row["what"].startswith("engine"))


@pytest.mark.skipif(bool(compiled.MISSING), reason="needs the compiled kernels")
def test_the_kernels_benchmark_times_torch_and_what_is_compiled(tmp_path):
    products, whole, tanh = run("kernels", tmp_path).values()
    assert [len(products), len(whole)] == [13, 6]
    assert all(row["compiled [us]"] > 0 for row in (*products[1:], *whole))
    assert min(tanh[0]["torch [us]"], tanh[0]["NumPy [us]"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_update_benchmark_agrees_and_times_every_way(tmp_path):
    results = run("update", tmp_path, "--presets", "gym", asked=["gym"])
    for row in results["Agreement, relative"]:
        ways = ("not compiled", "autograd", "published")
        assert row["dtype"] == "float32" or all(row[way] <= 1e-5 for way in ways)
    ways = ("closed form [ms]", "not compiled [ms]", "autograd [ms]", "published [ms]")
    assert all(row[way] > 0 for row in results["Parts of an outer step"] for way in ways)
    assert {row["products"] for row in results["Conjugate gradient, plain and preconditioned"]} == {
        1, 2, 3, 4, 6, 10,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_iteration_benchmark_accounts_for_the_seconds(tmp_path):
    results = run(
        *("iteration", tmp_path, "--presets", "gym", "--threads", "1"), asked=["gym", "threads1"]
    )
    stages = ("sampling", "credit", "inner steps", "gradient", "preconditioner", "products")
    for row in results["Seconds by stage"]:
        assert 0 < sum(row[stage] for stage in stages) <= row["seconds"]
        assert 0 < row["before MiB"] <= row["peak MiB"]
    grown = [(row["setting"], row["value"], row["threads"]) for row in results["Growth"]]
    assert grown == [("outer.tasks", "2", 1), ("inner.steps", "2", 1)]
    assert all(0 < row["sampling"] + row["update"] < row["seconds"] for row in results["Growth"])
    names = [row["what"] for row in results["Against the published way"]]
    assert names == ["ours", "ours, plain CG", "collect", "update 1", "published, 1 torch threads"]
    assert all(row["wall / plain"] > 0 for row in results["Against the published way"])
    settings = [
        (row["setting"], row["threads"])
        for row in results["Without exactness, and with more of it"]
    ]
    shown = "as it is", "outer.curvature_share=0.25", "inner.first_order=true", "precision=float64"
    assert settings == [(each, 1) for each in shown]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_supervised_benchmark_agrees_and_times_every_way(tmp_path):
    agreement, rows = run("supervised", tmp_path).values()
    assert [row["problem"] for row in agreement] == ["sinusoid", "omniglot"]
    assert all(max(row["loop"], row["stacked"]) <= 1e-5 for row in agreement)
    assert [row["threads"] for row in rows] == [1, 2] * 2
    assert [row["configured"] for row in rows] == ["stacked"] * 2 + ["loop"] * 2
    ways = ("loop", "stacked", "published", "whole step")
    assert all(row[f"{way} [ms]"] > 0 for row in rows for way in ways)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_memory_benchmark_holds_as_many_tasks_as_it_says(tmp_path):
    (rows,) = run("memory", tmp_path).values()
    assert [row["chunk"] for row in rows] == ["1", "auto"]
    assert rows[0]["kept"] == 1
    assert rows[1]["kept"] == 3
    assert all(0 < row["before MiB"] <= row["peak MiB"] for row in rows)
    assert all(0 < row["products"] < row["update"] < row["seconds"] for row in rows)


def test_the_gpu_benchmark_says_that_there_is_no_gpu(monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2
    assert capsys.readouterr().err.startswith("gpu: there is no usable GPU here; ")


def test_the_gpu_benchmark_says_what_to_install(monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--device", "cpu"])
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert gpu.main() == 2
    assert "pip install -e '.[gpu]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_runs_on_warps_cpu_device(tmp_path):
    pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    options = "--device", "cpu", "--presets", "paper", "--threads", "1"
    compiling, physics, waves, update, iteration = run(
        *("gpu", tmp_path, *options), asked=["cpu", "paper", "threads1"]
    ).values()
    assert compiling[0]["seconds"] > 0
    for rows in (physics, waves):
        assert [(row["worlds"], row["engine"]) for row in rows] == [
            (worlds, engine) for worlds in (2, 4) for engine in ("mujoco-warp", "threads")
        ]
        assert all(row["steps/s"] > 0 for row in rows)
    assert [row["what"] for row in update] == ["one product"] * 2 + ["whole update"] * 2
    assert len(iteration) == 3
    assert all(row["sampling"] > 0 for row in iteration)


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_the_ranks_benchmark_counts_what_the_shapes_say(tmp_path):
    results = run("ranks", tmp_path)
    for row in results["What is gathered in an iteration"]:
        # Some more is gathered: losses, metrics, how many rows each process has.
        assert row["all [MB]"] < row["counted [MB]"] < 1.4 * row["all [MB]"]
    measured = results["Measured"]
    assert [row["processes"] for row in measured] == [1, 1, 2] * 2
    assert all(row["seconds"] > 0 for row in measured)
    assert {row["machines"] for row in results["Predicted for assumed machines"]} == {
        "8 GPUs", "64 CPU nodes",
    }  # fmt: skip
