"""What is built from settings: each variant that a comment of a configuration or the README names, field by field."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from metarl import config, datasets, outer
from metarl.building import make_outer, make_problem
from metarl.config import Config
from metarl.functional.adapt import InnerUpdate
from metarl.functional.comparison import BIAS, WEIGHT
from metarl.outer import Schedule
from metarl.problems import rl
from metarl.problems.embedding import Comparison, FineTuning, JointClasses
from metarl.problems.images import EpisodeSizes
from metarl.problems.learners import Adaptation, MetaLSTM
from metarl.problems.protocol import Variant
from metarl.seeding import Stream, generator

CONFIGS = Path(__file__).parent.parent / "configs"
CLASSES, PICTURES, SIDE = 5, 20, 28
HEAD = frozenset({"head.weight", "head.bias"})
CONVS = frozenset(f"convs.{block}.{part}" for block in range(4) for part in ("weight", "bias"))
NORMS = frozenset(f"norms.{block}.{part}" for block in range(4) for part in ("scale", "shift"))
LAST = frozenset({"layers.2.weight", "layers.2.bias"})


class Blank(NamedTuple):
    """A few classes of black pictures."""

    images: np.ndarray = np.zeros((CLASSES * PICTURES, 1, SIDE, SIDE), np.uint8)
    starts: np.ndarray = np.arange(0, CLASSES * PICTURES + 1, PICTURES)
    names: tuple[str, ...] = tuple("abcde")


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Which pictures are asked for; there are no others than blank ones."""
    calls = []
    monkeypatch.setattr(datasets, "load", lambda *given: calls.append(given) or Blank())
    return calls


def load(name: str, *overrides: str) -> Config:
    return config.load(CONFIGS / f"{name}.yaml", overrides)


def in_comment(name: str) -> dict[str, list[str]]:
    """The variants of a configuration's comment: settings by the first word."""
    comment = (CONFIGS / f"{name}.yaml").read_text().split("command line:\n")[1]
    lines = re.sub(r"\n#     ", " ", comment).split("iterations:")[0].splitlines()
    found = [re.fullmatch(r'#   ([\w+-]+).*?: ((?:inner\.|"outer=).*)', line) for line in lines]
    return {match[1]: shlex.split(match[2]) for match in found}


def fields(step: outer.Descent):
    return type(step.optimiser), step.optimiser.schedule, step.variant, step.clip


def descends(kind, lr, schedule="constant", iterations=70_000, reptile=False):
    return kind, Schedule(lr, schedule, 0.0, iterations), Variant(reptile=reptile), None


BY_COSINE = descends(outer.Adam, 0.002, "cosine", 14_000)
OMNIGLOT = {
    "FOMAML": (Adaptation(1, InnerUpdate(0.4, True, CONVS | HEAD)), BY_COSINE),
    "ANIL": (Adaptation(1, InnerUpdate(0.4, False, HEAD)), BY_COSINE),
    "Meta-SGD": (Adaptation(1, InnerUpdate(0.4, False, CONVS | HEAD), True), BY_COSINE),
    "MAML++": (
        Adaptation(
            *(5, InnerUpdate(0.1, False, CONVS | HEAD, 1000), "layer_step"),
            *(False, 500, NORMS),
        ),
        BY_COSINE,
    ),
    "Reptile": (
        Adaptation(5, InnerUpdate(0.1), fresh_support=True),
        descends(outer.SGD, 1.0, "linear", 14_000, reptile=True),
    ),
}
BY_ADAM = descends(outer.Adam, 0.001)
SINUSOID = {
    "FOMAML": (Adaptation(1, InnerUpdate(0.01, True)), BY_ADAM),
    "ANIL": (Adaptation(1, InnerUpdate(0.01, False, LAST)), BY_ADAM),
    "Meta-SGD": (Adaptation(1, InnerUpdate(0.01), True), BY_ADAM),
    "Reptile": (
        Adaptation(32, InnerUpdate(0.02)),
        descends(outer.SGD, 0.1, "linear", reptile=True),
    ),
    "pretraining": (Adaptation(0, InnerUpdate(0.01)), BY_ADAM),
    "oracle": (Adaptation(0, InnerUpdate(0.01)), BY_ADAM),
}


@pytest.mark.parametrize(
    ("name", "variants"), [("omniglot_5way_1shot", OMNIGLOT), ("sinusoid_5shot", SINUSOID)]
)
def test_the_comments_variants_are_built_as_it_says(name, variants):
    written = in_comment(name)
    assert written.keys() == variants.keys()
    for variant, (learner, step) in variants.items():
        settings = load(name, *written[variant])
        problem = make_problem(settings, "cpu", 1)
        assert problem.learner == learner, variant
        assert fields(make_outer(settings)) == step, variant
        assert getattr(problem.source, "observe_task", False) == (variant == "oracle")


def shapes(params):
    return {name: tuple(value.shape) for name, value in params.items()}


@pytest.mark.parametrize(
    ("learn", "lead", "whole"),
    [("true", (), True), ("layer", (), False), ("layer_step", (3,), False)],
)
def test_rates_and_normalisation_have_the_shapes_that_the_settings_ask_for(learn, lead, whole):
    settings = load(
        *("sinusoid_5shot", "network.hidden_sizes=[7, 6]", "network.normalisation=batch"),
        *("inner.steps=3", "inner.per_step_normalisation=true", f"inner.learn_rates={learn}"),
        "precision=float64",
    )
    problem = make_problem(settings, "cpu", 1)
    meta = problem.initial_meta(generator(0, Stream.INITIALISATION))
    weights = {f"layers.{i}.weight": (m, n) for i, (n, m) in enumerate(((1, 7), (7, 6), (6, 1)))}
    own = weights | {f"layers.{i}.bias": (n,) for i, n in enumerate((7, 6, 1))}
    norms = {
        f"norms.{i}.{part}": (4, n) for i, n in enumerate((7, 6)) for part in ("scale", "shift")
    }
    assert shapes(meta.theta) == own | norms
    assert shapes(meta.rates) == {
        name: shape if whole else (*lead, *(1 for _ in shape)) for name, shape in own.items()
    }
    assert {each.dtype for part in meta for each in part.values()} == {torch.float64}
    assert all((value == 0.01).all() for value in meta.rates.values())
    assert problem.learner.per_step == norms.keys()
    assert problem.learner.update.adapted == own.keys()


def test_what_images_are_read_and_how_they_are_drawn(asked):
    settings = load(
        *("omniglot_prototypical_5way_1shot", "problem.image_size=16", "problem.data=/there"),
        *("problem.train_ways=11", "problem.shots=2", "problem.queries=3", "problem.ways=4"),
        *("problem.rotations=train", "evaluation.queries=7", "network.filters=3", "threads=2"),
    )
    problem = make_problem(settings, "cpu", 2)
    assert [(*given[:2], str(given[2]), given[3]) for given in asked] == [
        ("omniglot", part, "/there", 16) for part in ("train", "val", "test")
    ]
    assert problem.source.episodes == EpisodeSizes(4, 2, 3, 7, 11)
    assert problem.source.rotated == {"train"}
    assert problem.network.convs[3].weight.shape == (3, 3, 3, 3)
    assert problem.pool is not None
    problem.close()


def test_every_setting_of_a_network_reaches_it():
    conv = ["network.filters=2", "network.blocks=3", "network.initialisation=truncated_normal"]
    pooled, strided = (
        make_problem(load("omniglot_5way_1shot", *conv, how), "cpu", 1).network
        for how in ("network.downsampling=pool", "network.downsampling=stride")
    )
    assert (pooled.features, strided.features) == (2 * (SIDE // 8) ** 2, 2)
    small = make_problem(load("sinusoid_5shot"), "cpu", 1).network
    assert len(strided.convs) == 3
    for layer in (strided.convs[0], small.layers[0]):
        assert 0 < layer.weight.abs().max() <= 0.02
    settings = load("sinusoid_5shot", "network={kind: gru, hidden_size: 3}", "problem.queries=8")
    problem = make_problem(settings, "cpu", 1)
    assert problem.network.hidden_size == 3
    assert problem.source.queries == 8


@pytest.mark.parametrize("adapt", ["all", "head"])
@pytest.mark.parametrize(
    "rule", ["prototypical", "matching", "siamese", "nearest_neighbour", "fine_tuning", "lstm"]
)
def test_learners_that_maml_is_compared_with(rule, adapt):
    given = {
        "fine_tuning": f"inner={{rule: fine_tuning, lr: 0.05, adapt: {adapt}}}",
        "lstm": "inner={rule: lstm, steps: 3, hidden_size: 4}",
    }
    ways = "null" if rule == "lstm" else "19"
    settings = load(
        *("omniglot_prototypical_5way_1shot", f"problem.train_ways={ways}", "problem.ways=3"),
        *("network.filters=6", given.get(rule, f"inner.rule={rule}")),
    )
    problem = make_problem(settings, "cpu", 1)
    joint = JointClasses(4 * CLASSES, problem.source.class_numbers)
    nearest = Comparison("nearest_neighbour", 6, joint)
    head = frozenset({WEIGHT, BIAS}) if adapt == "head" else None
    expected = {
        "nearest_neighbour": nearest,
        "fine_tuning": FineTuning(nearest, 3, InnerUpdate(0.05, adapted=head)),
        "lstm": MetaLSTM(3, 4),
    }
    assert problem.learner == expected.get(rule, Comparison(rule, 6))
    assert (problem.network.head is None) == (rule != "lstm")


POLICIES = {
    "FOMAML": (["inner.first_order=true"], {"update": InnerUpdate(0.5, True)}),
    "ANIL": (["inner.adapt=head"], {"update": InnerUpdate(0.5, False, LAST)}),
    "patterns": (
        ['inner.adapt=["log_std", "layers.2.*"]'],
        {"update": InnerUpdate(0.5, False, LAST | {"log_std"})},
    ),
    "Meta-SGD": (["inner.learn_rates=true"], {"learn_rates": True}),
    "MAML++": (
        ["inner.learn_rates=layer_step", "inner.second_order_from=20", "inner.steps=3"],
        {"steps": 3, "update": InnerUpdate(0.5, False, None, 20), "learn_rates": "layer_step"},
    ),
    "pretraining": (["inner.steps=0"], {"steps": 0}),
    "estimator": (["inner.estimator=dice"], {"estimator": "dice"}),
}


@pytest.mark.parametrize("name", POLICIES)
def test_variants_for_policies(name):
    overrides, changed = POLICIES[name]
    problem = make_problem(load("nav2d", *overrides), "cpu", 1)
    plain = rl.Adaptation(1, InnerUpdate(0.5), "reinforce", False)
    assert problem.adaptation == plain._replace(**changed)
    general = bool(problem.adaptation.learn_rates or problem.adaptation.update.adapted)
    assert (problem.arch is None) == general
    problem.close()


def test_every_setting_of_a_policy_reaches_the_problem():
    settings = load(
        *("nav2d", "problem.env_kwargs.squared_distance=true", "problem.horizon=6"),
        *("problem.episodes=2", "problem.discount=0.9", "problem.gae_lambda=0.8"),
        *("problem.observe_task=true", "network.hidden_sizes=[3, 4]", "network.activation=tanh"),
        *("network.initial_std=0.5", "network.min_std=0.1", "precision=float64", "outer.chunk=7"),
        "outer.curvature_share=0.5",
    )
    problem = make_problem(settings, "cpu", 1)
    assert tuple(problem.sampling) == (2, 0.9, 0.8)
    family, policy = problem.environments, problem.policy
    assert (family.env, family.horizon, family.observe_task) == ("envs:Navigation2D-v0", 6, True)
    assert family.example.unwrapped.squared_distance
    assert [layer.out_features for layer in policy.layers] == [3, 4, 2]
    assert policy.activation == "tanh"
    assert policy.log_std.exp().tolist() == pytest.approx([0.5, 0.5])
    assert policy.min_log_std == pytest.approx(np.log(0.1))
    assert (problem.dtype, problem.chunk, problem.curvature_share) == (torch.float64, 7, 0.5)
    problem.close()


@pytest.mark.parametrize(("curvature", "closed"), [("auto", True), ("autograd", False)])
def test_the_curvature_is_in_closed_form_unless_autograd_is_asked_for(curvature, closed):
    problem = make_problem(load("nav2d", f"outer.curvature={curvature}"), "cpu", 1)
    assert (problem.arch is not None) == closed
    problem.close()


def test_freed_memory_is_kept_where_blocks_are_large(monkeypatch):
    kept = []
    monkeypatch.setattr("metarl.building.keep_freed_memory", lambda: kept.append(1))
    for name, expected in (
        *(("omniglot_mlp_5way_1shot", 0), ("sinusoid_5shot", 0)),
        *(("omniglot_5way_1shot", 1), ("nav2d", 2)),
    ):
        make_problem(load(name), "cpu", 1).close()
        assert len(kept) == expected
