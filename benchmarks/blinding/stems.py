"""Ways to blind a plain model's embedding stem, before a key is folded into it.

A stem is additive: its token is bias + the sum over positions p of F[p, value of p]. F, [L, values, D], is
all that it does; a BlockEmbedding holds it as a full table, or as the product of a table and weights.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from blockenc.blocks import to_vectors
from blockenc.nn import BlockEmbedding

BIN = 4  # neighbouring values that get the same noise, so that their statistics are known well
QUIET = 0.02  # the part of all directions, those of the least energy, that takes noise


def effect(stem: BlockEmbedding) -> torch.Tensor:
    """F of a stem, [L, values, D]."""
    if stem.weight is None:
        return stem.table
    return torch.einsum("pvk,dpk->pvd", stem.table, stem.weight)


def of_effect(stem: BlockEmbedding, F: torch.Tensor, bias: torch.Tensor) -> BlockEmbedding:
    """A stem like this one, with a full table: F [L, values, D], bias [D]."""
    full = BlockEmbedding(stem.block_size, F.shape[2], rank=None, channels=stem.channels)
    full.table, full.bias = nn.Parameter(F.clone()), nn.Parameter(bias.clone())
    return full


def with_stem(model: nn.Module, *layers: nn.Module) -> nn.Module:
    """A copy of a model of the fast recipe, with these layers before its PixelShuffle."""
    blinded = copy.deepcopy(model)
    blinded.stem = nn.Sequential(*layers, model.stem[-1])  # type: ignore[index]
    return blinded


def stem_of(model: nn.Module) -> BlockEmbedding:
    return next(module for module in model.modules() if isinstance(module, BlockEmbedding))


@torch.no_grad()
def decoys(stem: BlockEmbedding, extra: int, strength: float, g: torch.Generator) -> list[nn.Module]:
    """Columns that add up to nothing, mixed with the true ones at each position: exactly the same function.

    Half of the `extra` columns are noise in the table with weights of 0, and the other half constant in the
    table with weights of noise, whose sum the bias takes back. Then the columns of each position are
    multiplied by a random orthogonal matrix, and its weights by the inverse. strength: of the noise, times
    the root mean square of the true columns.
    """
    assert stem.weight is not None
    assert stem.bias is not None
    L, values, rank = stem.table.shape
    half = extra // 2
    rows = strength * float(stem.table.std()) * torch.randn(L, values, half, generator=g, dtype=torch.float64)
    noise = (
        strength * float(stem.weight.std()) * torch.randn(stem.dim, L, half, generator=g, dtype=torch.float64)
    )
    table = torch.cat([stem.table.double(), rows, torch.ones_like(rows)], 2)
    weight = torch.cat([stem.weight.double(), torch.zeros_like(noise), noise], 2)
    mix = torch.linalg.qr(
        torch.randn(L, rank + 2 * half, rank + 2 * half, generator=g, dtype=torch.float64)
    ).Q
    blinded = BlockEmbedding(stem.block_size, stem.dim, rank=rank + 2 * half, channels=stem.channels)
    assert blinded.weight is not None
    assert blinded.bias is not None
    blinded.table.copy_(table @ mix)
    blinded.weight.copy_(torch.einsum("dpk,pkj->dpj", weight, mix))
    blinded.bias.copy_(stem.bias.double() - noise.sum((1, 2)))
    return [blinded]


@torch.no_grad()
def pairs(stem: BlockEmbedding, strength: float, g: torch.Generator) -> list[nn.Module]:
    """Twice as many outputs, F + N and N for noise N, under a random orthogonal matrix; the next layer undoes
    that and takes the difference. strength: of N, times the root mean square of F."""
    assert stem.bias is not None
    F, D = effect(stem).double(), stem.dim
    N = strength * F.std() * torch.randn(F.shape, generator=g, dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(2 * D, 2 * D, generator=g, dtype=torch.float64)).Q
    first = of_effect(stem, (torch.cat([F + N, N], 2) @ mix).float(), torch.zeros(2 * D))
    difference = nn.Conv2d(2 * D, D, 1)
    difference.weight.copy_((mix[:D] - mix[D:])[..., None, None])
    assert difference.bias is not None
    difference.bias.copy_(stem.bias)
    return [first, difference]


def blocks_of(images: torch.Tensor, block_size: int) -> torch.Tensor:
    """All block vectors of uint8 images [N, C, H, W]: [blocks, L]."""
    return to_vectors(images, block_size).flatten(0, -2)


def quiet_directions(blocks: torch.Tensor) -> torch.Tensor:
    """Functions of single values, one a position, whose sum hardly varies over natural blocks [n, L]:
    [L * 256/BIN, directions], orthonormal. None is constant in the value, which would hide nothing."""
    bins = 256 // BIN
    L = blocks.shape[1]
    second, mean = torch.zeros(L * bins, L * bins), torch.zeros(L * bins)
    at = torch.arange(L) * bins
    for some in blocks.split(4096):
        hot = torch.zeros(len(some), L * bins)
        hot.scatter_(1, some.long() // BIN + at, 1.0)
        second += hot.T @ hot
        mean += hot.sum(0)
    mean /= len(blocks)
    covariance = second / len(blocks) - mean[:, None] * mean
    constant = torch.eye(L).repeat_interleave(bins, 0) / bins**0.5
    last = L * constant @ constant.T  # as loud as anything can be
    vectors = torch.linalg.eigh(covariance + last).eigenvectors
    return vectors[:, : int(QUIET * L * bins)]


@torch.no_grad()
def noisy(
    stem: BlockEmbedding,
    strength: float,
    g: torch.Generator,
    blocks: torch.Tensor,
    quiet: torch.Tensor | None,
) -> list[nn.Module]:
    """Noise added to F: in `quiet_directions`, or in all alike for None. It changes the function, least
    so on natural blocks, of which `blocks` gives the mean that the bias takes back. strength: of the noise,
    times the root mean square of F."""
    assert stem.bias is not None
    F = effect(stem)
    if quiet is None:
        N = torch.randn(F.shape, generator=g)
    else:
        N = quiet @ torch.randn(quiet.shape[1], stem.dim, generator=g)
        N = N.view(len(F), -1, stem.dim).repeat_interleave(BIN, 1)
    N *= strength * float((F - F.mean(1, keepdim=True)).std()) / float(N.std())
    usual = sum(N[p, column.long()].mean(0) for p, column in enumerate(blocks.T))
    return [of_effect(stem, F + N, stem.bias - usual)]
