"""The film of an adaptation: its pictures, their steps and returns, and what cannot be filmed."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageSequence

from metarl import config
from metarl.building import opened_problem
from metarl.errors import UserError
from metarl.functional.params import for_tasks
from metarl.render import FilmedEnv, adaptation_gif, film
from metarl.seeding import Key, Stream, generator

TINY = """
iterations: 1
device: cpu
threads: 1
problem: {kind: rl, env: "envs:Navigation2D-v0", horizon: 4, episodes: 2}
network: {hidden_sizes: [4]}
inner: {lr: 0.5}
outer: {method: trpo}
"""
KEY = Key(1, Stream.RENDERING)
SIDE, BAR = 200, 60  # of one picture, and of the captions above both
TASK = np.array([0.3, -0.2])


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    return lambda *overrides: config.load(tmp_path / "tiny.yaml", overrides)


@pytest.fixture
def problem(settings):
    with opened_problem(settings()) as problem:
        yield problem


@pytest.fixture
def meta(problem):
    return problem.initial_meta(generator(1, Stream.INITIALISATION))


def frames(gif):
    return [
        np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))
    ]


def test_a_gif_of_both_policies_side_by_side(problem, meta):
    gif = adaptation_gif(problem, meta, TASK, (0.5, 0.25), None, KEY)
    shown = frames(gif)
    assert len(shown) == 5
    assert all(each.shape == (SIDE + BAR, 2 * SIDE + 6, 3) for each in shown)
    assert all((a != b).any() for a, b in itertools.pairwise(shown))
    assert (shown[-1][BAR:, :SIDE] != shown[-1][BAR:, -SIDE:]).any(), "adaptation changed nothing"
    assert gif == adaptation_gif(problem, meta, TASK, (0.5, 0.25), None, KEY)


def test_without_a_step_both_sides_are_the_same(problem, meta):
    for shown in frames(adaptation_gif(problem, meta, TASK, (), None, KEY)):
        np.testing.assert_array_equal(shown[BAR:, :SIDE], shown[BAR:, -SIDE:])


def test_the_return_shown_is_that_of_the_sampler(problem, meta):
    params = for_tasks(meta.theta, 1)
    take = film(problem, params, TASK[None], KEY)
    wave = problem.wave(params, TASK[None], KEY, 0, 1)
    assert take.steps == [0, 1, 2, 3, 4]
    rewards = wave.episodes.rewards[0, 0].double().numpy()
    np.testing.assert_allclose(take.returns, [0.0, *np.cumsum(rewards)], rtol=1e-5)


def test_the_oracle_is_filmed_with_what_it_sees(settings):
    with opened_problem(settings("problem.observe_task=true", "inner.steps=0")) as problem:
        params = for_tasks(problem.initial_meta(generator(1, Stream.INITIALISATION)).theta, 1)
        take = film(problem, params, TASK[None], KEY)
        rewards = problem.wave(params, TASK[None], KEY, 0, 1).episodes.rewards[0, 0].double()
    np.testing.assert_allclose(take.returns, [0.0, *rewards.cumsum(0)], rtol=1e-5)


class Ticker:
    """Draws the number of its step; ends after ``length`` steps."""

    def __init__(self, length, fps):
        import gymnasium as gym

        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,))
        self.metadata, self.length, self.spec, self.unwrapped = (
            {"render_fps": fps},
            length,
            None,
            self,
        )

    def reset(self, seed=None):
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1), -1.0, self.steps == self.length, False, {}

    def render(self):
        return np.full((400, 640, 3), self.steps, np.uint8)

    def close(self):
        self.steps = -1


@pytest.mark.parametrize(
    ("length", "fps", "steps", "duration"),
    [
        (10, 100, [0, 4, 8, 10], 40),  # no more than 25 pictures a second
        (8, 20, list(range(9)), 50),
        (3, 10, [0, 1, 2, 3], 100),
    ],
)
def test_pictures_are_taken_at_the_films_pace(length, fps, steps, duration):
    env = Ticker(length, fps)
    with FilmedEnv(env, horizon=20) as filmed:
        filmed.reset()
        for _ in range(length):
            filmed.step(np.zeros((1, 1)))
    assert filmed.take.steps == steps
    assert filmed.take.returns == [-float(step) for step in steps]
    assert filmed.take.duration == duration
    assert [np.asarray(each)[0, 0, 0] for each in filmed.take.pictures] == steps
    assert filmed.take.pictures[0].size == (SIDE, 125)
    assert env.steps == -1, "the environment must be closed"


def test_a_long_episode_is_shown_faster():
    length = 200
    with FilmedEnv(Ticker(length, 10), horizon=length) as filmed:
        filmed.reset()
        for _ in range(length):
            filmed.step(np.zeros((1, 1)))
    assert len(filmed.take.pictures) <= 41
    assert filmed.take.duration == 100


@pytest.mark.filterwarnings("ignore:.*possible render_modes")
def test_an_environment_without_pictures_is_a_sentence(settings):
    with opened_problem(settings("problem.env=support:Target-v0")) as problem:
        meta = problem.initial_meta(generator(1, Stream.INITIALISATION))
        with pytest.raises(UserError, match="draws no pictures"):
            adaptation_gif(problem, meta, np.zeros(1), (), None, KEY)
