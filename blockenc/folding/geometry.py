"""A convolution as one of whole blocks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Axis:
    """One direction of a convolution, beside blocks of b pixels.

    kernel: pixels that an output sees, dilation included. padding: pixels before the first.

    Each *step*, the least common multiple of stride and b, makes `outputs` outputs. They see `blocks` blocks,
    of which `first` lie before the step.
    """

    block_size: int
    kernel: int
    stride: int
    padding: tuple[int, int]

    @property
    def step(self) -> int:
        return math.lcm(self.stride, self.block_size)

    @property
    def outputs(self) -> int:
        return self.step // self.stride

    @property
    def first(self) -> int:
        return -(-self.padding[0] // self.block_size)

    def offset(self, output: int) -> int:
        """Where the kernel of that output of a step starts, in pixels from the first block that is seen."""
        return self.first * self.block_size + output * self.stride - self.padding[0]

    @property
    def blocks(self) -> int:
        return -(-(self.offset(self.outputs - 1) + self.kernel) // self.block_size)

    def around(self, size: int) -> tuple[int, int, int]:
        """Pixels to pad before and after so many pixels, and how many outputs of what comes are the
        convolution's."""
        outputs = (size + sum(self.padding) - self.kernel) // self.stride + 1
        steps = -(-outputs // self.outputs)
        before = self.first * self.block_size
        seen = (steps - 1) * self.step + self.blocks * self.block_size
        return before, max(0, seen - before - size), outputs


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How an nn.Conv2d looks at blocks of b x b pixels: design and proof are those of docs/protect.md."""

    rows: Axis
    columns: Axis
    dilation: tuple[int, int]
    groups: int
    circular: bool

    @classmethod
    def of(
        cls, conv: nn.Conv2d, block_size: int, padding: tuple[tuple[int, int], ...] | None = None
    ) -> Geometry:
        """padding: pixels before and after, of each direction, where they are not those that `conv` says."""
        kernel = [d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation)]
        if padding is None:
            padding = tuple(_padding(conv, axis, kernel[axis]) for axis in range(2))
        axes = (Axis(block_size, k, s, p) for k, s, p in zip(kernel, conv.stride, padding))
        circular = conv.padding_mode == "circular"
        return cls(*axes, dilation=conv.dilation, groups=conv.groups, circular=circular)  # type: ignore

    @property
    def block_size(self) -> int:
        return self.rows.block_size

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        return self.rows.padding, self.columns.padding

    @property
    def pads(self) -> bool:
        return any(self.rows.padding) or any(self.columns.padding)

    @property
    def is_patches(self) -> bool:
        """Whether every output sees one patch of whole blocks, and no two the same."""
        axes = (self.rows, self.columns)
        return self.is_whole and not self.pads and all(axis.kernel == axis.stride for axis in axes)

    @property
    def is_whole(self) -> bool:
        """Whether the kernel is made of whole blocks already."""
        axes = (self.rows, self.columns)
        sizes = (size for axis in axes for size in (axis.kernel, axis.stride, *axis.padding))
        return self.dilation == (1, 1) and self.groups == 1 and not any(s % self.block_size for s in sizes)

    def widened(self, weight: torch.Tensor) -> torch.Tensor:
        """The kernel [outputs * D, C, A*b, B*b] of the whole step that is the convolution of `weight`."""
        dense = self._dense(weight)
        d, channels, height, width = dense.shape
        rows, columns = self.rows, self.columns
        shape = (d, rows.outputs, columns.outputs, channels)
        big = dense.new_zeros(*shape, rows.blocks * self.block_size, columns.blocks * self.block_size)
        for u in range(rows.outputs):
            for w in range(columns.outputs):
                top, left = rows.offset(u), columns.offset(w)
                big[:, u, w, :, top : top + height, left : left + width] = dense
        return big.flatten(0, 2)

    def narrowed(self, big: torch.Tensor) -> torch.Tensor | None:
        """The inverse of `widened`; None of a kernel that is that of no such convolution."""
        rows, columns = self.rows, self.columns
        top, left = rows.offset(0), columns.offset(0)
        first = big.unflatten(0, (-1, rows.outputs, columns.outputs))[:, 0, 0]
        dense = first[:, :, top : top + rows.kernel, left : left + columns.kernel]
        dense = dense[:, :, :: self.dilation[0], :: self.dilation[1]]
        d, channels = dense.shape[0] // self.groups, dense.shape[1] // self.groups
        weight = torch.cat(
            [dense[g * d : (g + 1) * d, g * channels : (g + 1) * channels] for g in range(self.groups)]
        )
        same = torch.allclose(self.widened(weight), big, rtol=1e-5, atol=1e-5 * float(big.abs().max()))
        return weight if same else None

    def _dense(self, weight: torch.Tensor) -> torch.Tensor:
        """A kernel without groups and dilation, [D, C, height, width]."""
        per_group = weight.shape[1]
        each = weight.shape[0] // self.groups
        shape = (weight.shape[0], per_group * self.groups, self.rows.kernel, self.columns.kernel)
        dense = weight.new_zeros(shape)
        for g in range(self.groups):
            part: Any = dense[g * each : (g + 1) * each, g * per_group : (g + 1) * per_group]
            part[:, :, :: self.dilation[0], :: self.dilation[1]] = weight[g * each : (g + 1) * each]
        return dense


def _padding(conv: nn.Conv2d, axis: int, kernel: int) -> tuple[int, int]:
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        return (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
    return int(conv.padding[axis]), int(conv.padding[axis])
