"""What the form on a GPU computes from tensors is what the others compute from arrays."""

import numpy as np
import pytest
import torch

from envs.half_cheetah_rules import Directions, Velocities, make_preset
from envs.half_cheetah_tensors import make_reader
from envs.physics import load_model

PRESETS = [("paper", False), ("gym", False), ("gym", True)]


@pytest.mark.parametrize(("name", "torso_position"), PRESETS)
def test_observations_and_velocities(name, torso_position):
    preset = make_preset(name, load_model("half_cheetah.xml"), torso_position)
    rng = np.random.default_rng(0)
    qpos, qvel = rng.normal(size=(2, 30, 9)) * [[[2.0]], [[5.0]]]
    x_before = qpos[:, 0] - 0.1 * rng.normal(size=30)
    expected = preset.read(qpos, qvel, x_before)
    tensors = (torch.from_numpy(each).float() for each in (qpos, qvel, x_before))
    found = make_reader(preset, torch.device("cpu"))(*tensors)
    assert found[0].dtype == torch.float32
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6 * 10)
    # Positions of some metres have seven digits, and `gym` divides their difference by 0.05 s.
    np.testing.assert_allclose(found[1], expected[1], atol=2e-5)


@pytest.mark.parametrize("family", [Velocities(), Directions()])
def test_rewards(family):
    rng = np.random.default_rng(1)
    velocity, action = rng.normal(size=20), rng.uniform(-1, 1, size=(20, 6))
    tasks = family.sample(20, rng)
    expected = family.reward(velocity, action, tasks)
    found = family.reward(*(torch.from_numpy(each) for each in (velocity, action, tasks)))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, expected)
