"""The benchmarks run, at tiny sizes; what they compare with computes the same numbers; what they count is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import architecture, close, make_policy, sample_batch, theta_of
from torch.utils.flop_counter import FlopCounterMode

from metarl.data import Meta
from metarl.functional import closed_form
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten_meta
from metarl.functional.trpo import TrustRegion, trust_region_step

ROOT = Path(__file__).parent.parent
LR = 0.1


def batched_operations(added, left, right, out_shape=None):
    """Floating-point operations of a batched product, from the shapes."""
    return 2 * left[0] * left[1] * left[2] * right[2]


# Torch's counter does not know the product that is added in place.
IN_PLACE = {torch.ops.aten.baddbmm_: batched_operations}


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    """Scripts see the packages beside them; so do these tests."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def setting(activation, steps=1):
    policy = make_policy(activation, (3, 5, 4, 2))
    theta = theta_of(policy)
    batch = sample_batch(policy, theta, steps, LR, tasks=3)
    ours = closed_form.objective(
        architecture(policy), ESTIMATORS["lvc"], InnerUpdate(LR), batch, theta
    )
    return policy, theta, batch, ours


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_published_way_agrees_with_ours(activation, steps):
    from published import update as published

    policy, theta, batch, ours = setting(activation, steps)
    theirs = published.objective(batch, theta, LR, activation, policy.min_log_std)
    vector = flatten_meta(Meta(theta, {}))
    expected, found = ours.linearise(vector), theirs.linearise(vector)
    close(found.gradient, expected.gradient, 1e-12)
    tangent = torch.linspace(-1.0, 1.0, len(vector), dtype=vector.dtype)
    close(found.curvature(tangent), expected.curvature(tangent), 1e-10)
    close(found.curvature(2.0 * tangent), expected.curvature(2.0 * tangent), 1e-10)
    mine, other = (each.evaluate(vector + 0.01 * tangent) for each in (ours, theirs))
    close(other.loss, mine.loss, 1e-12)
    close(other.kl, mine.kl, 1e-12)


def test_the_published_step_is_ours():
    from published import update as published

    policy, theta, batch, ours = setting("tanh")
    theirs = published.objective(batch, theta, LR, "tanh", policy.min_log_std)
    vector, region = flatten_meta(Meta(theta, {})), TrustRegion(cg_damping=0.1)
    expected, info = trust_region_step(vector, ours.linearise(vector), ours.evaluate, region)
    assert info.accepted
    close(published.step(vector, theirs, region), expected, 1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_operations_of_a_product_are_counted_exactly(steps):
    from measuring import matmul

    _, theta, batch, ours = setting("relu", steps)
    vector = flatten_meta(Meta(theta, {}))
    start = ours.linearise(vector)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        start.curvature(vector)
    states = batch.query.mask[0].numel()
    assert counter.get_total_flops() == matmul.operations([3, 5, 4, 2], states, steps, 3)


def test_rounds_are_interleaved_and_ratios_taken_within_them():
    from measuring import rounds

    order: list[str] = []
    taken = rounds.interleave(
        {name: lambda name=name: order.append(name) for name in "ab"}, rounds=2, warm_ups=1
    )
    assert order == ["a", "b"] * 3
    assert [len(timings) for timings in taken.values()] == [2, 2]
    assert rounds.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0


def run(script, tmp_path, *options):
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
    record = json.loads((tmp_path / f"{script}-quick.json").read_text())
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_update_benchmark_agrees_and_times_every_way(tmp_path):
    results = run("update", tmp_path, "--presets", "gym")
    for row in results["Agreement, relative"]:
        assert row["dtype"] == "float32" or max(row["autograd"], row["published"]) <= 1e-5
    ways = ("closed form [ms]", "autograd [ms]", "published [ms]")
    assert all(row[way] > 0 for row in results["Parts of an outer step"] for way in ways)
    assert {row["products"] for row in results["Conjugate gradient, plain and preconditioned"]} == {
        2, 3, 4, 6, 10,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_iteration_benchmark_accounts_for_the_seconds(tmp_path):
    results = run("iteration", tmp_path, "--presets", "gym", "--threads", "1")
    stages = ("sampling", "credit", "inner steps", "gradient", "preconditioner", "products")
    for row in results["Seconds by stage"]:
        assert 0 < sum(row[stage] for stage in stages) <= row["seconds"]
        assert 0 < row["before MiB"] <= row["peak MiB"]
    names = [row["what"] for row in results["Against the published way"]]
    assert names == ["ours", "ours, plain CG", "collect", "update 1", "published, 1 torch threads"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_memory_benchmark_holds_as_many_tasks_as_it_says(tmp_path):
    (rows,) = run("memory", tmp_path).values()
    assert [row["chunk"] for row in rows] == ["1", "auto"]
    assert rows[0]["kept"] == 1
    assert rows[1]["kept"] > 3
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
    physics, update, iteration = run("gpu", tmp_path, *options).values()
    assert {row["engine"] for row in physics} == {"mujoco-warp", "threads"}
    assert all(row["steps/s"] > 0 for row in physics)
    assert [row["what"] for row in update] == ["one product"] * 2 + ["whole update"] * 2
    assert len(iteration) == 3
    assert all(row["sampling"] > 0 for row in iteration)
