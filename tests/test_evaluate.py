"""Evaluation as a function: the paper's protocol, and returns that are known in closed form."""

import numpy as np
import torch
from folders import tiny_settings
from support import initial_meta, target_return

from metarl.building import opened_problem
from metarl.data import Meta
from metarl.evaluate import evaluate_meta, rate_schedule
from metarl.seeding import Key, Stream, generator

TARGET = "problem.env=support:Target-v0"


class Recorder:
    """A problem that notes how it is asked."""

    measure = "return"

    def sample_tasks(self, count, rng, split="train"):
        assert split == "test"
        self.count = count
        return rng.uniform(size=(count, 1))

    def adaptation_curve(self, meta, tasks, rates, episodes, key, share=None, advance=None):
        self.asked = {"tasks": tasks, "rates": rates, "episodes": episodes, "key": key}
        return np.arange(len(rates) + 1)[:, None] + np.zeros(len(tasks))


class TestProtocol:
    def test_tasks_data_and_rates_are_the_papers(self, tmp_path):
        problem = Recorder()
        chosen = tiny_settings(tmp_path, "seed=9", "evaluation.steps=3", "evaluation.episodes=4")
        curve = evaluate_meta(problem, Meta({}, {}), chosen, 25)
        asked = problem.asked
        assert asked["rates"] == curve.rates == (0.5, 0.25, 0.25)
        assert asked["key"] == Key(9, Stream.EVALUATION_DATA, 25)
        assert (asked["episodes"], curve.amount, problem.count) == (4, 4, 3)
        expected = generator(9, Stream.EVALUATION_TASKS).uniform(size=(3, 1))
        assert (asked["tasks"] == expected).all()
        assert (curve.tasks == expected).all()

    def test_no_step_is_one_point(self, tmp_path):
        curve = evaluate_meta(
            Recorder(), Meta({}, {}), tiny_settings(tmp_path, "evaluation.steps=0"), 0
        )
        assert (curve.steps, curve.rates, curve.per_task.shape) == ([0], (), (1, 3))

    def test_configured_and_learned_rates(self, tmp_path):
        chosen = tiny_settings(tmp_path, "evaluation.lr=[0.3, 0.2]")
        assert rate_schedule(chosen) == (0.3, 0.2)
        rates, problem = {"w": torch.ones(2)}, Recorder()
        chosen = tiny_settings(tmp_path, "inner.learn_rates=true", "evaluation.steps=3")
        curve = evaluate_meta(problem, Meta(rates, rates), chosen, 0)
        assert curve.rates == (None, None, None)
        assert all(each["w"] is rates["w"] for each in problem.asked["rates"])

    def test_held_out_tasks_are_no_training_tasks(self, tmp_path):
        with opened_problem(tiny_settings(tmp_path)) as problem:
            held_out = problem.sample_tasks(40, generator(1, Stream.EVALUATION_TASKS))
            trained = [
                problem.sample_tasks(40, generator(1, Stream.TRAIN_TASKS, iteration))
                for iteration in range(50)
            ]
        known = {tuple(task) for task in np.concatenate(trained)}
        assert len(known) == 2000
        assert not known & {tuple(task) for task in held_out}

    def test_untrained_returns_are_the_expected_ones(self, tmp_path):
        """In TargetEnv a policy N(μ, 1) earns −T(1 + (μ − task)²), whose variance is known too."""
        horizon, episodes = 5, 400
        chosen = tiny_settings(
            *(tmp_path, TARGET, "evaluation.steps=0", "evaluation.tasks=2"),
            *(f"problem.horizon={horizon}", f"evaluation.episodes={episodes}"),
        )
        with opened_problem(chosen) as problem:
            meta = initial_meta(problem)
            curve = evaluate_meta(problem, meta, chosen, 0)
            mean = torch.func.functional_call(problem.policy, meta.theta, (torch.ones(1),))[0]
        gap = mean.detach().numpy() - curve.tasks
        expected = target_return(mean.detach().numpy(), np.ones(1), curve.tasks, horizon)
        # Var (z + g)² = 2 + 4g² for a standard normal z.
        error = np.sqrt(horizon * (2.0 + 4.0 * gap[:, 0] ** 2) / episodes)
        assert (np.abs(curve.per_task[0] - expected) < 4.0 * error).all()

    def test_same_seed_same_bits_and_another_seed_others(self, tmp_path):
        chosen = tiny_settings(tmp_path)
        curves = []
        for change in (chosen, chosen, chosen.model_copy(update={"seed": 2})):
            with opened_problem(change) as problem:
                curves.append(evaluate_meta(problem, initial_meta(problem), change, 3))
        first, second, other = (each.per_task for each in curves)
        assert (first == second).all()
        assert (first != other).all()

    def test_threads_change_no_bit(self, tmp_path):
        values = []
        for threads in (1, 2):
            chosen = tiny_settings(tmp_path, f"threads={threads}")
            with opened_problem(chosen) as problem:
                values.append(evaluate_meta(problem, initial_meta(problem), chosen, 3))
        assert (values[0].per_task == values[1].per_task).all()
