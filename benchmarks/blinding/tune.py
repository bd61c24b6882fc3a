"""Fine-tuning of a plain model with a penalty for what readers of its protected stem look for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy.fast import Config, Run
from benchmarks.blinding.stems import effect, stem_of
from blockenc.nn import BlockEmbedding

SMOOTH = 8  # cosines of so many half periods count as smooth
CHECKPOINT_STEPS = 20


@torch.no_grad()
def widened(stem: BlockEmbedding, extra: int, strength: float, g: torch.Generator) -> BlockEmbedding:
    """The stem with `extra` more columns of noise, `strength` times as large as the others."""
    assert stem.weight is not None
    L, values, rank = stem.table.shape
    wide = BlockEmbedding(stem.block_size, stem.dim, rank=rank + extra, channels=stem.channels)
    assert wide.weight is not None
    table = strength * float(stem.table.std()) * torch.randn(L, values, extra, generator=g)
    weight = strength * float(stem.weight.std()) * torch.randn(stem.dim, L, extra, generator=g)
    wide.table.copy_(torch.cat([stem.table, table], 2))
    wide.weight.copy_(torch.cat([stem.weight, weight], 2))
    wide.bias = stem.bias
    return wide


def penalty(stem: BlockEmbedding, unfold: int) -> torch.Tensor:
    """What readers look for in a plain stem, 0 where there is nothing and 3 where there is nothing else.

    The share of each position's effect that is smooth in the value; the share that goes to the token of its
    own pixel; and the squared cosine of the slopes of neighbours.
    """
    F = effect(stem)
    F = F - F.mean(1, keepdim=True)
    L, values, D = F.shape
    v = torch.arange(values, dtype=F.dtype) + 0.5
    k = torch.arange(1, SMOOTH + 1, dtype=F.dtype)
    cosines = torch.cos(math.pi * k * v[:, None] / values) * math.sqrt(2 / values)
    energy = F.square().sum((1, 2))
    projected = torch.einsum("vk,pvd->pkd", cosines, F)
    smooth = (projected.square().sum((1, 2)) / energy).mean()
    pixel = torch.arange(L) // stem.channels
    tokens = F.square().sum(1).view(L, D // unfold**2, unfold**2).sum(1)
    own = (tokens[torch.arange(L), pixel] / energy).mean()
    slopes = nn.functional.normalize(projected[:, 0], dim=1)
    row, column = pixel // stem.block_size, pixel % stem.block_size
    beside = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs()) <= 1
    beside.fill_diagonal_(False)
    return smooth + own + (slopes @ slopes.T)[beside].square().mean()


class Tuning(Run):
    """A run whose loss has `weight` times the penalty."""

    weight = 0.0

    def loss(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = super().loss(z, y)
        return found + self.weight * penalty(stem_of(self.model), self.config.block_size)


def tune(model: nn.Module, config: Config, weight: float, path: Path, **how: Any) -> nn.Module:
    """Train a model, from the checkpoint at `path` on if there is one. how: as for `Run`."""
    run = Tuning(config, model=model, **how)
    run.weight = weight
    if path.exists():
        run.load(path)
    while run.step < run.total:
        run.train_step()
        if run.step % CHECKPOINT_STEPS == 0 or run.step == run.total:
            path.parent.mkdir(parents=True, exist_ok=True)
            run.save(path)
    return run.model
