"""Learners that compare, as a problem: what is collected, learned and measured, recomputed task by task."""

from __future__ import annotations

import numpy as np
import pytest
import support
import torch

from metarl.data import Examples
from metarl.functional.adapt import InnerUpdate
from metarl.functional.comparison import BIAS, WEIGHT
from metarl.functional.params import flatten_meta
from metarl.nets.conv import Conv
from metarl.nets.mlp import MLP
from metarl.outer import Adam, Descent, Schedule
from metarl.problems.embedding import Comparison, FineTuning, JointClasses
from metarl.problems.learners import MetaLSTM
from metarl.problems.protocol import Variant
from metarl.problems.sinusoid import Sinusoid
from metarl.problems.supervised import SupervisedProblem
from metarl.seeding import Key, Stream, generator

WAYS, TRAIN_WAYS, SHOTS, QUERIES, CLASSES, FEATURES = 3, 5, 2, 4, 8, 6
CENTRES = np.random.default_rng(0).normal(size=(CLASSES, 4))


class Clusters:
    """Classes are points in space, a task some of them; its examples lie about them."""

    queries = QUERIES

    def sample_tasks(self, count, rng, split="train"):
        ways = TRAIN_WAYS if split == "train" else WAYS
        drawn = [rng.choice(CLASSES, ways, replace=False) for _ in range(count)]
        return np.stack(drawn).astype(float)

    def examples(self, tasks, queries, key, draw=0):
        shape = (*tasks.shape, SHOTS + queries, 4)
        noise = key.generator(draw).normal(0.0, 0.7, shape)
        x = torch.as_tensor(CENTRES[tasks.astype(int)][:, :, None] + noise).float()
        y = torch.arange(tasks.shape[1])[:, None].expand(shape[:-1])
        parts = slice(SHOTS), slice(SHOTS, None)
        support_, query = (
            Examples(x[:, :, part].flatten(1, 2), y[:, :, part].flatten(1, 2)) for part in parts
        )
        return support_, query


LEARNERS = {
    "prototypical": Comparison("prototypical"),
    "matching": Comparison("matching"),
    "siamese": Comparison("siamese", FEATURES),
    "nearest_neighbour": Comparison(
        "nearest_neighbour", FEATURES, JointClasses(CLASSES, lambda tasks: tasks.astype(np.int64))
    ),
}


def problem(name, normalised=False, **settings):
    make = lambda g: MLP((4,), None, (9, FEATURES), normalised, generator=g)  # noqa: E731
    return SupervisedProblem(Clusters(), make, "cross_entropy", LEARNERS[name], **settings)


def train(made, iterations=60, tasks=4):
    meta, outer = (
        made.initial_meta(generator(0, Stream.INITIALISATION)),
        Descent(Adam(Schedule(0.02))),
    )
    record = []
    for i in range(iterations):
        drawn = made.sample_tasks(tasks, generator(0, Stream.TRAIN_TASKS, i))
        batch, _ = made.collect(meta, drawn, Key(0, Stream.TRAIN_DATA, i))

        def make(variant, meta=meta, batch=batch):
            return made.objective(meta, batch, variant)

        meta, metrics = outer.step(meta, make)
        record.append(metrics)
    return meta, record


def slow_accuracy(name, net, theta, known, asked):
    """Of one task, by the definition of its nearest class, on the module itself."""
    own = {key: value for key, value in theta.items() if key not in (WEIGHT, BIAS)}
    features = torch.func.functional_call(net, own, (torch.cat([known.x, asked.x]),))
    features = features.detach().double().numpy()
    points, right = features[: len(known.y)], 0
    classes = known.y.numpy()
    for x, y in zip(features[len(known.y) :], asked.y.tolist(), strict=True):
        if name == "prototypical":
            means = [points[classes == k].mean(0) for k in range(WAYS)]
            found = np.argmin([np.linalg.norm(x - mean) for mean in means])
        elif name == "siamese":
            weight = theta[WEIGHT][0].double().numpy()
            found = classes[np.argmax(np.abs(points - x) @ weight)]
        else:
            cosines = points @ x / np.linalg.norm(points, axis=1) / np.linalg.norm(x)
            votes = np.bincount(classes, np.exp(cosines))
            found = votes.argmax() if name == "matching" else classes[cosines.argmax()]
        right += found == y
    return right / len(asked.y)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_curve_is_one_point_and_that_of_every_task_by_itself(name):
    made = problem(name, threads=2, tasks_at_once=4)
    meta, _ = train(made)
    tasks = made.sample_tasks(10, generator(0, Stream.EVALUATION_TASKS), "test")
    key = Key(0, Stream.EVALUATION_DATA)
    found = made.adaptation_curve(meta, tasks, (), 7, key)
    assert found.shape == (1, 10)
    known, asked = made.source.examples(tasks, 7, key)
    assert asked.x.shape == (10, 7 * WAYS, 4)
    expected = [
        slow_accuracy(
            *(name, made.network, meta.theta),
            *(Examples(part.x[task], part.y[task]) for part in (known, asked)),
        )
        for task in range(10)
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    # A class has one third of the examples, and is found much more often.
    assert found.mean() > 0.6
    made.close()


@pytest.mark.parametrize("name", LEARNERS)
def test_training_lowers_the_loss_and_threads_and_chunks_change_no_bit(name):
    def learn(threads):
        made = problem(name, threads=threads, tasks_at_once=1)
        meta, record = train(made)
        made.close()
        return meta.theta, [metrics["loss/post"] for metrics in record]

    (theta, losses), (other, repeated) = learn(1), learn(3)
    # A softmax of cosines cannot be sure, so that of matching networks has far to fall no more.
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert losses == repeated
    assert all(torch.equal(value, other[each]) for each, value in theta.items())


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_collected_and_learned_beside_the_embedding(name):
    made = problem(name)
    meta = made.initial_meta(generator(0, Stream.INITIALISATION))
    tasks = made.sample_tasks(2, generator(0, Stream.TRAIN_TASKS))
    key = Key(0, Stream.TRAIN_DATA)
    batch, _ = made.collect(meta, tasks, key)
    known, asked = made.source.examples(tasks, QUERIES, key)
    sizes = {"siamese": (1, FEATURES), "nearest_neighbour": (CLASSES, FEATURES)}
    embedding = {each for each, _ in made.network.named_parameters()}
    assert meta.theta.keys() - embedding == ({WEIGHT, BIAS} if name in sizes else set())
    if name in sizes:
        assert meta.theta[WEIGHT].shape == sizes[name]
        assert meta.theta[BIAS].shape == sizes[name][:1]
    if name != "nearest_neighbour":
        assert torch.equal(batch.support[0].x, known.x)
        assert torch.equal(batch.query.y, asked.y)
        return
    assert batch.support == ()
    numbers = torch.as_tensor(tasks).long()
    for task in range(2):
        expected = [numbers[task, label] for part in (known, asked) for label in part.y[task]]
        assert batch.query.y[task].tolist() == expected
    assert torch.equal(batch.query.x, torch.cat([known.x, asked.x], dim=1))


def test_a_joint_classifier_without_a_preference_has_the_loss_of_chance():
    made = problem("nearest_neighbour")
    meta = made.initial_meta(generator(0, Stream.INITIALISATION))
    tasks = made.sample_tasks(2, generator(0, Stream.TRAIN_TASKS))
    batch, _ = made.collect(meta, tasks, Key(0, Stream.TRAIN_DATA))
    outcome = made.objective(meta, batch, Variant()).evaluate(flatten_meta(meta))
    support.close(outcome.loss, np.log(CLASSES), 1e-6)


@pytest.mark.parametrize("head", [False, True])
def test_fine_tuning_is_gradient_descent_from_a_new_last_layer(head):
    """Against torch's own SGD on one task's module after another."""
    adapted = frozenset({WEIGHT, BIAS}) if head else None
    learner = FineTuning(LEARNERS["nearest_neighbour"], WAYS, InnerUpdate(0.4, adapted=adapted))
    make = lambda g: MLP((4,), None, (9, FEATURES), True, generator=g)  # noqa: E731
    made = SupervisedProblem(Clusters(), make, "cross_entropy", learner, tasks_at_once=2)
    meta, _ = train(made, iterations=5)
    tasks = made.sample_tasks(4, generator(0, Stream.EVALUATION_TASKS), "test")
    known, asked = made.source.examples(tasks, 7, Key(0, Stream.EVALUATION_DATA))
    found = made.predictions(meta, known, asked.x, [0.4] * 3)
    for task in range(4):
        net, last = make(support.random_generator(0)), torch.nn.Linear(FEATURES, WAYS)
        own = {key: meta.theta[key] for key, _ in net.named_parameters()}
        net.load_state_dict(own)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        moved = [*last.parameters(), *([] if head else net.parameters())]
        steps = torch.optim.SGD(moved, lr=0.4)
        for step in range(4):
            support.close(found[step][task], last(net(asked.x[task])).detach(), 1e-5)
            steps.zero_grad()
            torch.nn.functional.cross_entropy(last(net(known.x[task])), known.y[task]).backward()
            steps.step()
    assert not found[0].any()
    assert (found[3] - found[0]).abs().max() > 0.1


def test_fine_tuning_trains_the_classifier_of_all_classes():
    plain = problem("nearest_neighbour")
    learner = FineTuning(LEARNERS["nearest_neighbour"], WAYS, InnerUpdate(0.4))
    tuned = SupervisedProblem(
        Clusters(), lambda g: MLP((4,), None, (9, FEATURES), generator=g), "cross_entropy", learner
    )
    (one, _), (other, _) = train(plain, iterations=3), train(tuned, iterations=3)
    assert one.theta.keys() == other.theta.keys()
    assert all(torch.equal(value, other.theta[name]) for name, value in one.theta.items())


def test_a_learned_update_lowers_the_loss_after_its_steps():
    make = lambda g: MLP((1,), 1, (10,), generator=g)  # noqa: E731
    made = SupervisedProblem(Sinusoid(5, 5), make, "mse", MetaLSTM(3, 4), tasks_at_once=4)
    start = made.initial_meta(generator(0, Stream.INITIALISATION))
    meta, record = train(made, iterations=40, tasks=8)
    assert {"loss/pre", "loss/post"} <= record[0].keys()
    tasks, key = made.sample_tasks(20, generator(0, Stream.EVALUATION_TASKS)), Key(0, Stream(4))
    before, after = (
        made.adaptation_curve(each, tasks, ({},) * 5, 10, key).mean(axis=1)
        for each in (start, meta)
    )
    assert before.shape == after.shape == (6,)
    assert after[3] < 0.9 * before[3]


@pytest.mark.parametrize(
    ("whole", "bare"),
    [
        (lambda o, g: MLP((4,), o, (5, 3), True, generator=g), "layers.2"),
        (lambda o, g: Conv((1, 8, 8), o, 3, 2, "pool", generator=g), "head"),
        (lambda o, g: Conv((1, 8, 8), o, 3, 2, "stride", generator=g), "head"),
    ],
)
def test_an_embedding_is_the_network_without_its_last_layer(whole, bare):
    net, embedding = (whole(outputs, support.random_generator(1)) for outputs in (2, None))
    names = {name for name, _ in net.named_parameters()}
    kept = dict(embedding.named_parameters())
    assert names - kept.keys() == {f"{bare}.weight", f"{bare}.bias"}
    for name, value in net.named_parameters():
        assert name not in kept or torch.equal(value, kept[name])
    shape = (4,) if isinstance(net, MLP) else (1, 8, 8)
    x = support.normal(3, 6, *shape).float()
    features = embedding(x)
    assert features.shape == (6, embedding.features)
    assert features.min() >= 0.0
    last = net.get_submodule(bare)
    support.close(last(features), net(x), 1e-6)
