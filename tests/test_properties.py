"""Properties that hold for anything that hypothesis comes up with: settings, checkpoints, the book-keeping of waves."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import gymnasium as gym
import numpy as np
import support
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, ValidationError
from pydantic.fields import FieldInfo

from metarl import config
from metarl.problems.environments import EnvironmentFamily
from metarl.sampler import LoopVectorEnv, Sampler
from metarl.schema import CONFIGS, RULES, Config
from metarl.schema.base import Section
from metarl.seeding import Key, Stream
from metarl.storage import checkpoints

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
LIMITS = ("ge", "gt", "le", "lt", "min_length", "pattern")


def numbers(annotation: type, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    if annotation is int:
        return st.integers(limits.get("ge"), limits.get("le"))
    return st.floats(
        limits.get("ge", limits.get("gt")),
        limits.get("le", limits.get("lt")),
        exclude_min="gt" in limits,
        exclude_max="lt" in limits,
        allow_nan=False,
        allow_infinity=False,
    )


def texts(limits: dict[str, Any], path: bool) -> st.SearchStrategy[str]:
    if "pattern" in limits:
        pattern = re.compile(limits["pattern"], re.ASCII)
        return st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
    return text.filter(lambda drawn: "\0" not in drawn) if path else text


def values(annotation: Any, *metadata: Any) -> st.SearchStrategy[Any]:
    """What a setting of this type may be, read off the schema, so that no new one is forgotten."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(inside[0], *inside[1:], *metadata)
    if origin in (Union, UnionType):
        return st.one_of([values(each) for each in inside])
    if origin is Literal:
        return st.sampled_from(inside)
    if origin is dict:
        return st.dictionaries(text, values(inside[1]), max_size=3)
    given = [
        one
        for each in metadata
        for one in (each.metadata if isinstance(each, FieldInfo) else [each])
    ]
    named = [(name, getattr(each, name, None)) for each in given for name in LIMITS]
    limits = {name: value for name, value in named if value is not None}
    if origin in (list, tuple):
        return st.lists(values(inside[0]), min_size=limits.get("min_length", 0), max_size=3).map(
            origin
        )
    if annotation in (int, float):
        return numbers(annotation, limits)
    if annotation is str:
        return texts(limits, any(isinstance(each, AfterValidator) for each in given))
    return sections(annotation) if issubclass(annotation, Section) else st.from_type(annotation)


def sections(kind: type[Section]) -> st.SearchStrategy[dict[str, Any]]:
    """Every setting of a section; as many steps as rates, which would fit together too seldom."""
    drawn = {
        name: values(each.annotation, *each.metadata) for name, each in kind.model_fields.items()
    }
    return st.fixed_dictionaries(drawn).map(
        lambda made: (
            made | ({"steps": len(made["lr"])} if isinstance(made.get("lr"), tuple) else {})
        )
    )


def fitted(kind: type[Config], drawn: dict[str, Any]) -> Config:
    """The configuration, without the settings that each are valid but do not fit together."""
    while True:
        try:
            return kind.model_validate(drawn)
        except ValidationError as error:
            for each in error.errors():
                assume(each["type"] == "impossible")
                drawn = without(drawn, [*each["loc"], *each["ctx"]["key"].split(".")])


def without(drawn: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A copy without one setting; the name of a class, of which there are several, stands among the keys too."""
    keys = keys if keys[0] in drawn else keys[1:]
    assume(keys and keys[0] in drawn)
    if len(keys) == 1:
        return {name: value for name, value in drawn.items() if name != keys[0]}
    return drawn | {keys[0]: without(drawn[keys[0]], keys[1:])}


KINDS = sorted({*CONFIGS.values(), *RULES.values()}, key=lambda kind: kind.__name__)
configs = st.sampled_from(KINDS).flatmap(
    lambda kind: sections(kind).map(lambda drawn: fitted(kind, drawn))
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
    seed, tasks = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1))
    overrides = [f"seed={seed}", f"outer.tasks={tasks}"]
    changed = {"seed": seed, "outer": written.outer.model_copy(update={"tasks": tasks})}
    if "lr" in type(written.inner).model_fields:
        overrides.append(f"inner.lr={0.125!r}")
        changed["inner"] = written.inner.model_copy(update={"lr": 0.125})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(config.dump(written), encoding="utf-8")
        read = config.load(path, overrides)
    assert read == written.model_copy(update=changed)


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
