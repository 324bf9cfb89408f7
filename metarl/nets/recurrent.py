"""A recurrent regressor: the examples of a task as a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from metarl.nets.layers import initialise


class GRU(nn.Module):
    """A gated recurrent unit that reads the examples one after the other: ``[N, ...] -> [N, outputs]``.

    r, z = σ(W x + U h),  c = tanh(W' x + r ∘ (U' h)),  h ← z ∘ h + (1 − z) ∘ c; the prediction is linear in h. Its
    state starts at zero, so an example's prediction depends on those before it. Written out, so that ``vmap`` and
    second derivatives apply.

    Source: Cho et al. 2014 (arXiv:1406.1078), with the reset after the product, as in torch.nn.GRU.

    Parameters: ``inputs.weight`` ``[3H, I]`` and ``state.weight`` ``[3H, H]`` in the order r, z, c, their biases,
    ``head.weight``, ``head.bias``.

    Args:
        input_shape: of one example; it is flattened.
        outputs: size of a prediction.
        hidden_size: H.
        generator: source of the initial weights, Xavier-uniform.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int,
        hidden_size: int = 40,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.inputs = nn.utils.skip_init(nn.Linear, prod(input_shape), 3 * hidden_size)
        self.state = nn.utils.skip_init(nn.Linear, hidden_size, 3 * hidden_size)
        self.head = nn.utils.skip_init(nn.Linear, hidden_size, outputs)
        self.hidden_size = hidden_size
        for layer in (self.inputs, self.state, self.head):
            initialise(layer, "xavier_uniform", generator)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``[N, outputs]`` at a sequence of N examples."""
        driven = self.inputs(x.flatten(1))
        hidden = driven.new_zeros(self.hidden_size)
        states = []
        for step in driven.unbind(0):
            by_input, by_state = step.chunk(3), self.state(hidden).chunk(3)
            reset, keep = (torch.sigmoid(by_input[i] + by_state[i]) for i in range(2))
            candidate = torch.tanh(by_input[2] + reset * by_state[2])
            hidden = keep * hidden + (1.0 - keep) * candidate
            states.append(hidden)
        return self.head(torch.stack(states))
