"""np: half of the values are replaced by their negatives (negative/positive transform; arXiv 2105.14756)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import Effect, Period, Step, checked_array, log2_masks


@dataclasses.dataclass(frozen=True)
class Np(Step):
    """Half of the units of a period become their negatives: 255 - v of bytes, 15 - v of nibbles.

    cells: "byte", or "nibble" to decide for the two halves of every byte on their own.
    unit: what is negated or left as a whole: each "value" (cell), or each "block".
    block_size, period: see `Step`.

    Its explicit secret: the mask, booleans [G, n] (n = l, or 2l for nibbles), or [G] for whole blocks; any
    number of units may be selected.
    """

    cells: Literal["byte", "nibble"] = "byte"
    unit: Literal["value", "block"] = "value"

    kind: ClassVar[str] = "np"

    @property
    def is_idle(self) -> bool:
        return self.unit == "block" and self.period == self.block_size

    @property
    def within_blocks(self) -> str:
        return "" if self.unit == "block" else "negates single values"

    @property
    def makes_integers(self) -> bool:
        return self.cells == "nibble"

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        shape = self._shape(period)
        return secret.keystreams(infos).masks(math.prod(shape)).reshape(len(infos), *shape)

    def key_space_bits(self, period: Period) -> float:
        return log2_masks(int(np.prod(self._shape(period))))

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_array(secret, self._shape(period), 2, "a mask of the units of a period").astype(bool)

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        if self.unit == "value":
            return Effect(flips=secret.reshape(-1, secret.shape[-1]))
        return Effect(flips=np.repeat([[False], [True]], self._cells(period), axis=1), variant=secret)

    def _cells(self, period: Period) -> int:
        return period.length * (2 if self.cells == "nibble" else 1)

    def _shape(self, period: Period) -> tuple[int, ...]:
        return (period.blocks,) if self.unit == "block" else (period.blocks, self._cells(period))
