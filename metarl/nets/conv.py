"""The convolutional network of few-shot image classification (Conv-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.nets.layers import BatchNorm, Initialisation, initialise

Downsampling = Literal["stride", "pool"]


class Conv(nn.Module):
    """Blocks of 3×3 convolution, batch normalisation and ReLU, then a linear layer: ``[N, C, H, W] -> [N, outputs]``.

    Without the linear layer it is an embedding, ``[N, C, H, W] -> [N, features]``.

    Each block halves the image: by a stride of 2, after which the last features are averaged over positions (the
    paper's Omniglot net), or by 2×2 max-pooling, after which they are flattened (its miniImageNet net).

    Source: Vinyals et al. 2016 (arXiv:1606.04080), section 4.1, as in the authors' code of MAML.

    Parameters: ``convs.<i>.weight`` ``[F, F', 3, 3]``, ``convs.<i>.bias``, ``norms.<i>.scale`` and ``norms.<i>.shift``
    ``[F]``, ``head.weight``, ``head.bias``.

    Args:
        input_shape: (C, H, W).
        outputs: classes; None: no linear layer.
        filters: F of each block.
        blocks: how many.
        downsampling: ``stride`` or ``pool``.
        initialisation: of the weights. Biases start at 0.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        outputs: int | None,
        filters: int = 64,
        blocks: int = 4,
        downsampling: Downsampling = "stride",
        initialisation: Initialisation = "xavier_uniform",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.stride = 2 if downsampling == "stride" else 1
        inputs = [channels] + [filters] * (blocks - 1)
        convs = [
            nn.utils.skip_init(nn.Conv2d, size, filters, 3, stride=self.stride, padding=1)
            for size in inputs
        ]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([BatchNorm(filters) for _ in convs])
        positions = 1 if self.stride == 2 else (height >> blocks) * (width >> blocks)
        self.features = filters * positions
        self.head = None
        if outputs is not None:
            self.head = nn.utils.skip_init(nn.Linear, self.features, outputs)
        for layer in (*convs, self.head):
            if layer is not None:
                initialise(layer, initialisation, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (or features) of N images, normalised by the statistics of these N."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
            if self.stride == 1:
                x = functional.max_pool2d(x, 2)
        features = x.mean((-2, -1)) if self.stride == 2 else x.flatten(1)
        return features if self.head is None else self.head(features)
