"""EpisodeSizes of images whose every pixel tells its class, number and orientation."""

import numpy as np
import pytest
import torch

from metarl.datasets import ClassImages
from metarl.problems.images import EpisodeSizes, FewShotImages
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Key, Stream

KEY = Key(3, Stream.TRAIN_DATA, 5)
SIDE = 4


def split(first, sizes):
    """Class c's image i has the value 10·(first + c) + i everywhere, but 255 in its upper left corner."""
    rows = [
        np.full((1, SIDE, SIDE), 10 * (first + c) + i)
        for c, size in enumerate(sizes)
        for i in range(size)
    ]
    images = np.stack(rows).astype(np.uint8)
    images[:, :, 0, 0] = 255
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return ClassImages(images, starts, tuple(f"c{first + c}" for c in range(len(sizes))))


SPLITS = {
    "train": split(0, [5, 6, 7, 8]),
    "validation": split(4, [5, 6, 5]),
    "test": split(7, [6, 5, 6]),
}


def source(ways=3, shots=2, queries=3, evaluated=None, train_ways=None, **settings):
    return FewShotImages(
        SPLITS, EpisodeSizes(ways, shots, queries, evaluated, train_ways), **settings
    )


def content(part):
    """Of every image its value, ``[M, n]``, and the corner that is bright: the turn it was given."""
    pixels = part.x.long()[:, :, 0]
    corners = torch.stack(
        [pixels[..., 0, 0], pixels[..., -1, 0], pixels[..., -1, -1], pixels[..., 0, -1]], dim=-1
    )
    return pixels[..., 1, 1], corners.argmax(-1)


def test_tasks_are_different_classes_of_their_split_in_any_order():
    for name, numbers in (("train", range(4)), ("validation", range(4, 7)), ("test", range(7, 10))):
        tasks = source().sample_tasks(200, np.random.default_rng(0), name)
        assert tasks.shape == (200, 6)
        assert not tasks[:, 3:].any()
        assert all(len(set(row[:3])) == 3 for row in tasks)
        assert set(tasks[:, :3].ravel()) == set(numbers)
        assert {tuple(row[:3]) for row in tasks} >= {tuple(numbers[:3]), tuple(numbers[2::-1])}


@pytest.mark.parametrize("name", SPLITS)
def test_examples_are_of_their_class_different_and_labelled(name):
    problem = source(rotated=SPLITS)
    tasks = problem.sample_tasks(50, np.random.default_rng(0), name)
    support, query = problem.examples(tasks, 3, KEY)
    assert support.x.shape == (50, 6, 1, SIDE, SIDE)
    assert query.x.shape == (50, 9, 1, SIDE, SIDE)
    assert support.x.dtype == torch.uint8
    assert support.x.max() == query.x.max() == 255
    classes = [content(part) for part in (support, query)]
    for task, row in enumerate(tasks.astype(int)):
        seen = []
        for part, (values, turns) in zip((support, query), classes, strict=True):
            for value, turn, label in zip(values[task], turns[task], part.y[task], strict=True):
                assert int(value) // 10 == row[int(label)]
                assert int(turn) == row[3 + int(label)]
                seen.append((int(label), int(value)))
        assert len(set(seen)) == len(seen) == 15
    assert torch.equal(support.y[0], torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("rotated", [(), ("train",), tuple(SPLITS)])
def test_turned_classes_are_classes_of_the_splits_named(rotated):
    problem, rng = source(rotated=rotated), np.random.default_rng(0)
    for name, classes in (("train", 4), ("validation", 3), ("test", 3)):
        tasks = problem.sample_tasks(500, rng, name)
        pairs = {(a, b) for row in tasks for a, b in zip(row[:3], row[3:], strict=True)}
        assert len(pairs) == (4 * classes if name in rotated else classes)
        assert all(len(set(zip(row[:3], row[3:], strict=True))) == 3 for row in tasks)
        assert any(len(set(row[:3])) < 3 for row in tasks) == (name in rotated)
        assert tasks[:, 3:].any() == (name in rotated)


def test_training_may_have_more_classes_to_a_task():
    problem = source(train_ways=7, rotated=["train"])
    for name, ways in (("train", 7), ("validation", 3), ("test", 3)):
        tasks = problem.sample_tasks(4, np.random.default_rng(0), name)
        support, query = problem.examples(tasks, 3, KEY)
        assert tasks.shape == (4, 2 * ways)
        assert support.y.tolist() == [[label for label in range(ways) for _ in range(2)]] * 4
        values, _ = content(query)
        expected = torch.as_tensor(tasks[:, :ways]).repeat_interleave(3, dim=1)
        assert torch.equal(values // 10, expected.long())
    with pytest.raises(
        ValueError, match=r"problem\.train_ways is 17, but for train there are only 16 classes"
    ):
        source(train_ways=17, rotated=["train"])


@pytest.mark.parametrize("rotated", [(), ("train",)])
def test_every_class_of_training_has_a_number(rotated):
    problem = source(rotated=rotated)
    assert problem.train_classes == (16 if rotated else 4)
    tasks = problem.sample_tasks(500, np.random.default_rng(0))
    numbers = problem.class_numbers(tasks)
    assert set(numbers.ravel()) == set(range(problem.train_classes))
    seen = {}
    for row, given in zip(tasks, numbers, strict=True):
        for label in range(3):
            own = row[label], row[3 + label]
            assert seen.setdefault(given[label], own) == own
    assert len(set(seen.values())) == len(seen)


def test_what_a_task_gets_depends_on_its_place_the_key_and_the_draw():
    problem = source()
    tasks = problem.sample_tasks(20, np.random.default_rng(0))
    whole = problem.examples(tasks, 3, KEY)[0].x
    assert torch.equal(whole[:7], problem.examples(tasks[:7], 3, KEY)[0].x)
    assert not torch.equal(whole, problem.examples(tasks, 0, KEY, draw=1)[0].x)
    assert not torch.equal(whole, problem.examples(tasks, 3, KEY._replace(iteration=9))[0].x)


def test_the_support_is_the_same_however_many_queries_follow():
    problem = source(queries=1)
    tasks = problem.sample_tasks(20, np.random.default_rng(0))
    few, some = (problem.examples(tasks, queries, KEY) for queries in (1, 3))
    assert torch.equal(few[0].x, some[0].x)
    by_class = some[1].x.unflatten(1, (3, 3))
    assert torch.equal(few[1].x.unflatten(1, (3, 1)), by_class[:, :, :1])


@pytest.mark.parametrize("draw", [1, 2])
def test_fresh_support_shares_no_image_with_the_query(draw):
    problem = source(queries=3)
    tasks = problem.sample_tasks(100, np.random.default_rng(0))
    query = content(problem.examples(tasks, 3, KEY)[1])[0].unflatten(1, (3, 3))
    fresh = content(problem.examples(tasks, 0, KEY, draw)[0])[0].unflatten(1, (3, 2))
    assert not (query.unsqueeze(-1) == fresh.unsqueeze(2)).any()
    assert (fresh[..., 0] != fresh[..., 1]).all()
    assert not torch.equal(
        fresh, content(problem.examples(tasks, 0, KEY)[0])[0].unflatten(1, (3, 2))
    )


def test_too_few_classes_or_images_are_named():
    with pytest.raises(ValueError, match=r"problem\.ways is 4, but for validation .* only 3"):
        source(ways=4)
    with pytest.raises(ValueError, match=r"problem\.queries is 4, but class c0 \(train\) has 5"):
        source(queries=4)


def test_queries_of_evaluation_are_checked_before_anything_is_trained():
    """Training's classes have 5 images or more, validation's 5 too: one of them is left without a fourth query."""
    said = (
        r"evaluation\.queries is 4, but class c4 \(validation\) has 5 images, of which .* takes 2"
    )
    with pytest.raises(ValueError, match=said):
        source(evaluated=4)
    few = {name: split(0, [9] * 3) for name in ("validation", "test")} | {"train": SPLITS["train"]}
    made = FewShotImages(few, EpisodeSizes(3, 2, 3, evaluated=7))
    tasks = made.sample_tasks(2, np.random.default_rng(0), "test")
    assert made.examples(tasks, 7, KEY)[1].x.shape[1] == 21


def test_a_pixels_channels_lie_together_and_are_those_of_the_picture():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(12, 3, SIDE, SIDE)).astype(np.uint8)
    drawn = ClassImages(images, np.arange(0, 13, 4), ("a", "b", "c"))
    problem = FewShotImages({"train": drawn}, EpisodeSizes(3, 2, 2))
    tasks = problem.sample_tasks(4, rng)
    seen = {tuple(picture.ravel()) for picture in images}
    for part in problem.examples(tasks, 2, KEY):
        assert part.x.shape == (4, 6, 3, SIDE, SIDE)
        assert all(task.is_contiguous(memory_format=torch.channels_last) for task in part.x)
        pictures = part.x.flatten(0, 1).flatten(1)
        assert {tuple(picture.tolist()) for picture in pictures} <= seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_read_pixels_from_0_to_1(dtype):
    drawn = source()
    make_network = lambda _: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE**2, 3))  # noqa: E731
    problem = SupervisedProblem(drawn, make_network, drawn.loss, dtype=dtype)
    tasks = problem.sample_tasks(4, np.random.default_rng(0))
    batch, _ = problem.collect(problem.initial_meta(np.random.default_rng(0)), tasks, KEY)
    for read, part in zip(
        (*batch.support, batch.query), drawn.examples(tasks, 3, KEY), strict=True
    ):
        assert read.x.dtype == dtype
        assert torch.equal(read.x, part.x.to(dtype) / 255)
        assert torch.equal(read.y, part.y)
