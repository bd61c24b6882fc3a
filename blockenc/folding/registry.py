"""Which stems a key can be folded into: a handler for each type of layer."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from blockenc.folding.values import Normalisation, Values
from blockenc.plan import Plan


@dataclasses.dataclass(frozen=True)
class Folding:
    """What is folded, as handlers are given it. It holds a secret, and is never printed.

    plan: a plan of V = 1 variant that any image can take; or, where blocks have keys of their own, of V
        variants, and `places`.
    norm: how the plain images that the stem sees are normalised.
    values: what of an encrypted block makes up the plain values: what a linear stem has to absorb.
    seen: what the stem was given for plain images (`unfold`: for encrypted ones) in a run of the model.
    layout: of stems that are given patches as vectors: the order of their values, "chw" or "hwc".
    places: int64 [rows, columns]: the variant of each patch of an image.
    """

    plan: Plan
    norm: Normalisation
    values: Values
    seen: torch.Tensor | None = None
    layout: str = "chw"
    places: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Folding({self.plan!r})"


@functools.singledispatch
def fold(stem: Any, folding: Folding) -> nn.Module:
    """The layer that makes of encrypted images what `stem` makes of plain ones: a new one, or `stem` changed.

    `fold.register` adds the handler of a type of layer, and so do `unfold.register` and
    `patch_size.register`. A handler raises ValueError for what it cannot do; `protect` runs the result beside
    the original.
    """
    raise TypeError(_unknown(stem))


@functools.singledispatch
def unfold(stem: Any, folding: Folding) -> nn.Module:
    """The inverse of `fold`."""
    raise TypeError(_unknown(stem))


@functools.singledispatch
def patch_size(stem: Any, channels: int) -> int | None:
    """The side of the patches that a stem makes tokens of, each for itself; None if it looks across them."""
    return None


def is_stem(module: nn.Module, handler: Any) -> bool:
    return handler.dispatch(type(module)) is not handler.dispatch(object)


def refuse_places(folding: Folding, what: str) -> None:
    if folding.places is not None:
        raise ValueError(
            f"cipher: its blocks have keys of their own, which {what} cannot absorb; only an nn.Conv2d of "
            "kernel = stride without padding (a patch embedding) can, as one kernel for each place"
        )


def _unknown(stem: Any) -> str:
    return (
        f"stem: a {type(stem).__name__} is none of the layers that a key can be folded into; register a "
        "handler with blockenc.folding.fold"
    )
