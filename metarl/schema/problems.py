"""What is learned, and from which data. Each kind of problem describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from metarl.presentation import published
from metarl.presentation.published import Row
from metarl.schema.base import Count, PathName, Section, impossible

Scalar = bool | int | float | str


def _plain_values(value: Any) -> Any:
    """Refuse what cannot be a keyword argument of an environment, in words of its own."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            for each in item if isinstance(item, list) else [item]:
                if not isinstance(each, Scalar) or (isinstance(each, float) and not isfinite(each)):
                    raise impossible(
                        f"{key}", "must be a finite number, text, true, false or a list of those"
                    )
    return value


class RLProblem(Section):
    """Reinforcement learning on a family of Gymnasium environments that differ in their task."""

    kind: Literal["rl"]
    """What is learned; rl: a policy, sinusoid: a curve, images: to tell classes apart."""
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[^\s:]+$")]
    """Environment as module:Name-v0; importing the module registers it."""
    env_kwargs: Annotated[dict[str, Scalar | list[Scalar]], BeforeValidator(_plain_values)] = {}
    """Keyword arguments of the environment's constructor."""
    horizon: Count
    """Longest episode T, in environment steps."""
    episodes: Count
    """Episodes N of each task in each wave of sampling."""
    physics: Literal["cpu", "warp"] = "cpu"
    """Where environments are simulated: in the threads, or by MuJoCo Warp on the device, in float32."""
    observe_task: bool = False
    """The policy observes the task: the oracle that adaptation is compared with."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Discount γ of the rewards."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ of generalised advantage estimation; 1 is the return to go less the baseline."""

    @property
    def measure(self) -> str:
        """What adaptation changes: return, mse or accuracy."""
        return "return"

    @property
    def title(self) -> str:
        """What is learned, in a few words."""
        return self.env

    @property
    def amount(self) -> int:
        """Data of each task at each step."""
        return self.episodes

    @property
    def data_text(self) -> str:
        """The same in words."""
        return f"{self.episodes} episodes"

    @property
    def tasks(self) -> dict[str, Any]:
        """What decides the tasks: runs that differ in it cannot be compared."""
        return self.model_dump(include={"env", "env_kwargs", "horizon"})

    def published(self) -> tuple[Row, ...]:
        """Published results on the same tasks."""
        return published.find(self.env, self.env_kwargs, self.horizon)


class Sinusoid(Section):
    """Regression of sinusoids of unknown amplitude and phase."""

    kind: Literal["sinusoid"]
    """What is learned; rl: a policy, sinusoid: a curve, images: to tell classes apart."""
    shots: Count
    """Points K of the support."""
    queries: Count | None = None
    """Points of the query while training; null: as many as the support has."""
    observe_task: bool = False
    """The network reads amplitude and phase beside x: the oracle that adaptation is compared with."""

    @property
    def measure(self) -> str:
        """What adaptation changes: return, mse or accuracy."""
        return "mse"

    @property
    def title(self) -> str:
        """What is learned, in a few words."""
        return f"sinusoid, {self.shots}-shot"

    @property
    def amount(self) -> int:
        """Query data of each task while training."""
        return self.queries or self.shots

    @property
    def data_text(self) -> str:
        """The data of each task in words."""
        return f"{self.shots} support and {self.amount} query points"

    def queries_text(self, queries: int | None) -> str:
        """So many query data in words."""
        return f"{queries or self.amount} query points"

    @property
    def tasks(self) -> dict[str, Any]:
        """What decides the tasks: runs that differ in it cannot be compared."""
        return {"kind": self.kind, "shots": self.shots}

    def published(self) -> tuple[Row, ...]:
        """Published results on the same tasks."""
        return published.few_shot("sinusoid", 1, self.shots)


class Images(Section):
    """N-way K-shot classification of images."""

    kind: Literal["images"]
    """What is learned; rl: a policy, sinusoid: a curve, images: to tell classes apart."""
    data_set: Literal["omniglot", "mini-imagenet"]
    """Which images."""
    data: PathName | None = None
    """Folder that holds them; null: $METARL_DATA, else ~/.cache/metarl."""
    image_size: Annotated[int, Field(ge=1, le=512)] | None = None
    """Side in pixels; null: 28 for omniglot, 84 for mini-imagenet."""
    ways: Annotated[int, Field(ge=2)]
    """Classes N of a task."""
    shots: Count
    """Support examples K of each class."""
    queries: Count
    """Query examples of each class while training."""
    train_ways: Annotated[int, Field(ge=2)] | None = None
    """Classes of a task while training, of learners that compare; null: as many as problem.ways."""
    rotations: Literal["none", "train", "all"] = "none"
    """Splits in which a class turned by 90, 180 or 270 degrees is one more class."""

    @property
    def measure(self) -> str:
        """What adaptation changes: return, mse or accuracy."""
        return "accuracy"

    @property
    def title(self) -> str:
        """What is learned, in a few words."""
        return f"{self.data_set}, {self.ways}-way {self.shots}-shot"

    @property
    def amount(self) -> int:
        """Query data of each class while training."""
        return self.queries

    @property
    def data_text(self) -> str:
        """The data of each task in words."""
        ways = self.train_ways or self.ways
        return f"{ways} classes x {self.shots} support and {self.queries} query images"

    def queries_text(self, queries: int | None) -> str:
        """So many query data in words."""
        count = queries or self.amount
        return f"{count} query image{'s' * (count > 1)} of each class"

    @property
    def tasks(self) -> dict[str, Any]:
        """What decides the tasks: runs that differ in it cannot be compared."""
        chosen = self.model_dump(include={"data_set", "ways", "shots"})
        return chosen | {"image_size": self.side, "turned": self.rotations == "all"}

    @property
    def side(self) -> int:
        """Of an image, in pixels."""
        return self.image_size or {"omniglot": 28, "mini-imagenet": 84}[self.data_set]

    def published(self) -> tuple[Row, ...]:
        """Published results on the same tasks."""
        return published.few_shot(self.data_set, self.ways, self.shots)


SupervisedProblem = Annotated[Sinusoid | Images, Field(discriminator="kind")]
