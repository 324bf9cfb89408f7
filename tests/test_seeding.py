"""Random numbers depend on the seed, the stream and the counters, and on nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metarl.seeding import Key, Stream, generator


def draw(*key: int) -> tuple[int, ...]:
    seed, stream, *counters = key
    return tuple(generator(seed, Stream(stream), *counters).bit_generator.random_raw(4))


def test_the_same_key_gives_the_same_numbers_whatever_was_drawn_before():
    first = draw(1, Stream.TRAIN_DATA, 7, 3)
    np.random.default_rng().random(10)
    generator(1, Stream.TRAIN_DATA, 7, 2).random(1000)
    assert draw(1, Stream.TRAIN_DATA, 7, 3) == first


def test_keys_that_differ_in_one_place_give_different_numbers():
    keys = list(itertools.product(range(3), list(Stream), range(4), range(4)))
    assert len({draw(*key) for key in keys}) == len(keys)


def test_streams_keep_their_numbers():
    """A stream that is renumbered changes every published result."""
    assert [(stream.name, int(stream)) for stream in Stream][:6] == [
        ("INITIALISATION", 0),
        ("TRAIN_TASKS", 1),
        ("TRAIN_DATA", 2),
        ("EVALUATION_TASKS", 3),
        ("EVALUATION_DATA", 4),
        ("RENDERING", 5),
    ]


def test_a_key_object_names_the_same_streams():
    key = Key(seed=5, stream=Stream.EVALUATION_DATA, iteration=9)
    expected = generator(5, Stream.EVALUATION_DATA, 9, 2, 1).random(3)
    np.testing.assert_array_equal(key.generator(2, 1).random(3), expected)


def test_streams_are_uncorrelated_and_uniform():
    """4 standard errors: with 10,000 draws a correlation of independent streams is below 0.04."""
    a, b = (
        generator(1, stream, 0).random(10_000) for stream in (Stream.TRAIN_TASKS, Stream.TRAIN_DATA)
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.04
    assert abs(a.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 10_000)


def test_a_negative_counter_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        generator(1, Stream.TRAIN_DATA, -1)


def test_a_key_that_goes_on_with_zeros_is_another_key():
    assert len({draw(1, 2), draw(1, 2, 0), draw(1, 2, 0, 0)}) == 3
