"""What benchmarks compare with computes the same numbers; what they count, time and predict is right."""

from __future__ import annotations

import pytest
import torch
from launching import in_ranks
from support import architecture, close, make_policy, sample_batch, theta_of
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from metarl.data import Meta
from metarl.functional import closed_form, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.params import flatten_meta
from metarl.functional.tasks import take
from metarl.functional.trpo import TrustRegion, trust_region_step
from metarl.kernels import compiled

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")

LR = 0.1


def batched_operations(added, left, right, out_shape=None):
    """Floating-point operations of a batched product, from the shapes."""
    return 2 * left[0] * left[1] * left[2] * right[2]


# Torch's counter does not know the product that is added in place.
IN_PLACE = {torch.ops.aten.baddbmm_: batched_operations}


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
def test_the_operations_of_a_product_are_counted_exactly(steps, monkeypatch):
    """Of torch's, which are those of the compiled kernels one by one."""
    from measuring import matmul

    monkeypatch.setattr(compiled, "LIBRARY", None)

    _, theta, batch, ours = setting("relu", steps)
    vector = flatten_meta(Meta(theta, {}))
    start = ours.linearise(vector)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        start.curvature(vector)
    states = batch.query.mask[0].numel()
    assert counter.get_total_flops() == matmul.operations([3, 5, 4, 2], states, steps, 3)


def test_what_is_not_compiled_is_measured_without_the_library(monkeypatch):
    from measuring import fallback

    library, seen = object(), []
    monkeypatch.setattr(compiled, "LIBRARY", library)
    objective = objectives.Objective(
        evaluate=lambda vector: seen.append(compiled.LIBRARY),
        linearise=lambda vector: objectives.Linearisation(
            seen.append(compiled.LIBRARY), vector, lambda direction: seen.append(compiled.LIBRARY)
        ),
    )
    without = fallback.objective_without_library(objective)
    without.evaluate(torch.ones(1))
    without.linearise(torch.ones(1)).curvature(torch.ones(1))
    fallback.without_library(lambda: seen.append(compiled.LIBRARY))()
    assert seen == [None] * 4
    with pytest.raises(InterruptedError), fallback.no_library():
        raise InterruptedError
    assert compiled.LIBRARY is library


def test_options_that_mean_nothing_to_a_benchmark_are_refused(capsys):
    from measuring import report

    arguments = report.parser("What?", without=["threads"])
    assert arguments.parse_args(["--seed", "3"]).seed == 3
    with pytest.raises(SystemExit):
        arguments.parse_args(["--threads", "1"])
    assert "unrecognized arguments: --threads 1" in capsys.readouterr().err


def test_a_rate_has_no_ratio_to_one_that_was_not_measured():
    import sampler

    assert sampler.compared([6.0, 4.0, 9.0], [2.0, 2.0, 3.0]) == 3.0
    assert sampler.compared([6.0], None) is None


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
    # Hops of a ring of 8: a share of the bytes at every one, a latency for every exchange.
    for _ in range(7):
        ring += 10 * 1e-3 + 800_000 / 8 / 1e6
    assert seconds(model, 8, 42, traffic) == pytest.approx(f + 6 * (s + u) + ring + 0.2)
    there = Cluster("twice and four times", 8, 2.0, 4.0, 0.5, 3.0).applied(model)
    assert there == (f, s / 2.0, u / 4.0, 0.5, 3.0, 4e6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["--quick", "--results", "/somewhere", "--after=runs/mine"], []),
        (["--parts", "split", "growth", "--rounds", "3"], ["split", "growth", "rounds3"]),
        (["--presets=gym", "--threads", "1", "2"], ["gym", "threads1", "threads2"]),
    ],
)
def test_a_part_of_a_benchmark_is_kept_in_a_file_of_its_own(words, expected, monkeypatch):
    from measuring import report

    monkeypatch.setattr("sys.argv", ["some.py", *words])
    assert report.asked() == expected
