"""Published results by gradient step, to be shown beside one's own where the task is the same.

Source of the returns: Finn, Abbeel & Levine 2017 (arXiv:1703.03400), figures 4 and 5, tables 4 and 5: means over
40 tasks of the data behind the figures, published with the authors' code (cbfinn/maml_rl, icml/).
The standard error is the standard deviation over tasks / √40. One training seed each; MuJoCo 1.31.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

SOURCE = "Finn et al. 2017"


class Row(NamedTuple):
    """One method's published result.

    Attributes:
        name: ``MAML``, ``pretrained``, ``random``, ``oracle``, or another method's.
        mean: after 0, 1, ... gradient steps; one that does not adapt, or after steps of its own, has one value.
        standard_error: of the first of these, as far as known.
        source: who published it.
        conditions: what else decides it, in a few words.
    """

    name: str
    mean: tuple[float, ...]
    standard_error: tuple[float, ...] = ()
    source: str = SOURCE
    conditions: str = ""

    @property
    def label(self) -> str:
        """Method, source and conditions."""
        return ", ".join(filter(None, (self.name, self.source, self.conditions)))

    @property
    def method(self) -> str:
        """The name without what the network was."""
        return self.name.partition(",")[0]

    def within(self, steps: Sequence[int]) -> bool:
        """Whether there is a value at one of these gradient steps."""
        return any(not isnan(value) for value in self.mean[: max(steps) + 1])

    def stands_beside(self, steps: Sequence[int]) -> bool:
        """Whether it is a curve that has a value at one of these gradient steps."""
        return len(self.mean) > 1 and self.within(steps)


class _Result(NamedTuple):
    env: str
    env_kwargs: dict[str, Any]
    horizon: int
    rows: tuple[Row, ...]


_RESULTS = (
    _Result(
        env="envs:Navigation2D-v0",
        env_kwargs={"squared_distance": False},
        horizon=100,
        rows=(
            Row("MAML", (-40.41, -11.68, -3.33, -3.23, -3.35), (2.0, 1.1, 0.28, 0.29)),
            Row("random", (-82.66, -57.96, -53.84, -46.81, -42.91)),
            Row("oracle", (-2.29,)),
        ),
    ),
    _Result(
        env="envs:HalfCheetahVel-v0",
        env_kwargs={"preset": "paper", "max_velocity": 2.0},
        horizon=200,
        rows=(
            Row("MAML", (-129.53, -78.57, -66.62, -60.78), (8.4, 5.0, 4.6, 4.4)),
            Row("pretrained", (-158.00, -135.39, -128.47, -133.61)),
            Row("random", (-254.83, -254.33, -246.79, -230.83)),
            Row("oracle", (-54.47,)),
        ),
    ),
    _Result(
        env="envs:HalfCheetahDir-v0",
        env_kwargs={"preset": "paper"},
        horizon=200,
        rows=(
            Row("MAML", (-50.69, 293.19, 313.48, 315.65), (2.9, 8.7, 8.0, 7.1)),
            Row("pretrained", (-43.03, -24.75, -12.85, 19.57)),
            Row("random", (-35.73, 21.83, 62.32, 86.18)),
            Row("oracle", (442.69,)),
        ),
    ),
)


def find(env: str, env_kwargs: Mapping[str, Any], horizon: int) -> tuple[Row, ...]:
    """The published results for exactly this environment, MAML first; empty where there are none.

    Args:
        env: ``module:Name-v0``.
        env_kwargs: arguments of its constructor; those left out have their defaults.
        horizon: T.
    """
    for result in _RESULTS:
        same = {**result.env_kwargs, **env_kwargs} == result.env_kwargs
        if same and (result.env, result.horizon) == (env, horizon):
            return result.rows
    return ()


NAN = float("nan")


ANOTHER_SOURCE = {
    "FOMAML": "Nichol et al. 2018",
    "Reptile": "Nichol et al. 2018",
    "ANIL": "Raghu et al. 2020",
    "MAML++": "Antoniou et al. 2019",
}
VARIANTS = frozenset(ANOTHER_SOURCE)
"""Methods that are MAML but for a few settings."""


def beside(rows: Sequence[Row], method: str) -> tuple[Row, ...]:
    """The results to show beside a run: those of its variant of MAML in the place of MAML's, where they are known.

    Args:
        rows: everything that is published of the task.
        method: of the run, ``MAML`` or one of `VARIANTS`.
    """
    shown = method if any(row.method == method for row in rows) else "MAML"
    return tuple(row for row in rows if row.method not in {"MAML", *VARIANTS} - {shown})


def _after(steps: int, name: str, value: float, queries: int) -> Row:
    """A result that is published after so many steps alone, on so many query examples of each class."""
    noun = "query" if queries == 1 else "queries"
    return Row(name, (NAN,) * steps + (value,), conditions=f"{queries} {noun} of each class")


def _variant(name: str, value: float, conditions: str = "") -> Row:
    """A result of another paper, after that paper's steps."""
    return Row(name, (value,), (), ANOTHER_SOURCE[name], conditions)


def _others(**values: float) -> tuple[Row, ...]:
    """Results of the learners without MAML's gradient steps, by ``inner.rule``."""
    sources = {
        "siamese": "Koch et al. 2015",
        "matching": "Vinyals et al. 2016",
        "prototypical": "Snell et al. 2017",
        "nearest_neighbour": "Ravi & Larochelle 2017",
        "fine_tuning": "Ravi & Larochelle 2017",
        "lstm": "Ravi & Larochelle 2017",
    }
    return tuple(Row(name, (value,), source=sources[name]) for name, value in values.items())


TRANSDUCTIVE, ENSEMBLE = "transductive", "ensemble of 5"
_FEW_SHOT: dict[tuple[str, int, int], tuple[Row, ...]] = {
    ("sinusoid", 1, 5): (
        Row("MAML", (NAN, 0.67, NAN, NAN, NAN, 0.38, NAN, NAN, NAN, NAN, 0.35)),
        Row("pretrained", (NAN, 2.41, NAN, NAN, NAN, 2.23, NAN, NAN, NAN, NAN, 2.19)),
    ),
    ("omniglot", 5, 1): (
        _after(3, "MAML", 0.987, 1),
        _after(3, "MAML, no conv", 0.897, 1),
        _variant("FOMAML", 0.983, TRANSDUCTIVE),
        _variant("Reptile", 0.9768, TRANSDUCTIVE),
        *_others(siamese=0.973, matching=0.981, prototypical=0.988),
    ),
    ("omniglot", 5, 5): (
        _after(3, "MAML", 0.999, 5),
        _after(3, "MAML, no conv", 0.975, 5),
        _variant("FOMAML", 0.992, TRANSDUCTIVE),
        _variant("Reptile", 0.9948, TRANSDUCTIVE),
        *_others(siamese=0.984, matching=0.989, prototypical=0.997),
    ),
    ("omniglot", 20, 1): (
        _after(5, "MAML", 0.958, 1),
        _variant("FOMAML", 0.894, TRANSDUCTIVE),
        _variant("Reptile", 0.8943, TRANSDUCTIVE),
        _variant("ANIL", 0.962),
        *_others(siamese=0.882, matching=0.938, prototypical=0.960),
    ),
    ("omniglot", 20, 5): (
        _after(5, "MAML", 0.989, 5),
        _variant("FOMAML", 0.979, TRANSDUCTIVE),
        _variant("Reptile", 0.9712, TRANSDUCTIVE),
        _variant("ANIL", 0.980),
        *_others(siamese=0.970, matching=0.985, prototypical=0.989),
    ),
    ("mini-imagenet", 5, 1): (
        _after(10, "MAML", 0.4870, 1),
        _after(10, "FOMAML", 0.4807, 1),
        _variant("ANIL", 0.467),
        _variant("MAML++", 0.5215, ENSEMBLE),
        *_others(fine_tuning=0.2886, nearest_neighbour=0.4108, matching=0.4356),
        *_others(lstm=0.4344, prototypical=0.4942),
    ),
    ("mini-imagenet", 5, 5): (
        _after(10, "MAML", 0.6311, 5),
        _after(10, "FOMAML", 0.6315, 5),
        _variant("ANIL", 0.615),
        _variant("MAML++", 0.6832, ENSEMBLE),
        *_others(fine_tuning=0.4979, nearest_neighbour=0.5104, matching=0.5531),
        *_others(lstm=0.6060, prototypical=0.6820),
    ),
}
"""By problem, ways and shots. Source: tables 1 and 2 of the paper; of images after appendix A's steps. Prototypical
networks and the variants of MAML are of their own papers; the other learners are as the paper's table 1 quotes them.
The authors' code (cbfinn/maml, main.py) tests on as many query examples of each class as the support has."""


def few_shot(problem: str, ways: int, shots: int) -> tuple[Row, ...]:
    """The published results of a few-shot problem, MAML first; empty where there are none.

    Args:
        problem: ``sinusoid``, ``omniglot`` or ``mini-imagenet``.
        ways: classes of a task; 1 for regression.
        shots: support examples of each.
    """
    return _FEW_SHOT.get((problem, ways, shots), ())
