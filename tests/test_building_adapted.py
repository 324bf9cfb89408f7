"""Which parameters the inner loop adapts, in every kind of network; that some are left."""

from __future__ import annotations

from pathlib import Path

import pytest

from metarl import config
from metarl.building import make_problem
from metarl.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"
HEAD = ["inner.adapt=head"]
NETWORKS = {
    "mlp": ([], {"layers.2.weight", "layers.2.bias"}),
    "mlp with norms": (["network.normalisation=batch"], {"layers.2.weight", "layers.2.bias"}),
    "gru": (["network={kind: gru}"], {"head.weight", "head.bias"}),
}
NORMALISED = ["network.normalisation=batch", "inner.per_step_normalisation=true"]


def built(*overrides: str):
    return make_problem(config.load(CONFIGS / "sinusoid_5shot.yaml", overrides), "cpu", 1)


@pytest.mark.parametrize("kind", NETWORKS)
def test_head_is_the_last_layer_whatever_comes_after_it_in_the_list(kind):
    network, expected = NETWORKS[kind]
    assert built(*network, *HEAD).learner.update.adapted == expected


@pytest.mark.parametrize("adapt", ["head", '["layers.2.*", "norms.*"]'], ids=["head", "patterns"])
def test_of_a_normalised_network_norms_are_not_adapted_where_each_step_has_its_own(adapt):
    problem = built(*NORMALISED, f"inner.adapt={adapt}")
    assert problem.learner.update.adapted == {"layers.2.weight", "layers.2.bias"}


def test_nothing_to_adapt_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"^inner\.adapt leaves nothing to adapt: inner\.per_step_"):
        built(*NORMALISED, 'inner.adapt=["norms.*"]')
