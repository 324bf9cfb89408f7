"""What the closed forms are made of, by whichever of the libraries that are there is made for the processor.

torch multiplies float32 matrices on a CPU by MKL, which keeps its AVX-512 kernels for Intel's processors; on others
oneDNN, which torch has as well, takes half the time. NumPy's tanh takes a twelfth of the time of MKL's there, and is
used on all. Which library it is follows from the machine and the sizes alone: with one thread inside each product, as
training has it, no bit depends on how many threads share the tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.processor import described


def _one_dnn() -> bool:
    """Whether MKL would be slower than oneDNN, and both are there."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return both and "Intel" not in described("vendor_id") and one_dnn_is_understood()


def one_dnn_is_understood() -> bool:
    """Whether torch's operation, which is not part of its public interface, is what it has been."""
    a, b = torch.arange(6.0).view(1, 2, 3), torch.arange(12.0).view(4, 3)
    try:
        return torch.equal(multiply_by_one_dnn(a, b), a @ b.mT)
    except (AttributeError, RuntimeError, TypeError):
        return False


def multiply_by_one_dnn(a: Tensor, turned: Tensor) -> Tensor:
    """a bᵀ by oneDNN, ``[1, n, k]`` times ``[m, k]``."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, turned, None, "none", [], "")
    return product


ONE_DNN = _one_dnn()
# Of fewer operations oneDNN's preparations cost more than it saves.
FEW = 3_000_000


class Factor(NamedTuple):
    """A right factor, which many products may share.

    Attributes:
        matrix: ``[C, k, m]``.
        turned: its transpose ``[m, k]`` for oneDNN, of one float32 matrix on a CPU; else None.
        operations: 2 k m, what a row of the left factor costs.
    """

    matrix: Tensor
    turned: Tensor | None
    operations: int


def factor(matrix: Tensor) -> Factor:
    """``matrix`` ``[C, k, m]`` as a right factor: a view."""
    turned = matrix[0].mT if _one_for_one_dnn(matrix) else None
    return Factor(matrix, turned, 2 * matrix.shape[1] * matrix.shape[2])


def rows(columns: Tensor, often: bool = True) -> Factor:
    """``columns`` ``[C, n, B]`` as the right factor ``[C, B, n]`` of sums over B.

    Args:
        columns: states are columns.
        often: whether many products are to come, for which Intel's processors and GPUs want a copy; else a view.
    """
    if often and not (ONE_DNN and columns.is_cpu):
        return factor(columns.mT.contiguous())
    turned = columns[0] if _one_for_one_dnn(columns) else None
    return Factor(columns.mT, turned, 2 * columns.shape[1] * columns.shape[2])


def _one_for_one_dnn(matrix: Tensor) -> bool:
    return ONE_DNN and len(matrix) == 1 and matrix.is_cpu and matrix.dtype is torch.float32


def matmul(a: Tensor, b: Factor) -> Tensor:
    """a b, ``[C, n, k]`` times ``[C, k, m]``."""
    if b.turned is None or a.shape[1] * b.operations <= FEW:
        return torch.bmm(a, b.matrix)
    return multiply_by_one_dnn(a, b.turned)


def activate(activation: str, z: Tensor, out: Tensor) -> Tensor:
    """The activation of z, ``relu`` or ``tanh``, in ``out``."""
    return torch.clamp_min(z, 0.0, out=out) if activation == "relu" else _tanh(z, out)


def _tanh(z: Tensor, out: Tensor) -> Tensor:
    if not z.is_cpu:
        return torch.tanh(z, out=out)
    np.tanh(z.numpy(), out=out.numpy())
    return out


# Activations that write over what they are given.
IN_PLACE = {"relu": torch.relu_, "tanh": lambda z: _tanh(z, z)}


def through_activation(activation: str, moved: Tensor, output: Tensor, out: Tensor) -> Tensor:
    """a'(z) ⊙ ``moved``, in ``out``, with a'(z) read off the output a(z)."""
    if activation == "relu":
        relu_backward = torch.ops.aten.threshold_backward.grad_input
        return relu_backward(moved, output, 0.0, grad_input=out)
    return torch.ops.aten.tanh_backward.grad_input(moved, output, grad_input=out)
