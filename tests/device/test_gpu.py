"""On a GPU: the CPU's numbers, no waiting within a wave, and the same returns from either physics."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from metarl import config
from metarl.data import Examples
from metarl.functional.adapt import InnerUpdate
from metarl.functional.params import flatten_meta
from metarl.nets.conv import Conv
from metarl.problems.learners import Adaptation
from metarl.problems.protocol import Variant
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Key, Stream
from metarl.train import meta_iteration
from metarl.training import Training

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parent.parent.parent
SMALL = (
    "outer.tasks=8",
    "problem.episodes=10",
    "problem.horizon=50",
    "network.hidden_sizes=[32,32]",
)


def train(iterations, *overrides):
    """What each of some iterations logs."""
    settings = config.load(ROOT / "configs" / "cheetah_vel.yaml", [*SMALL, *overrides])
    with Training(settings) as training:
        return [meta_iteration(training) for _ in range(iterations)]


@pytest.mark.parametrize("outer", ["outer.kfac_damping=0.1", "outer.kfac_damping=null"])
def test_an_iteration_gives_the_numbers_of_the_cpu(outer):
    (expected,), (found,) = (train(1, f"device={each}", outer) for each in ("cpu", "cuda"))
    for tag in ("return/pre", "return/post", "outer/loss", "outer/kl", "outer/grad_norm"):
        assert found[tag] == pytest.approx(expected[tag], rel=0.02, abs=2e-3), tag


def test_physics_on_the_gpu_begins_with_the_returns_of_the_cpu():
    """From the same states and noise, with an untrained policy: trajectories part, their mean return hardly."""
    pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    ways = ("device=cpu",), ("device=cuda", "problem.physics=warp")
    (expected,), (found,) = (train(1, *way) for way in ways)
    assert found["return/pre"] == pytest.approx(expected["return/pre"], rel=0.02)
    assert found["env_steps"] == expected["env_steps"]


def test_it_trains_to_the_same_return_within_the_spread_of_seeds():
    pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    ways = ("device=cuda",), ("device=cuda", "problem.physics=warp")
    here, there = (
        np.array(
            [
                np.mean([each["return/post"] for each in train(20, *way, f"seed={seed}")[-5:]])
                for seed in (1, 2, 3, 4)
            ]
        )
        for way in ways
    )
    spread = np.sqrt((here.var(ddof=1) + there.var(ddof=1)) / 4)
    assert abs(here.mean() - there.mean()) < 3.0 * spread


def test_steps_wait_for_nothing():
    pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    env = gym.make_vec("envs:warp/HalfCheetahVel-v0", 64, device="cuda")
    env.reset(seed=0)
    actions = torch.zeros(64, 6, device="cuda")
    env.step(actions)  # compiles the kernels
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            env.step(actions)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("own_stream", [False, True])
def test_the_graph_does_what_its_kernels_do(own_stream):
    pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    from envs.physics import load_model
    from envs.worlds import Worlds

    stream = torch.cuda.Stream() if own_stream else torch.cuda.current_stream()
    rng = np.random.default_rng(0)
    qpos, qvel = 0.1 * rng.normal(size=(2, 50, 9))
    found = []
    with torch.cuda.stream(stream):
        for simulate in (Worlds.step, Worlds._simulate):
            worlds = Worlds(load_model("half_cheetah.xml"), 50, "cuda", frame_skip=2)
            worlds.set_state(slice(None), qpos, qvel)
            for _ in range(10):
                worlds.ctrl.uniform_(-1.0, 1.0, generator=torch.Generator("cuda").manual_seed(0))
                simulate(worlds)
            found.append(worlds.qpos.cpu())
    torch.testing.assert_close(*found, atol=1e-4, rtol=0.0)


class Pictures:
    """Three classes of noise, so that what a network gives does not hang on the set."""

    queries = 2

    def sample_tasks(self, count, rng, split="train"):
        return np.zeros((count, 1))

    def examples(self, tasks, queries, key, draw=0):
        rng = key.generator(draw)
        drawn = [
            torch.from_numpy(
                rng.integers(256, size=(len(tasks), 3 * each, 1, 28, 28), dtype=np.uint8)
            )
            for each in (2, queries)
        ]
        support, query = (
            Examples(x, (torch.arange(x.shape[1]) % 3).expand(len(x), -1)) for x in drawn
        )
        return support, query


def test_a_convolutional_network_has_the_meta_gradient_and_the_curve_of_the_cpu():
    """All tasks in one call by vmap there, one by one here, with second derivatives through the normalisation."""

    def found(device, together):
        make = lambda generator: Conv((1, 28, 28), 3, 8, generator=generator)  # noqa: E731
        learner = Adaptation(2, InnerUpdate(0.1))
        problem = SupervisedProblem(
            *(Pictures(), make, "cross_entropy", learner, together, device),
            dtype=torch.float64,
        )
        meta, tasks = problem.initial_meta(np.random.default_rng(0)), np.zeros((5, 1))
        batch, _ = problem.collect(meta, tasks, Key(1, Stream.TRAIN_DATA))
        start = problem.objective(meta, batch, Variant()).linearise(flatten_meta(meta))
        curve = problem.adaptation_curve(meta, tasks, [0.1] * 3, 4, Key(1, Stream.EVALUATION_DATA))
        return start.gradient.cpu(), torch.from_numpy(curve)

    for here, there in zip(found("cpu", 1), found("cuda", None), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-9)
