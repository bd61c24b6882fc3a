"""The network of the fast recipe: a whitening stem, three groups of two convolutions, and a linear head.

The shape and the start follow what the public speed records for CIFAR-10 found (Page 2018; hlb-CIFAR10;
Jordan, arXiv 2404.00498): the first layer decorrelates patches of pixels, the others start as the identity as
far as they can, norms have no gain, and the logits are scaled down. Nothing here knows about keys.
"""

from __future__ import annotations

from itertools import pairwise, product

import torch
from torch import nn
from torch.nn import functional

import blockenc

STEMS = ("conv", "block", "embedding")
OF_PATCHES = ("vit", "convmixer")  # of benchmarks.accuracy.models; their patches are the blocks
MODELS = ("fastnet", *OF_PATCHES)
PATCH = 2  # pixels along the sides of what the stem whitens


class Norm(nn.BatchNorm2d):
    """Batch norm with a bias and no gain, and running statistics of few batches, as short runs need."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=0.4)
        self.weight.requires_grad_(False)


class Identity3x3(nn.Conv2d):
    """A 3 x 3 convolution whose first filters start by handing on one channel each."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1, bias=False)
        nn.init.dirac_(self.weight.data[: min(c_in, c_out)])


def group(c_in: int, width: int) -> nn.Sequential:
    """Two convolutions; the first one halves the resolution."""
    return nn.Sequential(
        Identity3x3(c_in, width),
        nn.MaxPool2d(2),
        Norm(width),
        nn.GELU(),
        Identity3x3(width, width),
        Norm(width),
        nn.GELU(),
    )


class FastNet(nn.Module):
    """Images [N, C, H, W] (normalised; integers for the embedding stem) to logits [N, classes].

    width: of the first group; the other two are four times as wide.
    """

    def __init__(self, stem: nn.Module, stem_width: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        widths = (stem_width, width, 4 * width, 4 * width)
        self.body = nn.Sequential(*(group(*pair) for pair in pairwise(widths)))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Filters that whiten take neighbouring pixels from each other: bfloat16 would leave noise of a tenth.
        with torch.autocast(x.device.type, enabled=False):
            x = self.stem(x)
        x = self.body(functional.gelu(x))
        return self.head(x.amax((2, 3))) / 9


class WhiteningConv(nn.Conv2d):
    """A frozen 2 x 2 convolution, and a bias that is learned; as many pixels come out as go in.

    Beyond the edge the last pixel goes on. Zeros there would be steps of brightness, which the filters answer
    to several times as strongly as to what is in the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, whitening_width(channels), PATCH)
        self.weight.requires_grad_(False)
        nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, (0, PATCH - 1, 0, PATCH - 1), mode="replicate"))


def whitening_width(channels: int) -> int:
    """Filters of a whitening stem: each with its negative, since the activation cuts off negative values."""
    return 2 * channels * PATCH * PATCH


def whitening(x: torch.Tensor, eps: float = 5e-4) -> torch.Tensor:
    """Filters [2CP^2, C, P, P], P = 2, under which patches of the images x are uncorrelated, of variance 1.

    x: normalised images [N, C, H, W], as the network sees them. The second half of the filters are the
    negatives of the first. eps: added to variances, so that what hardly varies is not blown up.
    """
    patches = x.float().unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # [N, C, H-1, W-1, P, P]
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * PATCH * PATCH)
    covariance = torch.cov(rows.T.double())
    variances, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (variances + eps).sqrt()).T.flip(0)  # what varies most first
    filters = filters.view(-1, x.shape[1], PATCH, PATCH).float()
    return torch.cat([filters, -filters])


def whiten_(stem: nn.Module, filters: torch.Tensor) -> None:
    """Let a stem that `make_stem` made start with these filters of 2 x 2 pixels.

    A block's stem has a token for every pixel of the block. Where its patch goes beyond the block, the pixel
    at the block's edge stands for those that are missing.
    """
    with torch.no_grad():
        if isinstance(stem, WhiteningConv):
            stem.weight.copy_(filters)
            return
        first = stem[0]  # type: ignore[index]
        m = first.block_size if isinstance(first, blockenc.nn.BlockEmbedding) else first.kernel_size[0]
        width, channels = filters.shape[:2]
        start = torch.zeros(width, m, m, channels, m, m)  # filter, pixel of the token, pixel it looks at
        for i in range(m):
            for j in range(m):
                for down, right in product(range(PATCH), repeat=2):
                    seen = (min(i + down, m - 1), min(j + right, m - 1))
                    start[:, i, j, :, seen[0], seen[1]] += filters[:, :, down, right]
        start = start.view(width * m * m, channels, m, m)
        first.bias.zero_()
        if isinstance(first, nn.Conv2d):
            first.weight.copy_(start)
        else:  # positions are counted row by row, column by column, channel by channel
            first.weight.zero_()
            first.weight[:, :, 0] = start.permute(0, 2, 3, 1).flatten(1)


def make_stem(kind: str, block_size: int, channels: int, rank: int, init: str, values: int) -> nn.Module:
    """A stem with one token a pixel. rank, init, values: of the embedding stem's table."""
    width = whitening_width(channels)
    if kind == "conv":
        return WhiteningConv(channels)
    dim = width * block_size**2
    first: nn.Module
    if kind == "block":
        first = nn.Conv2d(channels, dim, block_size, stride=block_size)
    else:
        first = blockenc.nn.BlockEmbedding(
            block_size, dim, channels=channels, rank=rank, init=init, values=values
        )
    return nn.Sequential(first, nn.PixelShuffle(block_size))
