"""What an environment returns is held against what it declares, in few microseconds and few words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metarl.checks import conformance

OBS, REWARD, FLAGS = np.ones((3, 2)), np.ones(3), np.zeros((2, 3), dtype=bool)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_a_vector_environment_may_give_any_real_numbers_as_arrays_or_lists(dtype):
    obs, reward = OBS.astype(dtype), REWARD.astype(dtype)
    assert conformance.of_reset((obs, {}), (3,), (2,)) is obs
    found = conformance.of_step((obs, reward, *FLAGS, {}), (3,), (2,))
    assert all(one is other for one, other in zip(found[:2], (obs, reward), strict=True))
    lists = obs.tolist(), reward.tolist(), *FLAGS.tolist(), {}
    for one, other in zip(conformance.of_step(lists, (3,), (2,)), found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("reward", [1, 1.0, np.float32(1.0), np.array(1.0), True])
@pytest.mark.parametrize("flag", [True, np.True_])
def test_a_single_one_a_number_and_flags(reward, flag):
    _, found, *flags = conformance.of_step((OBS[0], reward, flag, flag, {}), (), (2,))
    assert (float(found), *map(bool, flags)) == (1.0, True, True)


def test_tensors_stay_tensors():
    given = *map(torch.from_numpy, (OBS, REWARD, *FLAGS)), {}
    found = conformance.of_step(given, (3,), (2,), torch.as_tensor)
    assert all(one is other for one, other in zip(found, given[:-1], strict=True))
    for wrong, said in (
        (given[1].sum(), r"reward of shape \(\), not \(3,\)"),
        (given[1] + 1j, "reward of type torch.complex128, not numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            conformance.of_step((given[0], wrong, *given[2:]), (3,), (2,), torch.as_tensor)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (OBS, "reset returned ndarray, not 2 values"),
        ((OBS,), "reset returned 1 values, not 2"),
        ((OBS[0], {}), r"observations of shape \(2,\), where \(3, 2\) was declared"),
        ((OBS.astype(">f8"), {}), "observations of type >f8, not numbers"),
        (({"x": OBS}, {}), r"observations of shape \(\), where \(3, 2\) was declared"),
    ],
)
def test_what_reset_should_not_return_is_named(returned, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        conformance.of_reset(returned, (3,), (2,))
