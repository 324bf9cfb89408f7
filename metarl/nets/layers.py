"""What several networks are made of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-3
"""Added to the variance, as in the original code of MAML."""
TRUNCATED_STD = 0.01

Initialisation = Literal["xavier_uniform", "fan_in_uniform", "truncated_normal"]
"""Of weights. ``xavier_uniform``: Glorot & Bengio 2010; ``fan_in_uniform``: U(±1/√n), n the inputs of a unit, as in
torch's own layers; ``truncated_normal``: N(0, 0.01²) cut at two deviations.

Where a normalisation follows, the size of the weights changes no output but every gradient: a step of rate α turns
weights of half the size four times as far.
"""


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x − mean) / √(variance + ε) · scale + shift, the statistics being those of ``x`` over ``dims``.

    No statistics are kept: those of the query are taken from the query, so that its examples are classified together
    (transduction).

    Args:
        x: examples, with any leading axes.
        scale: broadcasts to ``x``.
        shift: broadcasts to ``x``.
        dims: axes of examples and positions.
    """
    centred = x - x.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    return centred * (variance + EPSILON).rsqrt() * scale + shift


class BatchNorm(nn.Module):
    """:func:`batch_norm` of ``[N, F]`` or ``[N, F, H, W]``, with ``scale`` and ``shift`` ``[F]``, in fewer passes.

    Scale and shift stand apart, because ``vmap`` over the second derivative of torch's own affine normalisation is
    wrong without an error (torch 2.13, on a CPU).

    Args:
        features: F.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        places = (1,) * (x.ndim - 2)
        scale, shift = self.scale.reshape(-1, *places), self.shift.reshape(-1, *places)
        return torch.addcmul(shift, _normalised(x), scale)


def _normalised(x: Tensor) -> Tensor:
    return nn.functional.batch_norm(x, None, None, training=True, eps=EPSILON)


def initialise(layer: nn.Module, how: Initialisation, generator: torch.Generator | None) -> None:
    """Set a layer's ``weight`` from a generator of one's own, and its ``bias`` to 0.

    Args:
        layer: linear or convolution.
        how: a distribution.
        generator: source of the numbers.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    if how == "xavier_uniform":
        nn.init.xavier_uniform_(weight, generator=generator)
    elif how == "fan_in_uniform":
        bound = weight[0].numel() ** -0.5
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    else:
        bound = 2 * TRUNCATED_STD
        nn.init.trunc_normal_(weight, 0.0, TRUNCATED_STD, -bound, bound, generator=generator)
    nn.init.zeros_(bias)
