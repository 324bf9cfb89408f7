"""The settings of a run: names, types, ranges, defaults and meanings.

`metarl.config` reads and writes them as YAML. A new kind of problem or outer method is a new class
here, added to its union at the end: ``kind`` or ``method`` tells the classes apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# YAML gives lists; a frozen configuration holds tuples.
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
Rates = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
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


def impossible(key: str, message: str) -> PydanticCustomError:
    """The error of settings that are each valid but do not fit together.

    Args:
        key: dotted key of the setting to change, relative to the section that raises.
        message: what is wrong with it and what to do, to be read after "<key> is <value>, but".
    """
    return PydanticCustomError("impossible", "{message}", {"key": key, "message": message})


class Section(BaseModel):
    """A group of settings: nothing unknown, converted, NaN or infinite, and never changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class RLProblem(Section):
    """Reinforcement learning on a family of Gymnasium environments that differ in their task."""

    kind: Literal["rl"]
    """What is learned; rl: a policy."""
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[^\s:]+$")]
    """Environment as module:Name-v0; importing the module registers it."""
    env_kwargs: Annotated[dict[str, Scalar | list[Scalar]], BeforeValidator(_plain_values)] = {}
    """Keyword arguments of the environment's constructor."""
    horizon: Count
    """Longest episode T, in environment steps."""
    episodes: Count
    """Episodes N of each task in each wave of sampling."""
    observe_task: bool = False
    """The policy observes the task: the oracle that adaptation is compared with."""
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Discount γ of the rewards."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ of generalised advantage estimation; 1 is the return to go less the baseline."""


class Network(Section):
    """The policy: a multilayer perceptron and a Gaussian of state-independent deviation."""

    hidden_sizes: Counts = (100, 100)
    """Units of each hidden layer; an empty list is a linear policy."""
    activation: Literal["relu", "tanh"] = "relu"
    """Non-linearity after each hidden layer."""
    initial_std: Positive = 1.0
    """Standard deviation of the actions before training."""
    min_std: Positive = 1e-6
    """Floor of that standard deviation."""

    @model_validator(mode="after")
    def _floor_below_start(self) -> Network:
        if self.min_std > self.initial_std:
            raise impossible("min_std", f"must be at most network.initial_std, {self.initial_std}")
        return self


class Inner(Section):
    """Adaptation to one task: K gradient steps φ ← φ − α ∇L(φ)."""

    steps: CountOrZero = 1
    """Gradient steps K; 0 does not adapt."""
    lr: Positive
    """Rate α of each step; the first value of the rates when they are learned."""
    estimator: Literal["reinforce", "lvc", "dice", "loaded_dice"] = "lvc"
    """Inner loss: same gradient, different meta-gradient (`reinforce` is the original code's)."""
    first_order: bool = False
    """Leave the second derivatives out (FOMAML)."""
    learn_rates: bool = False
    """Learn a rate for every parameter together with the initialisation (Meta-SGD)."""


class TRPO(Section):
    """Trust-region policy optimisation of the post-update policies' surrogate."""

    method: Literal["trpo"]
    """How the initialisation is updated: trpo, vpg or ppo."""
    tasks: Count = 40
    """Tasks M of each meta-batch."""
    max_kl: Positive = 0.01
    """Bound δ on the mean KL from the behaviour policies, in nats."""
    cg_iterations: Count = 10
    """Iterations of conjugate gradient."""
    cg_damping: NonNegative = 1e-5
    """Multiple of the identity added to the curvature."""
    kfac_damping: Positive | None = None
    """Damping of the Kronecker-factored preconditioner of conjugate gradient; null: none."""
    backtrack_ratio: Fraction = 0.8
    """Factor between the trial steps of the line search."""
    max_backtracks: Count = 15
    """Most trial steps of the line search; when none is accepted nothing changes."""
    curvature: Literal["auto", "closed_form", "autograd"] = "auto"
    """Hessian-vector products of the KL: JᵀFJ, double backward, or the first where it applies."""


class VPG(Section):
    """Vanilla policy gradient with Adam."""

    method: Literal["vpg"]
    """How the initialisation is updated: trpo, vpg or ppo."""
    tasks: Count = 40
    """Tasks M of each meta-batch."""
    lr: Positive = 1e-3
    """Adam's learning rate."""
    exploration: NonNegative = 0.0
    """Weight of E-MAML's exploration term; 0 leaves it out."""


class PPO(Section):
    """Proximal policy optimisation with a penalty on the inner steps' KL (ProMP)."""

    method: Literal["ppo"]
    """How the initialisation is updated: trpo, vpg or ppo."""
    tasks: Count = 40
    """Tasks M of each meta-batch."""
    lr: Positive = 1e-3
    """Adam's learning rate."""
    clip: Fraction = 0.3
    """Clip range ε of the likelihood ratio."""
    epochs: Count = 5
    """Adam steps on each meta-batch."""
    kl_target: Positive = 0.01
    """Target of the inner steps' KL, in nats."""
    kl_coefficient: NonNegative = 5e-4
    """First weight of the inner KL penalty; it adapts to meet the target."""


class Evaluation(Section):
    """Adaptation to held-out tasks: returns after 0, 1, ..., `steps` gradient steps."""

    every: CountOrZero = 25
    """Evaluate during training every so many iterations; 0: never."""
    tasks: Count = 40
    """Held-out tasks."""
    episodes: Count | None = None
    """Episodes of each task at each step; null: problem.episodes."""
    steps: CountOrZero = 3
    """Gradient steps."""
    lr: Rates | None = None
    """Rate of each gradient step; null: inner.lr for the first, half of it for every later one."""

    @model_validator(mode="after")
    def _one_rate_for_each_step(self) -> Evaluation:
        if self.lr is not None and len(self.lr) != self.steps:
            raise impossible(
                "lr", f"must hold one rate for each of the {self.steps} evaluation.steps"
            )
        return self


class Output(Section):
    """Where a run is kept, and how much of it."""

    directory: Annotated[str, Field(min_length=1)] = "runs"
    """Folder that holds the runs."""
    checkpoint_every: Count = 10
    """Iterations between checkpoints; the last iteration always makes one."""
    keep: Count = 3
    """Newest checkpoints kept, beside the best one."""


Outer = Annotated[TRPO | VPG | PPO, Field(discriminator="method")]


class Config(Section):
    """Everything that decides a run's numbers."""

    # NumPy takes seeds apart into words of 32 bits; one word leaves the streams their own.
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    """Seed of every random number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks are evaluated; auto: a GPU when there is one."""
    threads: Literal["auto"] | Count = "auto"
    """Python threads that share the tasks; auto: one for each core. No number depends on it."""
    iterations: Count
    """Meta-iterations."""
    on_nonfinite: Literal["raise", "skip_task"] = "raise"
    """A task whose numbers become NaN or infinite ends the run, or is left out of its meta-batch."""
    problem: RLProblem
    """What is learned, and from which data."""
    network: Network = Network()
    """The policy."""
    inner: Inner
    """Adaptation to a task."""
    outer: Outer
    """Update of the initialisation."""
    evaluation: Evaluation = Evaluation()
    """Adaptation to held-out tasks."""
    run: Output = Output()
    """Output."""

    @model_validator(mode="after")
    def _preconditioner_has_a_closed_form(self) -> Config:
        if not isinstance(self.outer, TRPO) or self.outer.kfac_damping is None:
            return self
        if self.outer.curvature == "autograd" or self.inner.learn_rates:
            raise impossible(
                "outer.kfac_damping",
                "it needs the closed form, which outer.curvature: autograd and "
                "inner.learn_rates: true rule out: leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _rates_have_one_source(self) -> Config:
        if self.inner.learn_rates and self.inner.steps == 0:
            raise impossible(
                "inner.learn_rates", "there is no rate to learn: set inner.steps to at least 1"
            )
        if self.inner.learn_rates and self.evaluation.lr is not None:
            raise impossible(
                "evaluation.lr",
                "inner.learn_rates takes the learned rates: leave evaluation.lr out",
            )
        return self
