"""Blocks that change places: rows of a model's position embedding do the same."""

from __future__ import annotations

import torch
from torch import nn

# Class, distillation and register tokens that a position embedding may begin with.
MOST_PREFIX_TOKENS = 8


def find(model: nn.Module, tokens: int, named: str | None) -> str | None:
    """The name of the parameter or buffer that embeds so many places, after prefix tokens.

    named: by the user. Raises ValueError where several may be it. None: there is none.
    """
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if named is not None:
        if named not in values:
            raise ValueError(f"positions: the model has no parameter or buffer called {named!r}")
        if not _fits(values[named], tokens):
            raise ValueError(
                f"positions: expected [1, T, D] or [T, D], T being {tokens} and up to {MOST_PREFIX_TOKENS} "
                f"prefix tokens, got {list(values[named].shape)}"
            )
        return named
    found = [n for n, value in values.items() if "pos" in n.lower() and _fits(value, tokens)]
    if len(found) > 1:
        raise ValueError(f"positions: {', '.join(found)} may be the position embedding; name it")
    return found[0] if found else None


def prefix(model: nn.Module, name: str, tokens: int) -> int:
    return int(_get(model, name).shape[-2]) - tokens


def move(model: nn.Module, name: str, moves: torch.Tensor, *, inverse: bool) -> None:
    """Place g gets what place moves[g] had, or the other way round. In place, so that it may be shared."""
    value = _get(model, name)
    count = value.shape[-2] - len(moves)
    order = moves.to(value.device)
    order = torch.argsort(order) if inverse else order
    rows = torch.cat([torch.arange(count, device=value.device), count + order])
    value.copy_(value.index_select(value.dim() - 2, rows))


def _fits(value: torch.Tensor, tokens: int) -> bool:
    shape = value.shape
    if not value.is_floating_point() or not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)):
        return False
    return 0 <= shape[-2] - tokens <= MOST_PREFIX_TOKENS


def _get(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, own = name.rpartition(".")
    return getattr(model.get_submodule(owner), own)  # type: ignore[no-any-return]
