"""First layers of protected models: convolutions of whole blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from blockenc.blocks import to_vectors
from blockenc.nn.embedding import check_images


class LookUp(nn.Module):
    """A function of its value for each position: images or patches to their features.

    rows: [kinds, values, features], what each kind of position makes of each value.
    kind: int64 [C, M, M] of the positions of a block (or [C, H, W], of a whole image), or [L] for patches
        that are vectors.
    scale: the integer that a float 1 stands for. mean, std: C numbers each (L for vectors), how floats are
        normalised.

    Input: [N, C, H, W], or [N, C, T, H, W], or vectors [..., L]; integers below `values`, or the floats that
    they are after normalisation (rounded to the nearest integer). Output: the same with C * features in the
    place of C (L * features for vectors), in the dtype of `rows`.
    """

    rows: torch.Tensor
    kind: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, rows: torch.Tensor, kind: torch.Tensor, scale: int, mean: list[float], std: list[float]
    ) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("kind", kind)
        self.register_buffer("scale", torch.tensor(scale, device=rows.device))
        self.mean, self.std = mean, std  # no buffers: bfloat16 could not tell the integers apart

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.rows.shape[1]
        along = 1 if self.kind.dim() == 3 else x.dim() - 1
        kind = self._tiled(x)
        shape = [1] * x.dim()
        shape[along] = -1
        if x.is_floating_point():
            # Not in bfloat16, in which 255 different values are hard to tell apart.
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            mean, std = (exact.new_tensor(numbers).view(shape) for numbers in (self.mean, self.std))
            integers = ((exact * std + mean) * self.scale).round().to(torch.int64).clamp(0, values - 1)
        else:
            if x.dim() == 4:
                check_images(x, self.kind.shape[0], 1, values)
            integers = x.to(torch.int64)
        found = functional.embedding(integers + kind * values, self.rows.flatten(0, 1))
        return found.movedim(-1, along + 1).flatten(along, along + 1)

    def _tiled(self, x: torch.Tensor) -> torch.Tensor:
        """The kind of each value of x."""
        if self.kind.dim() == 1:
            return self.kind
        kind, (h, w) = self.kind, x.shape[-2:]
        if h % kind.shape[1] or w % kind.shape[2]:
            raise ValueError(
                f"x: expected height and width to be multiples of {kind.shape[1]} and {kind.shape[2]}, "
                f"got {h} x {w}"
            )
        kind = kind.repeat(1, h // kind.shape[1], w // kind.shape[2])
        return kind if x.dim() == 4 else kind[:, None]

    def extra_repr(self) -> str:
        return f"features={self.rows.shape[2]}"


class BlockConvolution(nn.Module):
    """A convolution as one that sees whole blocks: what `protect` makes of an nn.Conv2d.

    A convolution of stride s gives (t/s)^2 outputs for each t x t square, t a multiple of the block size b
    and of s. They are computed together, from all the blocks that the convolution sees around it: a
    convolution of stride t and of a kernel of whole blocks, whose outputs are then put in their places.
    Padding is what an encrypted zero is at each position of a block, so that borders are the plain
    convolution's.

    weight: [(t/s)^2 * D, C * features, A*b, B*b]; bias: [(t/s)^2 * D] or None.
    zero: buffer [C, b, b] or None: what each position of an encrypted block holds for a plain 0.
    look_up: where values are not encrypted linearly, a LookUp; then the features of a plain 0 are 0.
    geometry: blockenc.folding.geometry.Geometry. plain: the convolution that this was, without its values.

    Input: [N, C, H, W], H and W multiples of b. Output: [N, D, H', W'], as of the plain convolution.
    """

    zero: torch.Tensor | None

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        geometry: Any,
        plain: nn.Module,
        zero: torch.Tensor | None = None,
        look_up: LookUp | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.register_buffer("zero", zero)
        self.look_up = look_up
        self.geometry = geometry
        self._plain = [plain]  # in a list: its parameters, which have no values, are not this layer's

    @property
    def plain(self) -> nn.Module:
        return self._plain[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        g = self.geometry
        h, w = x.shape[-2:]
        if h % g.block_size or w % g.block_size:
            raise ValueError(f"x: expected height and width to be multiples of {g.block_size}, got {h} x {w}")
        if self.look_up is not None:
            x = self.look_up(x)
        elif self.zero is not None:
            x = x - self.zero.repeat(1, h // g.block_size, w // g.block_size)
        (top, bottom, high), (left, right, wide) = g.rows.around(h), g.columns.around(w)
        mode = "circular" if g.circular else "constant"
        if top == bottom and left == right and not g.circular:
            y = functional.conv2d(x, self.weight, self.bias, (g.rows.step, g.columns.step), (top, left))
        else:
            x = functional.pad(x, (left, right, top, bottom), mode=mode)
            y = functional.conv2d(x, self.weight, self.bias, (g.rows.step, g.columns.step))
        n, _, a, b = y.shape
        down, across = g.rows.outputs, g.columns.outputs
        y = y.view(n, -1, down, across, a, b).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(n, -1, a * down, b * across)[:, :, :high, :wide]

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, block_size={self.geometry.block_size}"


class PlacedPatches(nn.Module):
    """A patch embedding with one kernel for each place of an image: what `protect` makes of one whose blocks
    have keys of their own.

    weight: [G, L * features, D] for G places; bias: [G, D] or None. grid: rows and columns of places.

    Input: [N, C, H, W] of the one size that the grid and the patch size make. Output: [N, D, rows, columns].
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        *,
        patch: int,
        grid: tuple[int, int],
        plain: nn.Module,
        look_up: LookUp | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.patch, self.grid, self.look_up = patch, grid, look_up
        self._plain = [plain]

    @property
    def plain(self) -> nn.Module:
        return self._plain[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self.grid
        size = (rows * self.patch, columns * self.patch)
        if tuple(x.shape[-2:]) != size:
            raise ValueError(
                f"x: the key was folded in for images of {size[0]} x {size[1]} pixels, got "
                f"{x.shape[-2]} x {x.shape[-1]}"
            )
        if self.look_up is not None:
            x = self.look_up(x)
        y: torch.Tensor = torch.einsum("ngl,gld->ngd", to_vectors(x, self.patch), self.weight)
        if self.bias is not None:
            y = y + self.bias
        return y.transpose(1, 2).reshape(len(x), -1, rows, columns)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, patch={self.patch}, grid={self.grid}"
