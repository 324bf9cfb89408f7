"""The Gaussian policy: a multi-layer perceptron for the mean, a state-independent parameter for the spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh"]
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class GaussianMLP(nn.Module):
    """π(a|s) = N(a; μ(s), σ²), μ a multi-layer perceptron, log σ a parameter of shape ``[A]``.

    Xavier-uniform weights, zero biases. Parameters: ``layers.<i>.weight`` ``[out, in]``, ``layers.<i>.bias`` ``[out]``
    and ``log_std`` ``[A]``.

    Args:
        obs_size: O.
        action_size: A.
        hidden_sizes: width of each hidden layer.
        activation: of the hidden layers.
        initial_std: initial σ of every action.
        min_std: σ is never less than this.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden_sizes: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        initial_std: float = 1.0,
        min_std: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [obs_size, *hidden_sizes, action_size]
        # Linear's own initialisation would draw from the global generator.
        linear = [nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(sizes)]
        self.layers = nn.ModuleList(linear)
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(initial_std)))
        self.activation: Activation = activation
        self.min_log_std = math.log(min_std)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Action mean ``[..., A]`` and log standard deviation ``[A]`` at observations ``[..., O]``."""
        hidden = obs
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if index < len(self.layers) - 1:
                hidden = ACTIVATIONS[self.activation](hidden)
        return hidden, self.log_std.clamp(min=self.min_log_std)

    def stacked(
        self,
        params: dict[str, Tensor],
        obs: Tensor,
        activations: Mapping[str, Callable[[Tensor], Tensor]] = ACTIVATIONS,
    ) -> tuple[Tensor, Tensor]:
        """M policies at once, by batched matrix products; its oracle is ``forward`` under ``vmap``.

        Args:
            params: one parameter set per task, ``[M, *shape]``.
            obs: ``[M, B, O]``.
            activations: where no derivative is wanted, ones that write over what they are given.

        Returns:
            Mean ``[M, B, A]`` and log standard deviation ``[M, A]``.
        """
        hidden = obs
        for index in range(len(self.layers)):
            bias, weight = params[f"layers.{index}.bias"], params[f"layers.{index}.weight"]
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
            if index < len(self.layers) - 1:
                hidden = activations[self.activation](hidden)
        return hidden, params["log_std"].clamp(min=self.min_log_std)
