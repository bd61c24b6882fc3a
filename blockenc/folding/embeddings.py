"""Keys in a BlockEmbedding: rows of its table, and columns of its weights, change places."""

from __future__ import annotations

import torch
from torch import nn

from blockenc.folding.registry import Folding, fold, patch_size, refuse_places, unfold
from blockenc.nn.embedding import BlockEmbedding
from blockenc.plan import Plan


@patch_size.register(BlockEmbedding)
def _(stem: BlockEmbedding, channels: int) -> int | None:
    return stem.block_size


@fold.register(BlockEmbedding)
def _(stem: BlockEmbedding, folding: Folding) -> nn.Module:
    plan = folding.plan
    _check(stem, folding, plan.in_values)
    table, (source, place, becomes) = stem.table, _rows(stem, plan)
    # Values that no image has after decimal encryption have rows of zeros.
    new = table.new_zeros(plan.length, plan.out_values, table.shape[2])
    new[place, becomes] = table[source]
    _set_table(stem, new)
    if stem.weight is not None:
        stem.weight.copy_(stem.weight[:, source])
    return stem


@unfold.register(BlockEmbedding)
def _(stem: BlockEmbedding, folding: Folding) -> nn.Module:
    plan = folding.plan
    _check(stem, folding, plan.out_values)
    table, (source, place, becomes) = stem.table, _rows(stem, plan)
    new = torch.empty_like(table[:, : plan.in_values])
    new[source] = table[place, becomes]
    _set_table(stem, new)
    if stem.weight is not None:
        moved = torch.empty_like(stem.weight)
        moved[:, source] = stem.weight
        stem.weight.copy_(moved)
    return stem


def _rows(stem: BlockEmbedding, plan: Plan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """source, place, becomes: row (place[p], becomes[p, v]) of the protected table is row (source[p], v) of
    the plain one."""
    device = stem.table.device
    source = torch.from_numpy(plan.source[0]).long().to(device)
    becomes = torch.from_numpy(plan.substitutions()).to(device)
    return source, torch.arange(plan.length, device=device)[:, None], becomes


def _set_table(stem: BlockEmbedding, table: torch.Tensor) -> None:
    stem.values = table.shape[1]
    stem.table = nn.Parameter(table, requires_grad=stem.table.requires_grad)


def _check(stem: BlockEmbedding, folding: Folding, values: int) -> None:
    plan = folding.plan
    refuse_places(folding, "a BlockEmbedding")
    if plan.nibbles:
        raise ValueError("cipher: its scheme moves or negates nibbles, which no BlockEmbedding can absorb")
    if (stem.block_size, stem.channels) != (plan.block_size, plan.channels):
        raise ValueError(
            f"cipher: expected blocks of {stem.block_size} x {stem.block_size} x {stem.channels} as in the "
            f"BlockEmbedding, got {plan.block_size} x {plan.block_size} x {plan.channels}"
        )
    if stem.values != values:
        raise ValueError(f"model: expected a BlockEmbedding of {values} values, got {stem.values}")
