"""A first layer in which encryption by any scheme is a permutation of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from blockenc.plan import BYTE_VALUES, DECIMAL_VALUES
from blockenc.steps.base import positive_int

INITS = ("ramp", "random")


class BlockEmbedding(nn.Module):
    """Tokens of blocks: integer images [N, C, H, W] to features [N, dim, H/M, W/M].

    Every position p of a block (p = (i*M + j)*C + c) has a table of `values` rows, one a value, of
    `rank` columns. The rows that a block's values select are its features, and a linear map of the whole
    block makes the token of them:

        token = bias + sum over p, k of table[p, value of p, k] * weight[:, p, k]

    So a token is a sum of one vector a position, chosen by the value there, at the price of a look-up and a
    matrix product. Encryption moves row (p, v) to (p', T(v)) and column p of the weights to p', whatever the
    scheme, and does nothing else: training on encrypted images is the same problem as on plain ones, up
    to the order of the parameters. `blockenc.protect` is that reordering.

    block_size, dim: M and the width of a token.
    rank: columns of the table. None is the full table: `dim` columns, and no weights beside it.
    init: "ramp" makes column 0 (v - mean)/std of v = 0..255, as normalised pixels are, and column k the
        cosine of k half periods over the range: smooth in v. "random" draws every row from a normal
        distribution, which no permutation of the rows changes.
    values: 256, or 1000 for images encrypted with the decimal profile (raw values, dtype=torch.uint16).

    Input: uint8, uint16 or another integer type, values below `values` (not looked at; an index beyond
    the table raises IndexError). Output: in the dtype of the table, or autocast's.
    Raises TypeError or ValueError naming the argument.
    """

    def __init__(
        self,
        block_size: int,
        dim: int,
        *,
        rank: int | None = 2,
        channels: int = 3,
        bias: bool = True,
        init: str = "ramp",
        values: int = BYTE_VALUES,
    ) -> None:
        super().__init__()
        self.block_size = positive_int(block_size, "block_size")
        self.dim = positive_int(dim, "dim")
        self.rank = None if rank is None else positive_int(rank, "rank")
        self.channels = positive_int(channels, "channels")
        if init not in INITS:
            raise ValueError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
        if values not in (BYTE_VALUES, DECIMAL_VALUES):
            raise ValueError(f"values: expected {BYTE_VALUES} or {DECIMAL_VALUES}, got {values!r}")
        self.init, self.values = init, values
        self.table = nn.Parameter(torch.empty(self.length, values, self.rank or dim))
        self.weight = None if rank is None else nn.Parameter(torch.empty(dim, self.length, rank))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None
        self.reset_parameters()

    @property
    def length(self) -> int:
        """L = M*M*C, the values of a block vector."""
        return self.block_size * self.block_size * self.channels

    def reset_parameters(self) -> None:
        """Weights as nn.Linear has them for L * `rank` features; a full table of rows as large as theirs."""
        with torch.no_grad():
            columns, device = self.table.shape[-1], self.table.device
            if self.weight is None:
                smooth = ramp(self.values, 1).to(device) * torch.randn(
                    self.length, 1, self.dim, device=device
                )
                rows = smooth if self.init == "ramp" else torch.randn_like(self.table)
                self.table.copy_(rows / math.sqrt(3 * self.length))
            else:
                smooth = ramp(self.values, columns)
                rows = smooth if self.init == "ramp" else torch.randn_like(self.table)
                self.table.copy_(rows.expand_as(self.table))
                nn.init.kaiming_uniform_(self.weight.view(self.dim, -1), a=math.sqrt(5))
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        M = self.block_size
        check_images(x, self.channels, M, self.values)
        n, _, h, w = x.shape
        blocks = x.reshape(n, -1, h // M, M, w // M, M).permute(0, 2, 4, 3, 5, 1).reshape(-1, self.length)
        first = torch.arange(self.length, dtype=torch.int32, device=x.device) * self.values
        rows = blocks.to(torch.int32) + first
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.table.dtype
        if self.weight is None:
            tokens = functional.embedding_bag(rows, self.table.flatten(0, 1), mode="sum").to(dtype)
            tokens = tokens if self.bias is None else tokens + self.bias.to(dtype)
        else:
            features: torch.Tensor = _LookUp.apply(self.table.flatten(0, 1), rows.flatten(), dtype)
            tokens = functional.linear(features.view(len(rows), -1), self.weight.flatten(1), self.bias)
        # [N, H/M, W/M, dim] in memory is what channels_last convolutions read.
        return tokens.view(n, h // M, w // M, self.dim).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return (
            f"block_size={self.block_size}, dim={self.dim}, rank={self.rank}, "
            f"channels={self.channels}, values={self.values}"
        )


def ramp(values: int, columns: int) -> torch.Tensor:
    """float32 [values, columns]: (v - mean)/std over v = 0..255, then cosines of k half periods."""
    v = torch.arange(values, dtype=torch.float64, device="cpu")
    k = torch.arange(1, columns, device="cpu")
    first = (v - (BYTE_VALUES - 1) / 2) / math.sqrt((BYTE_VALUES**2 - 1) / 12)
    cosines = torch.cos(math.pi * k * (v[:, None] + 0.5) / values) * math.sqrt(2)
    return torch.cat([first[:, None], cosines], dim=1).float()


def check_images(x: torch.Tensor, channels: int, block_size: int, values: int) -> None:
    """Raise TypeError or ValueError unless x is [N, channels, H, W] of integers that have a row."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected [N, {channels}, H, W], got {tuple(x.shape)}")
    if x.shape[2] % block_size or x.shape[3] % block_size:
        raise ValueError(
            f"x: expected height and width to be multiples of the block size {block_size}, "
            f"got {x.shape[2]} x {x.shape[3]}"
        )
    if x.dtype == torch.bool or x.is_floating_point() or x.is_complex():
        raise TypeError(f"x: expected the integers of an image, as in torch.uint8, got {x.dtype}")
    if x.dtype != torch.uint8 and x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling():
        low, high = (int(value) for value in torch.aminmax(x.to(torch.int64)))
        if low < 0 or high >= values:  # would select another position's row
            raise ValueError(f"x: expected values from 0 to {values - 1}, got {low} to {high}")


class _LookUp(torch.autograd.Function):
    """table.to(dtype)[rows], whose gradient is summed in the table's own precision.

    Indexing a table in bfloat16 would give a bfloat16 sum of hundreds of thousands of gradients.
    """

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.size, ctx.dtype = table.shape, table.dtype
        return table.to(dtype).index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        rows = ctx.saved_tensors[0].long()  # with int32 rows, index_add_ is ten times slower on a CPU
        grad = grads[0].to(ctx.dtype)
        return grad.new_zeros(ctx.size).index_add_(0, rows, grad), None, None
