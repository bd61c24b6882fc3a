"""How many floating-point operations a network takes in training, counted by torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def operations(model: nn.Module, x: torch.Tensor) -> int:
    """Products and sums of layers for a batch, forward and backward; the model is left with gradients.

    Attention is computed as products that torch counts: a fused one is counted on some devices only.
    """
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model(x).sum().backward()
    return counter.get_total_flops()


def _convolution_backward(
    grad_shape: Sequence[int], x_shape: Sequence[int], w_shape: Sequence[int], *rest: Any, **named: Any
) -> int:
    """Of the gradients of inputs and weights, each as many as of the convolution. torch's own number is the
    same but for convolutions in groups, of which it counts too many."""
    wanted = rest[-1]
    return 2 * sum(wanted[:2]) * grad_shape[0] * math.prod(grad_shape[2:]) * math.prod(w_shape)
