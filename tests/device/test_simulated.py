"""An iteration on a device that is not the CPU: the same numbers, nothing mixed, and the host seldom waits."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch
from simulated import DEVICE, Resident, SimulatedDevice

from metarl.data import Episodes
from metarl.functional.params import flatten_meta, for_tasks
from metarl.functional.trpo import TrustRegion, conjugate_gradient, trust_region_step
from metarl.outer import PPO, TRPO, Adam, Descent, Schedule
from metarl.problems.protocol import Variant
from metarl.seeding import Stream, generator

KEY = support.KEY
M, N, T = 4, 6, 5
TASKS = np.array([[0.5, -0.2], [-0.7, 0.1], [0.0, 0.9], [0.3, 0.3]])
REGION = TrustRegion(kfac_damping=0.1, cg_iterations=3)


def make(device, **settings):
    given = {"env": {"size": 2, "random_end": True}, "horizon": T, "episodes": N, "lr": 0.2}
    # The stand-in's tensors do not own the memory that would be measured.
    return support.target_problem(**given | settings, device=device, chunk=100)


def iteration(device, outer, **settings):
    """One meta-iteration: the query episodes, the new vector, what is logged."""
    problem = make(device, **settings)
    meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
    batch, logged = problem.collect(meta, TASKS, KEY)
    found, info = outer.step(meta, lambda variant: problem.objective(meta, batch, variant))
    problem.close()
    return batch.query, flatten_meta(found), logged | info


OUTERS = {
    "trpo": lambda: TRPO(REGION),
    "trpo, plain": lambda: TRPO(TrustRegion(cg_iterations=3), momentum=0.9),
    "vpg": lambda: Descent(Adam(Schedule(0.01)), Variant(exploration=0.1)),
    "ppo": lambda: PPO(Schedule(0.01), 0.2, 2, 0.01, 0.1),
}


@pytest.mark.parametrize("name", OUTERS)
def test_an_iteration_gives_the_numbers_of_the_cpu(name):
    settings = {"steps": 2, "observe_task": name == "trpo"}
    expected = iteration("cpu", OUTERS[name](), **settings)
    with SimulatedDevice():
        found = iteration(DEVICE, OUTERS[name](), **settings)
        assert all(isinstance(each, Resident) for each in (*found[0], found[1]))
        query, vector = Episodes(*(each.cpu() for each in found[0])), found[1].cpu()
    for one, other in zip(query, expected[0], strict=True):
        support.close(one, other, 1e-4)
    support.close(vector, expected[1], 1e-3)
    assert found[2].keys() == expected[2].keys()
    for tag in found[2].keys() - {"outer/cg_residual"}:
        assert found[2][tag] == pytest.approx(expected[2][tag], rel=1e-2, abs=1e-4), tag


def wave_counts(horizon, episodes):
    problem_settings = {"horizon": horizon, "episodes": episodes, "env": {"size": 2}}
    with SimulatedDevice() as device:
        problem = make(DEVICE, **problem_settings)
        meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
        device.counts.clear()
        problem.wave(for_tasks(meta.theta, M), TASKS, KEY, 0, episodes)
        return device.counts


def test_a_step_of_a_wave_moves_observations_and_actions_and_nothing_else():
    short, long, wide = wave_counts(4, 3), wave_counts(9, 3), wave_counts(4, 6)
    assert long["to_device"] - short["to_device"] == 5
    assert long["to_host"] - short["to_host"] == 5
    assert long["read"] == short["read"]
    assert wide["to_device"] == short["to_device"]
    observation, action, noise, reward, mask = 4, 8, 8, 4, 4
    per_step = M * 3 * (observation + action + noise + reward + mask)
    assert long["bytes"] - short["bytes"] == 5 * per_step


@pytest.mark.parametrize("products", [2, 6])
def test_the_solver_waits_once_however_many_products_it_takes(products):
    region = REGION._replace(cg_iterations=products)
    with SimulatedDevice() as device:
        problem = make(DEVICE)
        meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
        batch, _ = problem.collect(meta, TASKS, KEY)
        objective, vector = problem.objective(meta, batch, Variant()), flatten_meta(meta)
        device.counts.clear()
        start = objective.linearise(vector)
        assert not device.counts.total()
        _, info = trust_region_step(vector, start, objective.evaluate, region)
    assert info.cg_iterations == products
    # One for the solution, one for what it predicts, one for each candidate.
    assert device.counts["to_host"] == 1
    assert device.counts["read"] == 1 + info.trials


def test_a_solver_that_never_looks_ends_as_one_that_does():
    """Converged early, negative curvature early, NaN, nothing to solve: the same result on both."""
    values = {
        "early": torch.tensor([1.0, 1.0, 5.0, 5.0]),
        "negative": torch.tensor([1.0, -0.5, 2.0, 3.0]),
        "nan": torch.tensor([1.0, torch.nan, 2.0, 3.0]),
        "full": torch.tensor([1.0, 2.0, 5.0, 9.0]),
    }
    for name, each in values.items():
        for b in (torch.tensor([1.0, 0.2, 0.3, -0.4]).double(), torch.zeros(4).double()):
            own = each.double()
            expected = conjugate_gradient(lambda v, own=own: own * v, b, 6)
            with SimulatedDevice():
                there = own.to(DEVICE)
                product = lambda v, there=there: there * v  # noqa: E731
                found = conjugate_gradient(product, b.to(DEVICE), 6)
                solution = found.solution.cpu()
            support.close(solution, expected.solution, 1e-12)
            for one, other in zip(found[1:], expected[1:], strict=True):
                assert one == pytest.approx(other, nan_ok=True, abs=1e-12), name


def test_a_restored_optimiser_counts_its_steps_on_the_cpu():
    with SimulatedDevice() as device:
        names = ("step", "exp_avg", "exp_avg_sq")
        saved = {name: torch.ones(() if name == "step" else 3, device=DEVICE) for name in names}
        outer = Descent(Adam(Schedule(0.1)))
        outer.restore(saved, {})
        device.counts.clear()
        outer.optimiser.step(*torch.ones(2, 3, device=DEVICE))
        assert not device.counts.total()


def test_mixing_devices_raises_as_on_a_gpu():
    with SimulatedDevice():
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(AssertionError, match="two devices"):
            there + torch.ones(3)
        assert float((there + torch.tensor(1.0)).sum()) == 6.0
