"""What outer step is built from settings, field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarl import config, outer
from metarl.building import make_outer
from metarl.config import Config
from metarl.functional.trpo import TrustRegion
from metarl.outer import Schedule
from metarl.problems.protocol import Variant

CONFIGS = Path(__file__).parent.parent / "configs"


def load(name: str, *overrides: str) -> Config:
    return config.load(CONFIGS / f"{name}.yaml", overrides)


def fields(step: outer.Descent):
    return type(step.optimiser), step.optimiser.schedule, step.variant, step.clip


def test_every_setting_of_an_outer_step_reaches_it():
    trpo = make_outer(
        load(
            *("nav2d", "outer.max_kl=0.1", "outer.cg_iterations=2", "outer.cg_damping=0.3"),
            *("outer.kfac_damping=0.4", "outer.backtrack_ratio=0.5", "outer.max_backtracks=6"),
            *("outer.momentum=0.7", "outer.momentum_warmup=8"),
        )
    )
    assert trpo.region == TrustRegion(0.1, 2, 0.3, 0.4, 0.5, 6)
    assert (trpo.momentum, trpo.warmup) == (0.7, 8)
    vpg = make_outer(load("nav2d", "outer={method: vpg, lr: 0.2, exploration: 0.3}"))
    assert fields(vpg) == (outer.Adam, Schedule(0.2, total=40), Variant(exploration=0.3), None)
    ppo = make_outer(
        load(
            "nav2d",
            "outer={method: ppo, lr: 0.2, clip: 0.4, epochs: 3, kl_target: 0.5, kl_coefficient: 6}",
        )
    )
    assert ppo.adam.schedule == Schedule(0.2, total=3 * 40)
    assert (ppo.clip, ppo.epochs, ppo.kl_target, ppo.kl_coefficient) == (0.4, 3, 0.5, 6.0)
    sgd = make_outer(
        load(
            *("sinusoid_5shot", "iterations=9"),
            "outer={method: sgd, lr: 0.2, schedule: cosine, final_lr: 0.1, clip: 3}",
        )
    )
    assert fields(sgd) == (outer.SGD, Schedule(0.2, "cosine", 0.1, 9), Variant(), 3.0)


@pytest.mark.parametrize(("method", "steps"), [("vpg", 9), ("ppo, epochs: 4", 36)])
def test_the_rate_of_a_policys_descent_may_fall_too(method, steps):
    """Of ProMP over all the steps that it takes on each meta-batch."""
    given = f"outer={{method: {method}, lr: 0.2, schedule: cosine, final_lr: 0.1}}"
    step = make_outer(load("nav2d", "iterations=9", given))
    adam = step.adam if method.startswith("ppo") else step.optimiser
    assert adam.schedule == Schedule(0.2, "cosine", 0.1, steps)
    assert adam.schedule.at(0) == 0.2
    assert adam.schedule.at(steps) == pytest.approx(0.1)
