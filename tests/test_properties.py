"""Properties that hold for anything that hypothesis comes up with: settings, checkpoints, the book-keeping of waves."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl import checkpoints, config
from metarl.problems.environments import EnvironmentFamily
from metarl.sampler import LoopVectorEnv, Sampler
from metarl.schema import PPO, TRPO, VPG, RLConfig
from metarl.schema.learning import RLInner
from metarl.schema.networks import GaussianMLP
from metarl.schema.output import Output, RLEvaluation
from metarl.schema.problems import RLProblem
from metarl.seeding import Key, Stream

counts = st.integers(1, 10**6)
positive = st.floats(1e-300, 1e300)
at_most_one = st.floats(0.0, 1.0, exclude_min=True)
fractions = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
paths = text.filter(lambda name: "\0" not in name)
scalars = st.booleans() | st.integers() | st.floats(-1e300, 1e300) | text
problems = st.builds(
    RLProblem,
    kind=st.just("rl"),
    env=st.just("a.b:C-v0"),
    env_kwargs=st.dictionaries(text, scalars | st.lists(scalars, max_size=3), max_size=3),
    horizon=counts,
    episodes=counts,
    observe_task=st.booleans(),
    discount=at_most_one,
    gae_lambda=st.floats(0.0, 1.0),
)
networks = st.builds(
    GaussianMLP,
    hidden_sizes=st.lists(counts, max_size=3).map(tuple),
    activation=st.sampled_from(["relu", "tanh"]),
    initial_std=st.floats(1.0, 1e9),
    min_std=fractions,
)
inners = st.builds(
    RLInner,
    steps=st.integers(1, 9),
    lr=positive,
    estimator=st.sampled_from(support.ESTIMATOR_NAMES),
    first_order=st.booleans(),
)
outers = (
    st.builds(
        TRPO, method=st.just("trpo"), tasks=counts, max_kl=positive, backtrack_ratio=fractions
    )
    | st.builds(VPG, method=st.just("vpg"), lr=positive, exploration=st.floats(0.0, 1e9))
    | st.builds(PPO, method=st.just("ppo"), clip=fractions, epochs=counts, kl_target=positive)
)
evaluations = st.lists(positive, min_size=1, max_size=4).flatmap(
    lambda rates: st.builds(
        RLEvaluation, every=st.integers(0, 99), steps=st.just(len(rates)), lr=st.just(tuple(rates))
    )
) | st.builds(RLEvaluation, episodes=st.none() | counts, steps=st.integers(0, 9))
configs = st.builds(
    RLConfig,
    seed=st.integers(0, 2**32 - 1),
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    threads=st.just("auto") | counts,
    iterations=counts,
    on_nonfinite=st.sampled_from(["raise", "skip_task"]),
    problem=problems,
    network=networks,
    inner=inners,
    outer=outers,
    evaluation=evaluations,
    run=st.builds(Output, directory=paths, checkpoint_every=counts, keep=counts),
)


@settings(max_examples=60, deadline=None)
@given(configs, st.booleans())
def test_a_configuration_that_is_written_is_read_back_equal(written, explain):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(config.dump(written, explain), encoding="utf-8")
        read = config.load(path)
    assert read == written
    # True == 1 == 1.0: the types are compared by how the values are written.
    assert config.dump(read) == config.dump(written)


@settings(max_examples=60, deadline=None)
@given(configs, st.data())
def test_an_override_changes_its_setting_and_nothing_else(written, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(config.dump(written), encoding="utf-8")
        read = config.load(path, [f"seed={seed}", f"inner.lr={0.125!r}"])
    inner = written.inner.model_copy(update={"lr": 0.125})
    assert read == written.model_copy(update={"seed": seed, "inner": inner})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | text,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(text, inside, max_size=3),
    max_leaves=6,
)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool])


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = int(np.prod(shape))
    values = draw(st.lists(st.floats(width=32), min_size=size, max_size=size))
    made = torch.tensor(values, dtype=torch.float64).reshape(shape)
    dtype = draw(dtypes)
    return made.to(dtype) if dtype.is_floating_point else (made > 0).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(text, tensors(), max_size=4),
    st.dictionaries(text, json_values, max_size=3),
    st.integers(0, 10**9),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_checkpoint_that_is_saved_is_loaded_to_the_bit(named, state, iteration, score):
    with tempfile.TemporaryDirectory() as folder:
        loaded = checkpoints.load(checkpoints.save(Path(folder), iteration, named, state, score))
    assert (loaded.iteration, loaded.score) == (iteration, score)
    assert json.dumps(loaded.state) == json.dumps(state)
    assert list(loaded.tensors) == list(named)
    for name, tensor in named.items():
        back = loaded.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert back.numpy().tobytes() == tensor.numpy().tobytes()


POLICY = support.make_policy("tanh", (1, 3, 1))


def steps_taken(vector):
    """By the slots that were not idle, as the environment itself counts."""
    if isinstance(vector, LoopVectorEnv):
        return sum(len(env.unwrapped.actions) for env in vector.envs)
    return int(vector.unwrapped.taken.sum())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.sampled_from(["support:Target-v0", "native_target:NativeTarget-v0"]),
    st.sampled_from(["terminated", "truncated", "both"]),
)
def test_every_wave_counts_its_steps_and_stops_where_the_episode_ends(
    tasks, episodes, T, seed, threads, env, ends
):
    """Lengths as the environment draws them from the slot's seed; rewards as TargetEnv defines them."""
    family = EnvironmentFamily(env, {"random_end": True, "ends": ends}, T)
    assert family.native == env.startswith("native")
    sampler = Sampler(family, tasks, episodes, T, POLICY.stacked, threads)
    theta = support.theta_of(POLICY)
    key = Key(seed, Stream.TRAIN_DATA)
    targets = np.linspace(-1.0, 1.0, tasks)[:, None]
    wave = sampler.wave({n: v.expand(tasks, *v.shape) for n, v in theta.items()}, targets, key, 0)
    for m in range(tasks):
        for n, drawn in enumerate(key.generator(m, 0).integers(2**31, size=episodes)):
            length = min(int(gym.utils.seeding.np_random(int(drawn))[0].integers(1, 7)), T)
            assert wave.mask[m, n].tolist() == [1.0] * length + [0.0] * (T - length)
            expected = -(wave.actions[m, n, :length, 0] - targets[m, 0]).square()
            support.close(wave.rewards[m, n, :length], expected, 1e-12)
            for field in (wave.obs, wave.actions, wave.rewards, wave.mean):
                assert not field[m, n, length:].any()
    assert sum(map(steps_taken, sampler.envs)) == int(wave.mask.sum())
    sampler.close()
