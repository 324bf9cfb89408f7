"""The benchmarks run, at tiny sizes; what they compare with computes the same numbers; what they count is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launching import in_ranks
from support import architecture, close, make_policy, sample_batch, theta_of
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from metarl.data import Meta
from metarl.functional import closed_form
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten_meta
from metarl.functional.tasks import take
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


def test_a_measurement_leaves_out_the_dearest_that_can_be_spared_then_rounds(monkeypatch):
    from measuring import clock

    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    limit, spare = clock.Clock(100.0, 4), {"cpu", "cpu too"}
    limit.begin()
    assert limit.left() == 25.0
    assert limit.fit({"gpu": 2.0, "cpu": 6.0}, spare, 3) == (["gpu", "cpu"], 3)
    assert limit.fit({"gpu": 2.0, "cpu": 6.0, "cpu too": 6.5}, spare, 3) == (["gpu", "cpu"], 3)
    assert limit.fit({"gpu": 12.0, "cpu": 1.0}, spare, 3) == (["gpu"], 2)
    now[0] = 40.0  # it took longer than its share, and the others have less
    limit.begin()
    assert limit.left() == 20.0
    now[0] = 99.0
    limit.begin()
    assert limit.fit({"gpu": 7.0}, spare, 3) == (["gpu"], 1)
    assert clock.Clock(float("inf"), 1).fit({"cpu": 1e9}, spare, 3) == (["cpu"], 3)


def test_what_processes_gather_is_counted_exactly():
    from measuring import scaling
    from ranks import Counter

    policy, theta, batch, _ = setting("relu")
    batch = sample_batch(policy, theta, 1, LR, tasks=4)
    theta, batch = pytree.tree_map(lambda value: value.float(), (theta, batch))

    def work(ranks):
        share, product, factors = ranks.share(4), Counter(), Counter()
        start = closed_form.objective(
            *(architecture(policy), ESTIMATORS["lvc"], InnerUpdate(LR)),
            *(take(batch, share.rows), theta),
            join=share.join,
        ).linearise(flatten_meta(Meta(theta, {})))
        with product.watch(ranks):
            start.curvature(start.gradient)
        with factors.watch(ranks):
            start.preconditioner(0.1)
        return product, factors

    sizes = [3, 5, 4, 2]
    for product, factors in in_ranks(2, work):
        counts = 2 * 8  # how many rows each of the two has, which is told before each gather
        assert product.exchanges == 2
        assert product.bytes == scaling.product_bytes(sizes, 4) + counts
        gathers = 1 + 2 * 3  # how many tasks a chunk has, then two matrices of each layer
        assert factors.exchanges == 2 * gathers
        expected = scaling.preconditioner_bytes(sizes, 4) + 4 * 8 + gathers * counts
        assert factors.bytes == expected


def test_the_scaling_model_is_fitted_and_applied_as_it_is_written():
    from measuring.scaling import Cluster, Traffic, fit, seconds

    f, s, u = 0.25, 0.125, 0.0625
    single = [(tasks, tasks * s, f + tasks * u) for tasks in (40, 20)]
    fitted = fit(*single)
    assert fitted[:3] == (f, s, u)
    model = fitted._replace(latency=1e-3, bandwidth=1e6, summing=4e6)
    traffic = Traffic(10, 800_000)
    assert seconds(model, 1, 40, traffic) == f + 40 * (s + u)
    ring = 0.0
    for _ in range(
        7
    ):  # hops of a ring of 8: a share of the bytes at every one, a latency for every exchange
        ring += 10 * 1e-3 + 800_000 / 8 / 1e6
    assert seconds(model, 8, 42, traffic) == pytest.approx(f + 6 * (s + u) + ring + 0.2)
    there = Cluster("twice and four times", 8, 2.0, 4.0, 0.5, 3.0).applied(model)
    assert there == (f, s / 2.0, u / 4.0, 0.5, 3.0, 4e6)


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
def test_the_supervised_benchmark_agrees_and_times_every_way(tmp_path):
    agreement, rows = run("supervised", tmp_path).values()
    assert [row["problem"] for row in agreement] == ["sinusoid", "omniglot"]
    assert all(max(row["loop"], row["stacked"]) <= 1e-5 for row in agreement)
    assert [row["configured"] for row in rows] == ["stacked"] * 2 + ["loop"] * 2
    ways = ("loop", "stacked", "published", "whole step")
    assert all(row[f"{way} [ms]"] > 0 for row in rows for way in ways)


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
    compiling, physics, waves, update, iteration = run("gpu", tmp_path, *options).values()
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
