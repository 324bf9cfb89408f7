"""The first number that is not finite is named, with every task that is to blame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarl.checks.nonfinite import NonFiniteError, check


def test_the_first_quantity_task_episode_and_step_are_named_and_every_task_is_blamed():
    good, bad = torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4)
    bad[1, 1, 2], bad[2, 0, 0] = torch.inf, torch.nan
    check({"obs": good}, np.eye(3), "X-v0")
    with pytest.raises(NonFiniteError) as caught:
        check({"obs": good, "rewards": bad}, np.eye(3), "X-v0, gradient step 1", first=4)
    said = "X-v0, gradient step 1: rewards not finite in task 5 [0.0, 1.0, 0.0], episode 1, step 2."
    assert str(caught.value) == said
    assert caught.value.tasks == (5, 6)
    with pytest.raises(NonFiniteError, match=r"spread not finite in task 1 \[0.0, 1.0, 0.0\]\.$"):
        check({"spread": bad.sum((1, 2))}, np.eye(3), "X-v0")
