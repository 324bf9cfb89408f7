"""The linear baseline against numpy's least squares, and against functions it must fit exactly."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch

from metarl.functional import baseline

M, N, T, OBS = 2, 4, 5, 3


@pytest.fixture
def obs():
    return support.normal(0, M, N, T, OBS)


@pytest.fixture
def mask():
    return torch.stack([support.early_ends(N, T, seed) for seed in (1, 2)])


def test_features_written_out():
    obs = torch.tensor([[[0.5, -20.0], [2.0, 3.0]]])  # one episode of two steps
    found = baseline.features(obs)
    assert found.dtype == torch.float64
    expected = [
        [0.5, -10.0, 0.25, 100.0, 0.0, 0.0, 0.0, 1.0],
        [2.0, 3.0, 4.0, 9.0, 0.01, 0.0001, 0.000001, 1.0],
    ]
    support.close(found[0], torch.tensor(expected, dtype=torch.float64), 1e-15)


@pytest.mark.parametrize("ridge", [1e-5, 1.0])
def test_weights_equal_numpys_least_squares_on_the_augmented_system(ridge, obs, mask):
    inputs, targets = baseline.features(obs), support.normal(3, M, N, T)
    found = baseline.fit(inputs, targets, mask, ridge)
    for m in range(M):
        valid = mask[m].numpy() > 0
        rows = inputs[m].numpy()[valid]
        augmented = np.concatenate([rows, np.sqrt(ridge) * np.eye(rows.shape[1])])
        aims = np.concatenate([targets[m].numpy()[valid], np.zeros(rows.shape[1])])
        expected = np.linalg.lstsq(augmented, aims, rcond=None)[0]
        predicted = baseline.predict(found, inputs)[m].numpy()[valid]
        np.testing.assert_allclose(predicted, rows @ expected, atol=1e-7)
        np.testing.assert_allclose(found[m], expected, rtol=1e-4, atol=1e-4)


def test_a_function_in_its_span_is_predicted_and_each_task_has_its_own(mask):
    obs = support.normal(0, M, 30, T, OBS)
    mask = mask.repeat(1, 8, 1)[:, :30]
    coefficients = torch.tensor([[1.0, -2.0, 0.5], [-3.0, 0.0, 2.0]], dtype=support.DOUBLE)
    targets = torch.einsum("mnto,mo->mnt", obs + 0.5 * obs**2, coefficients) + 4.0
    inputs = baseline.features(obs)
    values = baseline.predict(baseline.fit(inputs, targets, mask), inputs)
    support.close(values * mask, targets * mask, 1e-4)
    support.close(baseline.explained_variance(values, targets, mask), torch.ones(M), 1e-8)


def test_what_lies_outside_the_mask_does_not_matter(obs, mask):
    inputs, targets = baseline.features(obs), support.normal(3, M, N, T)
    noise = 100 * (1 - mask)
    support.close(
        baseline.fit(inputs + noise[..., None], targets - noise, mask),
        baseline.fit(inputs, targets, mask),
        1e-9,
    )


def test_float32_observations_are_solved_in_float64(obs, mask):
    targets = support.normal(3, M, N, T)
    single, double = (
        baseline.fit(baseline.features(x), targets, mask)
        for x in (obs.float(), obs.float().double())
    )
    assert single.dtype == torch.float64
    assert torch.equal(single, double)


def test_equal_observations_have_a_solution_because_of_the_ridge():
    """One constant observation: all features but those of time are copies of the constant one."""
    obs = torch.ones(1, N, T, 1)
    targets = torch.arange(T, 0, -1.0).expand(1, N, T)
    inputs = baseline.features(obs)
    values = baseline.predict(baseline.fit(inputs, targets, torch.ones(1, N, T)), inputs)
    assert values.isfinite().all()
    assert baseline.explained_variance(values, targets, torch.ones(1, N, T)).item() > 0.95


def test_the_ridge_grows_until_there_is_a_solution():
    """Task 1 is singular without a ridge; task 0 must keep the smallest one."""
    generic = support.normal(0, 1, 1, 3, 2)
    singular = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]], dtype=support.DOUBLE)
    targets, mask = torch.ones(2, 1, 3), torch.ones(2, 1, 3)
    calls = []
    solve = torch.linalg.solve_ex

    def counted(matrix, right):
        calls.append(matrix)
        solution, info = solve(matrix, right)
        if len(calls) < 4:  # three failures of task 1
            solution = solution.clone()
            solution[1] = torch.nan
        return solution, info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "solve_ex", counted)
        found = baseline.fit(torch.cat([generic, singular]), targets, mask, ridge=1e-3)
    ridges = [float(matrix[1, 1, 1]) for matrix in calls]
    np.testing.assert_allclose(ridges, [1e-3, 1e-2, 1e-1, 1.0])
    for task, ridge, rows in ((0, 1e-3, generic), (1, 1.0, singular)):
        matrix = rows[0, 0].numpy()
        gram = matrix.T @ matrix + ridge * np.eye(2)
        np.testing.assert_allclose(
            found[task], np.linalg.solve(gram, matrix.T @ np.ones(3)), rtol=1e-9
        )


def test_what_has_no_solution_is_named():
    inputs = baseline.features(torch.zeros(3, N, T, OBS))
    targets = torch.zeros(3, N, T)
    targets[1, 2, 3] = torch.inf
    with pytest.raises(FloatingPointError, match="task 1"):
        baseline.fit(inputs, targets, torch.ones(3, N, T))


def test_explained_variance_of_known_cases(mask):
    targets = support.normal(3, M, N, T)
    valid_mean = (targets * mask).sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True)
    for values, expected in (
        (targets, 1.0),
        (targets + 7.0, 1.0),
        (valid_mean.expand_as(targets), 0.0),
        (0.5 * targets, 0.75),
        (-targets, -3.0),
    ):
        found = baseline.explained_variance(values + 50 * (1 - mask), targets, mask)
        support.close(found, torch.full((M,), expected), 1e-12)
    constant = torch.ones(M, N, T)
    assert not baseline.explained_variance(targets, constant, mask).any()
