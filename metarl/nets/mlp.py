"""The multi-layer perceptron of the supervised problems, with batch normalisation where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from metarl.nets.layers import BatchNorm, Initialisation, batch_norm, initialise


class MLP(nn.Module):
    """Linear layers with ReLU between them: ``[N, ...] -> [N, outputs]``.

    Without outputs it is an embedding by the hidden layers alone: ``[N, ...] -> [N, features]``.

    Parameters: ``layers.<i>.weight`` ``[out, in]``, ``layers.<i>.bias`` ``[out]``, and with normalisation
    ``norms.<i>.scale`` and ``norms.<i>.shift`` ``[out]`` between layer and ReLU.

    Args:
        input_shape: of one example; it is flattened.
        outputs: size of the prediction; None: no last layer.
        hidden_sizes: width of each hidden layer.
        normalised: normalise each hidden layer by its batch's statistics, whatever batch that is.
        initialisation: of the weights. Biases start at 0.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int | None,
        hidden_sizes: Sequence[int] = (40, 40),
        normalised: bool = False,
        initialisation: Initialisation = "xavier_uniform",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [prod(input_shape), *hidden_sizes]
        self.hidden, self.features = len(hidden_sizes), sizes[-1]
        if outputs is not None:
            sizes.append(outputs)
        linear = [nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(sizes)]
        self.layers = nn.ModuleList(linear)
        norms = [BatchNorm(size) for size in hidden_sizes] if normalised else []
        self.norms = nn.ModuleList(norms)
        self.inputs = len(input_shape)
        for layer in linear:
            initialise(layer, initialisation, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``[N, outputs]`` for ``[N, *input_shape]``; statistics are those of these N."""
        hidden = x.flatten(-self.inputs)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden)
            if index < self.hidden:
                hidden = self.norms[index](hidden) if len(self.norms) else hidden
                hidden = torch.relu(hidden)
        return hidden

    def stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """C networks at once, by batched matrix products; its oracle is ``forward`` under ``vmap``.

        Args:
            params: ``[C, *shape]``.
            x: ``[C, N, *input_shape]``.

        Returns:
            ``[C, N, outputs]``.
        """
        hidden = x.flatten(-self.inputs)
        for index in range(len(self.layers)):
            bias, weight = params[f"layers.{index}.bias"], params[f"layers.{index}.weight"]
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
            if index < self.hidden:
                if len(self.norms):
                    scale, shift = (params[f"norms.{index}.{part}"] for part in ("scale", "shift"))
                    hidden = batch_norm(hidden, scale.unsqueeze(1), shift.unsqueeze(1), (1,))
                hidden = torch.relu(hidden)
        return hidden
