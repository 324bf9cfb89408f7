"""The paper's references: a policy pretrained without adaptation, and an oracle that observes the task."""

import json
from pathlib import Path

import numpy as np
import pytest
import support
import torch

from metarl import runs
from metarl.evaluate import main as evaluate
from metarl.functional.params import for_tasks
from metarl.problems.environments import EnvironmentFamily
from metarl.sampler import LoopVectorEnv, Sampler
from metarl.seeding import Key, Stream
from metarl.train import main as train

CONFIG = Path(__file__).parent.parent / "configs" / "nav2d.yaml"
SMALL = [
    *("outer.tasks=3", "problem.episodes=2", "problem.horizon=12", "network.hidden_sizes=[8]"),
    *("evaluation.tasks=2", "evaluation.episodes=2", "iterations=1", "threads=1"),
]
ORACLE = ["inner.steps=0", "evaluation.steps=0", "problem.observe_task=true"]
GOALS = np.array([[0.05, 0.0], [0.3, -0.2], [-0.4, 0.1]])
M, N, T, D = len(GOALS), 2, 8, 2


def navigation(observe_task, single=False, threads=1):
    """A wave, native or stepped one by one; told of the task, the policy gives no weight to it."""
    policy = support.make_policy("tanh", (2, 5, 2))
    params = support.theta_of(policy)
    if observe_task:
        weight = params["layers.0.weight"]
        params["layers.0.weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
    family = EnvironmentFamily("envs:Navigation2D-v0", {}, T, observe_task)
    assert family.obs_size == 2 + D * observe_task
    loop = lambda count: LoopVectorEnv([family.single() for _ in range(count)])  # noqa: E731
    sampler = Sampler(
        *(loop if single else family, M, N, T, policy.stacked, threads),
        observe_task=observe_task,
    )
    return sampler.wave(for_tasks(params, M), GOALS, support.KEY, 0)


@pytest.mark.parametrize(("single", "threads"), [(False, 1), (False, 2), (True, 1)])
def test_the_oracle_sees_the_observation_and_then_its_own_task(single, threads):
    told, plain = (navigation(observe, single, threads) for observe in (True, False))
    expected = torch.from_numpy(GOALS)[:, None, None] * told.mask[..., None]
    assert torch.equal(told.obs[..., 2:], expected.expand(M, N, T, D))
    support.close(told.obs[..., :2], plain.obs, 1e-12)
    for name in ("actions", "rewards", "mask", "mean", "log_std"):
        support.close(getattr(told, name), getattr(plain, name), 1e-12)


def test_the_oracle_may_earn_more_than_any_policy_that_cannot_adapt():
    """Its mean is the task: the return is −T σ², where not knowing the task costs T/3 more."""
    sigma, episodes = 0.5, 400
    problem = support.target_problem(horizon=T, hidden=(), std=sigma, steps=0, observe_task=True)
    meta = support.double_meta(problem)
    meta.theta["layers.0.weight"] = torch.tensor([[0.0, 1.0]]).double()
    meta.theta["layers.0.bias"] = torch.zeros(1).double()
    meta.theta["log_std"] = torch.tensor([sigma]).double().log()
    tasks = np.array([[0.8], [-0.3]])
    key = Key(1, Stream.EVALUATION_DATA)
    (returns,) = problem.adaptation_curve(meta, tasks, (), episodes, key)
    # Var (a − g)² = 2σ⁴ for one Gaussian action around its target.
    error = np.sqrt(T * 2 * sigma**4 / episodes)
    assert (np.abs(returns + T * sigma**2) < 5 * error).all()


def test_both_are_trained_and_shown_beside_a_run_under_the_papers_names(tmp_path):
    def trained(name, *changes):
        assert train([str(CONFIG), *SMALL, *changes, "--run-dir", str(tmp_path / name)]) == 0
        return str(runs.find_run("latest", tmp_path / name))

    run, pretrained = trained("maml"), trained("pretrained", "inner.steps=0")
    oracle = trained("oracle", *ORACLE)
    for path in (pretrained, oracle):
        (record,) = runs.read_metrics(Path(path))
        # One wave of 3 tasks x 2 episodes x 12 steps, and nothing is adapted to.
        assert record["env_steps"] == 72
        assert record["return/gain"] == 0
        assert record["outer/accepted"] == 1
    again = ["--reference", pretrained]
    named = [*again, "--reference", oracle, "--reference", "random"]
    assert evaluate([run, *named, *again]) == 0
    found = json.loads((Path(run) / "evaluation" / "adaptation.json").read_text())
    steps = {name: curve["steps"] for name, curve in found["references"].items()}
    assert steps == {
        "pretrained": [0, 1, 2, 3],
        "oracle": [0],
        "random": [0, 1, 2, 3],
        pretrained: [0, 1, 2, 3],
    }
    assert all(curve["tasks"] == found["tasks"] for curve in found["references"].values())
