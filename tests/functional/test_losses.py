"""Supervised losses against torch's own and numbers worked out by hand."""

import support
import torch

from metarl.functional.losses import LOSSES, accuracy, cross_entropy, mean_squared_error


def test_losses_are_torchs_for_each_task():
    logits, targets = support.normal(0, 3, 7, 4), torch.arange(21).reshape(3, 7) % 4
    found, expected = cross_entropy(logits, targets), torch.nn.functional.cross_entropy
    single = [expected(*pair) for pair in zip(logits, targets, strict=True)]
    support.close(found, torch.stack(single), 1e-14)
    x, y = support.normal(1, 3, 5, 2), support.normal(2, 3, 5, 2)
    support.close(mean_squared_error(x, y), ((x - y) ** 2).mean((1, 2)), 1e-15)


def test_accuracy_by_hand():
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 3.0], [9.0, 1.0]]])
    assert accuracy(logits, torch.tensor([[0, 1], [0, 0]])).tolist() == [1.0, 0.5]


def test_no_class_is_right_where_a_logit_is_nan():
    logits = torch.tensor([[[torch.nan, 0.0], [0.0, 1.0]], [[torch.inf, 0.0], [9.0, 1.0]]])
    found = accuracy(logits, torch.tensor([[0, 1], [0, 0]]))
    assert found.isnan().tolist() == [True, False]
    assert found[1] == 1.0


def test_what_is_reported():
    assert {name: row.measure for name, row in LOSSES.items()} == {
        "mse": "mse",
        "cross_entropy": "accuracy",
    }
