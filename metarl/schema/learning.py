"""The inner and the outer update."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from metarl.schema.base import (
    Count,
    CountOrZero,
    Fraction,
    Names,
    NonNegative,
    Positive,
    Section,
    impossible,
)


class Inner(Section):
    """Adaptation to one task: K gradient steps φ ← φ − α ∇L(φ)."""

    steps: CountOrZero = 1
    """Gradient steps K; 0 does not adapt."""
    lr: Positive
    """Rate α of each step; the first value of the rates when they are learned."""
    first_order: bool = False
    """Leave the second derivatives out (FOMAML)."""
    second_order_from: CountOrZero = 0
    """Leave them out before this iteration (derivative-order annealing of MAML++)."""
    adapt: Literal["all", "head"] | Names = "all"
    """Parameters that are adapted: all, head (the last layer: ANIL), or patterns such as ["head.*"]."""
    learn_rates: Literal[False, True, "layer", "layer_step"] = False
    """Learn rates too: true, one for every number (Meta-SGD); for every layer; or layer and step."""

    @model_validator(mode="after")
    def _something_is_learned(self) -> Inner:
        if self.learn_rates and self.steps == 0:
            raise impossible(
                "learn_rates", "there is no rate to learn: set inner.steps to at least 1"
            )
        return self


class RLInner(Inner):
    """Adaptation of a policy."""

    estimator: Literal["reinforce", "lvc", "dice", "loaded_dice"] = "lvc"
    """Inner loss: same gradient, different meta-gradient (`reinforce` is the original code's)."""


class SupervisedInner(Inner):
    """Adaptation to examples."""

    rule: Literal["gradient"] = "gradient"
    """How a task's support is learned from: by gradient steps, or by comparison (`Comparison`)."""
    multi_step_until: CountOrZero = 0
    """Iteration until which the loss after every step counts, less and less (MAML++); 0: never."""
    per_step_normalisation: bool = False
    """Every step has its own scale and shift of normalisation, which are not adapted (MAML++)."""
    fresh_support: bool = False
    """Every step of training has support examples of its own (Reptile's batches)."""


class Comparison(Section):
    """Comparison with a task's support in a learned embedding, without gradient steps."""

    steps: ClassVar[int] = 0
    learn_rates: ClassVar[bool] = False

    rule: Literal["prototypical", "matching", "siamese", "nearest_neighbour"]
    """How: with class means, with every example, in pairs; or in a plain classifier's features."""


class FineTuning(Section):
    """Gradient steps, on a task's support, from a classifier of all training classes."""

    learn_rates: ClassVar[bool] = False

    rule: Literal["fine_tuning"]
    """How a task's support is learned from: by a new last layer on a plain classifier's features."""
    steps: Count = 10
    """Gradient steps after which a run is judged; training takes none."""
    lr: Positive
    """Rate α of each step."""
    adapt: Literal["all", "head"] = "all"
    """Parameters that the steps change: all, or head, the new last layer."""


class MetaLSTM(Section):
    """An update that is learned as a whole: a recurrent cell whose memory is the parameters."""

    learn_rates: ClassVar[bool] = True

    rule: Literal["lstm"]
    """How a task's support is learned from: by a learned cell (Ravi & Larochelle's meta-learner LSTM)."""
    steps: Count = 5
    """Steps K."""
    hidden_size: Count = 20
    """Units of the cell's first layer."""


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
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share β of the earlier gradients in the one that the step descends, m ← β m + g; 0: none."""
    momentum_warmup: CountOrZero = 0
    """Iterations w after which half of the momentum is reached, β i / (i + w); 0: all at once."""
    curvature: Literal["auto", "closed_form", "autograd"] = "auto"
    """Hessian-vector products of the KL: JᵀFJ, double backward, or the first where it applies."""
    curvature_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the episodes that the products are computed on, the first of each task; below 1 they are approximate."""
    chunk: Literal["auto"] | Count = "auto"
    """Tasks whose activations are held at a time, the others' made anew in each product; auto: as fit."""


class Scheduled(Section):
    """An outer step of a learning rate that may change over the iterations."""

    lr: Positive = 1e-3
    """First outer learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How that rate goes to final_lr over the iterations."""
    final_lr: NonNegative = 0.0
    """The rate at the last iteration, unless it is constant."""

    @model_validator(mode="after")
    def _a_rate_that_changes_has_a_schedule(self) -> Scheduled:
        if self.final_lr and self.schedule == "constant":
            raise impossible(
                "final_lr", "the rate is constant: set outer.schedule, or leave it out"
            )
        return self


class VPG(Scheduled):
    """Vanilla policy gradient with Adam."""

    method: Literal["vpg"]
    """How the initialisation is updated: trpo, vpg or ppo."""
    tasks: Count = 40
    """Tasks M of each meta-batch."""
    exploration: NonNegative = 0.0
    """Weight of E-MAML's exploration term; 0 leaves it out."""


class PPO(Scheduled):
    """Proximal policy optimisation with a penalty on the inner steps' KL (ProMP)."""

    method: Literal["ppo"]
    """How the initialisation is updated: trpo, vpg or ppo."""
    tasks: Count = 40
    """Tasks M of each meta-batch."""
    clip: Fraction = 0.3
    """Clip range ε of the likelihood ratio."""
    epochs: Count = 5
    """Adam steps on each meta-batch."""
    kl_target: Positive = 0.01
    """Target of the inner steps' KL, in nats."""
    kl_coefficient: NonNegative = 5e-4
    """First weight of the inner KL penalty; it adapts to meet the target."""


class Descent(Scheduled):
    """Gradient descent on the query loss, or towards the adapted parameters."""

    objective: Literal["post_update", "reptile"] = "post_update"
    """What is minimised: the query loss after adaptation (MAML), or Reptile's distance."""
    tasks: Count = 25
    """Tasks M of each meta-batch."""
    clip: Positive | None = None
    """Every component of the gradient is clipped to ± this; null: not at all."""


class Adam(Descent):
    """Adam on the initialisation."""

    method: Literal["adam"]
    """How the initialisation is updated: adam or sgd."""


class SGD(Descent):
    """Plain gradient descent of the initialisation."""

    method: Literal["sgd"]
    """How the initialisation is updated: adam or sgd."""


RLOuter = Annotated[TRPO | VPG | PPO, Field(discriminator="method")]
SupervisedOuter = Annotated[Adam | SGD, Field(discriminator="method")]
