"""How much memory is left, from files as the kernel writes them; and how much tensors and graphs take."""

from __future__ import annotations

import resource
from pathlib import Path

import allocations
import numpy as np
import pytest
import support
import torch

from metarl import memory
from metarl.functional import baseline, closed_form, objectives
from metarl.functional.adapt import InnerUpdate
from metarl.functional.closed_form import Surrogate
from metarl.functional.estimators import ESTIMATORS
from metarl.functional.layered import order
from metarl.functional.params import flatten, flatten_meta, for_tasks, unflatten_meta
from metarl.functional.tasks import chunks, take
from metarl.nets.mlp import MLP
from metarl.problems import rl
from metarl.problems.protocol import Variant
from metarl.problems.sinusoid import Sinusoid
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Stream, generator

MIB = 2**20
TASKS = support.normal(0, 5, 2).numpy()
MACHINE = {"proc/meminfo": "MemTotal:  4096 kB\nMemFree: 1 kB\nMemAvailable:     3072 kB\n"}
SECOND = MACHINE | {
    "proc/self/cgroup": "0::/outer/inner\n",
    "sys/fs/cgroup/cgroup.procs": "",
    "sys/fs/cgroup/outer/memory.max": f"{2 * MIB}\n",
    "sys/fs/cgroup/outer/memory.current": f"{MIB}\n",
    "sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {MIB // 4}\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    "sys/fs/cgroup/outer/inner/memory.current": "7\n",
}
FIRST = MACHINE | {
    "proc/self/cgroup": "3:cpu,cpuacct:/elsewhere\n2:memory:/not/in/this/container\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {MIB // 2}\n",
}


@pytest.fixture
def tree(tmp_path):
    def write(files: dict[str, str]) -> Path:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 3 * MIB),
        (SECOND, MIB + MIB // 4),
        (FIRST, MIB // 2),
        (FIRST | {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, 3 * MIB),
        (SECOND | {"sys/fs/cgroup/outer/memory.current": f"{9 * MIB}"}, 0),
        (SECOND | {"sys/fs/cgroup/outer/memory.stat": "nothing\n"}, 3 * MIB),
    ],
)
def test_the_least_that_is_left_anywhere_counts(tree, files, expected):
    assert memory.available(tree(files)) == expected


def test_a_limit_of_the_process_counts(tree, monkeypatch):
    root = tree(MACHINE | {"proc/self/statm": "2 1 1 1 0 1 0\n"})
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * page, resource.RLIM_INFINITY))
    assert memory.available(root) == page


def test_a_machine_that_does_not_say_is_taken_to_be_half_free(tmp_path):
    assert 0 < memory.available(tmp_path) < 2**50


def test_half_of_it_may_be_spent_and_4_gib_at_most(monkeypatch):
    for left, expected in ((3 * 2**30, 1.5 * 2**30), (2**40, 4 * 2**30)):
        monkeypatch.setattr(memory, "available", lambda left=left: left)
        assert memory.budget(torch.device("cpu")) == expected


def test_processes_of_a_run_on_one_host_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3 * 2**30)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert memory.budget(torch.device("cpu")) == 2**29


def test_of_a_gpu_what_torch_has_in_reserve_counts_too(monkeypatch):
    for name, value in (
        ("mem_get_info", (7000, 9000)),
        ("memory_reserved", 2500),
        ("memory_allocated", 1500),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert memory.budget(torch.device("cuda")) == 4000


def test_a_tree_takes_the_memory_of_its_tensors_once_and_whole_where_a_view_holds_it():
    given, own = torch.ones(1000), torch.ones(10, dtype=torch.float64)
    assert memory.size({"view": given[10:20], "same": (given, own), "no": None}) == 4000 + 80
    assert memory.size((given[10:20], own), besides=[given]) == 80


def test_a_graph_takes_what_it_saves():
    leaf = torch.ones(1000, requires_grad=True)
    # The exponential's derivative is itself; a sum needs nothing.
    assert memory.size(leaf.exp().sum()) == 4 * 1001
    assert memory.size(leaf.exp().sum().detach()) == 4


@pytest.mark.parametrize("settings", [{}, {"learn_rates": True}])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_curvature_graph_takes_what_was_allocated_and_is_still_alive(steps, settings):
    """By an independent count, of what operations make and nothing frees."""
    problem = support.target_problem({"size": 2}, 20, 30, steps=steps, autograd=True, **settings)
    meta = support.double_meta(problem)
    batch = problem.collect(meta, TASKS, support.KEY)[0]
    task_objective = problem.task_objective(Variant(), problem.adaptation.update)
    made = []

    def slope() -> object:
        data, vector = take(batch, 0), flatten_meta(meta)
        outcome = lambda leaf: task_objective(unflatten_meta(leaf, meta), *data)  # noqa: E731
        made.append(objectives.kl_slope(outcome, vector))
        return made[0]

    expected = allocations.held_by(slope)
    assert memory.size(made, besides=batch) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("settings", [{}, {"autograd": True}, {"learn_rates": True}])
def test_as_many_tasks_are_held_as_fit_and_no_bit_depends_on_it(settings, monkeypatch):
    def step(**more) -> tuple[object, list[torch.Tensor]]:
        problem = support.target_problem({"size": 2}, steps=2, **settings, **more)
        meta = problem.initial_meta(generator(1, Stream.INITIALISATION))
        batch = problem.collect(meta, TASKS, support.KEY)[0]
        vector = flatten_meta(meta)
        start = problem.objective(meta, batch, Variant()).linearise(vector)
        return problem.fitting, [start.gradient, start.curvature(vector)]

    _, expected = step(chunk=5)
    monkeypatch.setattr(memory, "size", lambda *_, **__: 1000)
    for left, fitting in ((0, 1), (5999, 2), (10**12, 4 * 2**30 // 1000)):
        monkeypatch.setattr(memory, "available", lambda left=left: left)
        found, bits = step()
        assert found == fitting
        assert all(map(torch.equal, bits, expected))


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 9])
def test_where_a_chunk_shares_its_products_only_one_is_held(chunk, monkeypatch):
    """As on a GPU; here the tensors are on a CPU, and only the cut is the other one."""
    passes = []
    taped = closed_form.taped_policy_gradient
    problem, alone = (support.target_problem({"size": 2}, chunk=each) for each in (chunk, None))
    meta = support.double_meta(problem)
    batch = problem.collect(meta, TASKS, support.KEY)[0]
    vector = flatten_meta(meta)
    expected = alone.objective(meta, batch, Variant()).linearise(vector)
    problem.device = torch.device("cuda")
    monkeypatch.setattr(
        closed_form,
        "taped_policy_gradient",
        lambda *given: passes.append(given[2]) or taped(*given),
    )
    start = problem.objective(meta, batch, Variant()).linearise(vector)
    parts = -(-5 // chunk)
    support.close(start.gradient, expected.gradient, 1e-13)
    for product in (1, 2):
        support.close(start.curvature(vector), expected.curvature(vector), 1e-13)
        assert len(passes) == parts * (1 if parts == 1 else 1 + product)
    assert [len(each.mask) for each in passes[:parts]] == [
        part.stop - part.start for part in chunks(5, chunk)
    ]


def test_where_tasks_share_products_a_wave_is_cut_by_what_fits_before_it_is_sampled(monkeypatch):
    """As on a GPU, by the layers' sizes; here the tensors are on a CPU."""
    problem, alone = (support.target_problem({"size": 2}) for _ in range(2))
    meta = support.double_meta(problem)
    params = for_tasks(meta.theta, 5)
    given = params, TASKS, support.KEY, 0, problem.sampling.episodes
    expected = alone.wave(*given)
    adapted = alone.adapt(params, expected.episodes, 0.1)
    problem.samplers(5, problem.sampling.episodes)  # samples on a CPU
    problem.cut.device, cut = torch.device("cuda"), []
    left = [int(2.5 * problem.cut.bytes_of_a_task(5 * 4))]  # asked for once
    monkeypatch.setattr(memory, "budget", lambda _: left.pop())
    fit, gradient = baseline.fit, rl.policy_gradient
    monkeypatch.setattr(baseline, "fit", lambda *its: cut.append(len(its[0])) or fit(*its))
    monkeypatch.setattr(
        rl, "policy_gradient", lambda *its: cut.append(len(its[2].mask)) or gradient(*its)
    )
    found = problem.wave(*given)
    support.close(found.episodes.advantages, expected.episodes.advantages, 1e-12)
    for name, value in problem.adapt(params, found.episodes, 0.1).items():
        support.close(value, adapted[name], 1e-12)
    assert cut == 2 * [2, 2, 1]


def test_parts_of_a_wave_follow_each_other_where_memory_is_shared():
    problem = support.target_problem(threads=2, chunk=2)
    assert problem.cut(3, 20)[0] == problem.pool.map
    problem.cut.device = torch.device("cuda")
    mapper, parts = problem.cut(3, 20)
    assert mapper is map
    assert parts == [slice(0, 2), slice(2, 3)]
    problem.close()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_task_takes_what_its_layers_say(activation):
    """Numbers that are kept for each state of each wave, counted on paper in benchmarks/README.md."""
    policy = support.make_policy(activation, (20, 100, 100, 6))
    theta = {name: value.float() for name, value in support.theta_of(policy).items()}
    batch = support.sample_batch(policy, support.theta_of(policy), 1, 0.1, 1, 10, 100)
    batch = torch.utils._pytree.tree_map(lambda leaf: leaf.float(), batch)
    arch = support.architecture(policy)
    at = Surrogate(arch, ESTIMATORS["lvc"], InnerUpdate(0.1))
    parts = order(arch, theta).layers(flatten(theta))
    held = memory.size(at.activations(parts, batch), besides=batch)
    passed = 100 + 100 + 6
    tape, query = passed + (100 + 100) + 4 * 6 + 1, passed + 6 + 1 + 1
    states = 10 * 100
    assert closed_form.numbers_kept((20, 100, 100, 6), 1) == tape + query
    numbers = states * (tape + query)
    # And the parameters: as a vector, as layers, and after the step.
    assert 4 * numbers <= held <= 4 * (numbers + 3 * len(flatten(theta)) + 50)


@pytest.mark.parametrize("examples", [10, 40])
def test_as_many_tasks_are_evaluated_at_once_as_what_a_network_saves_allows(examples):
    # The ReLU's 8 results, saved for itself and for the layer above, and the 2 of that; the 3 inputs are there anyway.
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    of_an_example, x = (8 + 2) * 4, torch.zeros(5, 3)
    parameters = (4 * 8 + 9 * 2) * 4
    for tasks in (1, 7):
        within = tasks * (3 * parameters + examples * 2 * of_an_example)
        assert memory.tasks_that_fit(network, x, examples, within) == tasks
        assert memory.tasks_that_fit(network, x, examples, within - 1) == max(1, tasks - 1)


def test_parts_of_an_evaluation_keep_their_size_and_follow_each_other_on_a_gpu(monkeypatch):
    """Rounding depends on the size, and a part is sized for what is left while no other runs."""
    problem = SupervisedProblem(
        Sinusoid(3, 2, False), lambda generator: MLP((1,), 1, (4,)), threads=2
    )
    drawn = problem._drawn(problem.sample_tasks(2, np.random.default_rng(0)), 4, support.KEY)
    problem.device = torch.device("cuda")
    monkeypatch.setattr(problem, "_inputs", lambda x: x.float())
    one_task = 3 * 4 * (2 * 4 + 5) + 2 * (3 + 4) * 4 * (4 + 1)
    monkeypatch.setattr(memory, "budget", lambda device: 5 * one_task)
    assert problem._parted(drawn) == (map, 5)
    monkeypatch.setattr(memory, "budget", lambda device: one_task)
    assert problem._parted(drawn) == (map, 5)
    problem.device = torch.device("cpu")
    assert problem._parted(drawn) == (problem.pool.map, 200)
    problem.close()
