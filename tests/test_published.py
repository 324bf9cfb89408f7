"""Published numbers: where they are shown, and where not."""

import pytest

from metarl import published


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
    maml, _, *others = published.few_shot("omniglot", 5, 1)
    assert [(row.label, row.mean) for row in others] == [
        ("siamese, Koch et al. 2015", (0.973,)),
        ("matching, Vinyals et al. 2016", (0.981,)),
        ("prototypical, Snell et al. 2017", (0.988,)),
    ]
    assert [row.within([0]) for row in (maml, *others)] == [False, True, True, True]
    assert maml.within(range(4))
    # What has one value is no curve to stand beside another's steps.
    assert [row.stands_beside(range(4)) for row in (maml, *others)] == [True, False, False, False]
