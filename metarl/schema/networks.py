"""What is adapted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from metarl.schema.base import Count, Counts, Positive, Section, impossible

Initialisation = Literal["xavier_uniform", "fan_in_uniform", "truncated_normal"]


class GaussianMLP(Section):
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
    def _floor_below_start(self) -> GaussianMLP:
        if self.min_std > self.initial_std:
            raise impossible("min_std", f"must be at most network.initial_std, {self.initial_std}")
        return self


class MLP(Section):
    """A multilayer perceptron with ReLU."""

    kind: Literal["mlp"]
    """Which network: mlp, conv or gru."""
    hidden_sizes: Counts = (40, 40)
    """Units of each hidden layer; an empty list is a linear map."""
    normalisation: Literal["none", "batch"] = "none"
    """Of the hidden layers; batch: by the statistics of the batch at hand, query included."""
    initialisation: Initialisation = "xavier_uniform"
    """Of the weights: xavier_uniform; fan_in_uniform: U(+-1/sqrt(inputs)), torch's own; truncated_normal: of 0.01."""

    @property
    def transductive(self) -> bool:
        """Whether the prediction of one example depends on the others it is asked with."""
        return self.normalisation == "batch"


class Conv(Section):
    """Convolutional blocks with batch normalisation and ReLU, and a linear layer (Conv-4)."""

    kind: Literal["conv"]
    """Which network: mlp, conv or gru."""
    filters: Count = 64
    """Filters of each block."""
    blocks: Count = 4
    """Blocks, each of which halves the image."""
    downsampling: Literal["stride", "pool"] = "stride"
    """How: by a stride of 2 and a mean over positions at the end, or by 2x2 max-pooling."""
    initialisation: Initialisation = "xavier_uniform"
    """Of the weights: xavier_uniform; fan_in_uniform: U(+-1/sqrt(inputs)), torch's own; truncated_normal: of 0.01."""

    @property
    def transductive(self) -> bool:
        """Whether the prediction of one example depends on the others it is asked with."""
        return True


class GRU(Section):
    """A gated recurrent unit that reads a task's examples as a sequence."""

    kind: Literal["gru"]
    """Which network: mlp, conv or gru."""
    hidden_size: Count = 40
    """Units of its state."""

    @property
    def transductive(self) -> bool:
        """Whether the prediction of one example depends on the others it is asked with."""
        return True


SupervisedNetwork = Annotated[MLP | Conv | GRU, Field(discriminator="kind")]
