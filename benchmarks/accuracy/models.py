"""Networks whose first layer, the stem, is chosen freely.

stem "conv": a convolution of 3 x 3 pixels, as ResNets for CIFAR have it; it knows nothing of blocks.
stem "block": one linear map a block (kernel = stride = M); it can absorb shuffle and np.
stem "embedding": blockenc.nn.BlockEmbedding; it can absorb every scheme.
stem "lookup-conv", "lookup-block": the first two on top of a learned table of values, the same at all
    positions, which can undo ffx: that is one table, too, where it is applied.

The ViT's and the ConvMixer's patch is the block, so that they have no stem "conv" or "lookup-conv".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import blockenc
from blockenc.nn.embedding import ramp

STEMS = ("conv", "block", "embedding", "lookup-conv", "lookup-block")
MODELS = ("resnet-small", "resnet18", "resnet50", "vit", "convmixer")


def make(
    name: str,
    stem: str,
    *,
    block_size: int,
    classes: int,
    channels: int = 3,
    image_size: int = 32,
    width: int = 0,
    depth: int = 0,
    unfold: int = 1,
    **embedding: Any,
) -> nn.Module:
    """A network. width, depth: 0 is the model's own; embedding: arguments of BlockEmbedding.

    unfold: a ResNet's stem "block" or "embedding" gives every block unfold x unfold tokens instead of one.

    Images go in normalised, [N, channels, image_size, image_size]; where there is a table, as integers.
    """
    if name not in MODELS or stem not in STEMS:
        raise ValueError(f"expected one of {', '.join(MODELS)} with a stem {', '.join(STEMS)}")
    if name in ("vit", "convmixer"):
        if stem.endswith("conv"):
            raise ValueError(f"{name}: its stem is block, embedding or lookup-block")
        width = width or 192
        first = _stem(stem, block_size, width, channels, **embedding)
        if name == "vit":
            return ViT(first, width, depth or 6, (image_size // block_size) ** 2, classes)
        return ConvMixer(first, width, depth or 8, classes)
    resolution = image_size if stem.endswith("conv") else image_size // block_size * unfold
    if name == "resnet-small":
        width = width or 16
        # Resolutions 32, 16, 8 and 4, as far as there are.
        stages = [(width << n, max(depth, 1)) for n in range(4) if resolution >> n >= 4]
        first = _stem(stem, block_size, width, channels, unfold=unfold, **embedding)
        return ResNet(first, width, stages, classes)
    width = width or 64
    large = image_size > 64  # ImageNet: a stem of 7 x 7 pixels and a pooling, unless the stem is a block's
    first = _stem(stem, block_size, width, channels, unfold=unfold, large=large, **embedding)
    blocks = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
    stages = [(width << n, count) for n, count in enumerate(blocks)]
    return ResNet(first, width, stages, classes, Bottleneck if name == "resnet50" else Residual)


def _stem(
    kind: str,
    block_size: int,
    width: int,
    channels: int,
    *,
    unfold: int = 1,
    large: bool = False,
    **embedding: Any,
) -> nn.Module:
    if kind.startswith("lookup-"):
        table = Lookup(**embedding)
        channels *= table.columns
        rest = _stem(kind.removeprefix("lookup-"), block_size, width, channels, unfold=unfold, large=large)
        return nn.Sequential(table, rest)
    if kind in ("block", "embedding"):
        dim = width * unfold * unfold
        first: nn.Module
        if kind == "embedding":
            first = blockenc.nn.BlockEmbedding(block_size, dim, channels=channels, **embedding)
        else:
            first = nn.Conv2d(channels, dim, block_size, stride=block_size)
        if unfold == 1:
            return first
        weight = first.weight
        if kind == "embedding":  # [D, L, rank]: the columns of the table are so many more channels
            weight = weight.view(dim, block_size, block_size, -1).permute(0, 3, 1, 2)
        start_local_(weight, unfold)
        return nn.Sequential(first, nn.PixelShuffle(unfold))
    if large:
        return nn.Sequential(nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
    return nn.Conv2d(channels, width, 3, padding=1, bias=False)


class Lookup(nn.Module):
    """Integer images [N, C, H, W] to [N, C * (1 + rank), H, W]: the normalised value, and a row for it.

    The table starts at 0, and so the network as one without. values: the rows of the table.
    """

    def __init__(self, rank: int = 2, values: int = 256) -> None:
        super().__init__()
        self.columns = 1 + rank
        self.table = nn.Parameter(torch.zeros(values, rank))
        self.register_buffer("value", ramp(values, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = torch.cat([self.get_buffer("value"), self.table], 1)
        return nn.functional.embedding(x.permute(0, 2, 3, 1).int(), columns).flatten(3).permute(0, 3, 1, 2)


@torch.no_grad()
def start_local_(weight: torch.Tensor, unfold: int) -> None:
    """Let a stem [D * unfold^2, C, M, M] before a PixelShuffle start as a convolution of smaller patches.

    Each of a block's unfold x unfold tokens then reads its own part of the block, all with the same weights:
    the network starts as local and as indifferent to translations as one without blocks. Nothing keeps it
    so, and encryption may scatter the parts over the block.
    """
    d, c, M, _ = weight.shape
    part = M // unfold
    if part * unfold != M:
        raise ValueError(f"unfold: expected a divisor of the block size {M}, got {unfold}")
    patch = torch.empty(d // unfold**2, c, part, part)
    nn.init.kaiming_uniform_(patch, a=5**0.5)
    weight.zero_()
    for i in range(unfold):
        for j in range(unfold):
            token, rows, columns = i * unfold + j, part * i, part * j
            weight[token :: unfold**2, :, rows : rows + part, columns : columns + part] = patch


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut (He et al., arXiv 1512.03385)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = _shortcut(c_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the last one four times as wide (the same paper)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
        )
        self.shortcut = _shortcut(c_in, 4 * width, stride)

    forward = Residual.forward


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class ResNet(nn.Module):
    """A stem and stages of blocks, (width, blocks) of each; all stages but the first halve the resolution."""

    def __init__(
        self,
        stem: nn.Module,
        width: int,
        stages: list[tuple[int, int]],
        classes: int,
        block: type[Residual] | type[Bottleneck] = Residual,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.norm = nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        for n, (c_out, count) in enumerate(stages):
            for m in range(count):
                layers.append(block(width, c_out, 2 if n and not m else 1))
                width = c_out * block.expansion
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.body(x).mean((2, 3)))


class ViT(nn.Module):
    """A small vision transformer, pre-norm, mean of the tokens (Dosovitskiy et al., arXiv 2010.11929)."""

    def __init__(self, stem: nn.Module, width: int, depth: int, tokens: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(
            width, max(width // 48, 1), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.body(tokens).mean(1))


class ConvMixer(nn.Module):
    """Depthwise 5 x 5 and pointwise convolutions at one resolution (Trockman & Kolter, arXiv 2201.09792)."""

    def __init__(self, stem: nn.Module, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.norm = nn.BatchNorm2d(width)
        mix = [nn.Conv2d(width, width, 5, padding=2, groups=width) for _ in range(depth)]
        self.space = nn.ModuleList(nn.Sequential(m, nn.GELU(), nn.BatchNorm2d(width)) for m in mix)
        self.channel = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(nn.functional.gelu(self.stem(x)))
        for space, channel in zip(self.space, self.channel):
            x = channel(x + space(x))
        return self.head(x.mean((2, 3)))
