"""Published numbers: where they are shown, and where not."""

from pathlib import Path

import pytest

from metarl import config
from metarl.presentation import published
from metarl.selection import published_beside

CONFIGS = Path(__file__).parents[2] / "configs"
PLUS = [
    *("inner.steps=5", "inner.learn_rates=layer_step", "inner.multi_step_until=500"),
    *("inner.per_step_normalisation=true", "evaluation.lr=null"),
]
REPTILE = ["inner.adapt=all", "outer={method: sgd, objective: reptile, lr: 1.0}"]


@pytest.mark.parametrize(
    ("env", "kwargs", "horizon", "first"),
    [
        ("envs:HalfCheetahVel-v0", {}, 200, -129.53),
        ("envs:HalfCheetahVel-v0", {"preset": "paper"}, 200, -129.53),
        ("envs:HalfCheetahVel-v0", {"preset": "gym"}, 200, None),
        ("envs:HalfCheetahVel-v0", {"max_velocity": 3.0}, 200, None),
        ("envs:HalfCheetahVel-v0", {}, 100, None),
        ("envs:HalfCheetahDir-v0", {"preset": "paper"}, 200, -50.69),
        ("envs:Navigation2D-v0", {}, 100, -40.41),
        ("envs:Navigation2D-v0", {"squared_distance": True}, 100, None),
        ("mine:Env-v0", {}, 100, None),
    ],
)
def test_published_numbers_are_shown_only_for_the_same_tasks(env, kwargs, horizon, first):
    rows = published.find(env, kwargs, horizon)
    assert (rows[0].mean[0] if rows else None) == first


def test_learners_that_compare_have_one_value_of_their_own_source():
    maml, _, *others = published.beside(published.few_shot("omniglot", 5, 1), "MAML")
    assert [(row.label, row.mean) for row in others] == [
        ("siamese, Koch et al. 2015", (0.973,)),
        ("matching, Vinyals et al. 2016", (0.981,)),
        ("prototypical, Snell et al. 2017", (0.988,)),
    ]
    assert [row.within([0]) for row in (maml, *others)] == [False, True, True, True]
    assert maml.within(range(4))
    # What has one value is no curve to stand beside another's steps.
    assert [row.stands_beside(range(4)) for row in (maml, *others)] == [True, False, False, False]


def beside(name, *changes):
    """Labels and last values of the published relatives of MAML beside a run of these settings."""
    rows = published_beside(config.load(CONFIGS / f"{name}.yaml", changes))
    family = {"MAML", *published.VARIANTS}
    return {row.label: row.mean[-1] for row in rows if row.method in family}


OMNIGLOT_MAML = {
    "MAML, Finn et al. 2017, 1 query of each class": 0.987,
    "MAML, no conv, Finn et al. 2017, 1 query of each class": 0.897,
}


@pytest.mark.parametrize(
    ("name", "changes", "shown"),
    [
        ("omniglot_5way_1shot", [], OMNIGLOT_MAML),
        (
            *("omniglot_5way_1shot", ["inner.first_order=true"]),
            {"FOMAML, Nichol et al. 2018, transductive": 0.983},
        ),
        (
            *("omniglot_5way_1shot", REPTILE),
            {"Reptile, Nichol et al. 2018, transductive": 0.9768},
        ),
        # Of these nothing is published here, so MAML is what they are compared with.
        ("omniglot_5way_1shot", ["inner.adapt=head"], OMNIGLOT_MAML),
        ("omniglot_5way_1shot", PLUS, OMNIGLOT_MAML),
        ("omniglot_5way_1shot", ["inner.learn_rates=true"], OMNIGLOT_MAML),
        (
            *("omniglot_5way_5shot", []),
            {
                "MAML, Finn et al. 2017, 5 queries of each class": 0.999,
                "MAML, no conv, Finn et al. 2017, 5 queries of each class": 0.975,
            },
        ),
        ("omniglot_20way_1shot", ["inner.adapt=head"], {"ANIL, Raghu et al. 2020": 0.962}),
        (
            *("omniglot_20way_1shot", ["inner.adapt=head", "inner.first_order=true"]),
            {"MAML, Finn et al. 2017, 1 query of each class": 0.958},
        ),
        (
            *("omniglot_20way_1shot", ["problem.shots=5", "inner.first_order=true"]),
            {"FOMAML, Nichol et al. 2018, transductive": 0.979},
        ),
        (
            *("miniimagenet_5way_1shot", ["inner.first_order=true"]),
            {"FOMAML, Finn et al. 2017, 1 query of each class": 0.4807},
        ),
        (
            *("miniimagenet_5way_1shot", PLUS),
            {"MAML++, Antoniou et al. 2019, ensemble of 5": 0.5215},
        ),
        ("miniimagenet_5way_5shot", ["inner.adapt=head"], {"ANIL, Raghu et al. 2020": 0.615}),
        (
            *("omniglot_prototypical_20way_1shot", []),
            {"MAML, Finn et al. 2017, 1 query of each class": 0.958},
        ),
        ("sinusoid_5shot", ["inner.first_order=true"], {"MAML, Finn et al. 2017": 0.35}),
        ("nav2d", ["inner.first_order=true"], {"MAML, Finn et al. 2017": -3.35}),
    ],
    ids=str,
)
def test_a_variant_of_maml_is_shown_beside_its_own_numbers(name, changes, shown):
    if name == "nav2d":
        changes = [*changes, "problem.horizon=100"]
    assert beside(name, *changes) == shown


@pytest.mark.parametrize(
    "missing",
    [
        *("inner.learn_rates=false", "inner.learn_rates=layer", "inner.multi_step_until=0"),
        *("inner.per_step_normalisation=false", "inner.first_order=true"),
    ],
)
def test_a_part_of_maml_plus_plus_is_not_the_whole(missing):
    (label,) = beside("miniimagenet_5way_1shot", *PLUS, missing)
    assert not label.startswith("MAML++")


def test_the_learners_that_compare_stay_beside_a_variant():
    rows = published.beside(published.few_shot("omniglot", 20, 1), "Reptile")
    assert [row.name for row in rows] == ["Reptile", "siamese", "matching", "prototypical"]
