"""shuffle: the values (or nibbles) of a block change places (pixel shuffle, SHF; arXiv 2105.14756)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import Effect, Period, Step, checked_permutations, log2_factorial


@dataclasses.dataclass(frozen=True)
class Shuffle(Step):
    """The values of each block change places: v'[p] = v[a[p]]; each block of a period has a permutation a.

    cells: "byte", or "nibble" to move the two halves of every byte on their own (LE; Tanaka 2018).
    block_size, period: see `Step`.

    Its explicit secret: the permutations, integers [G, n], n = l or 2l for nibbles (low halves first).
    """

    cells: Literal["byte", "nibble"] = "byte"

    kind: ClassVar[str] = "shuffle"
    mixes_values: ClassVar[bool] = True

    @property
    def within_blocks(self) -> str:
        return "moves values"

    @property
    def takes_any_values(self) -> bool:
        return self.cells == "byte"

    @property
    def makes_integers(self) -> bool:
        return self.cells == "nibble"

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        return secret.keystreams(infos).permutations(*self._shape(period))

    def key_space_bits(self, period: Period) -> float:
        count, length = self._shape(period)
        return count * log2_factorial(length)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_permutations(secret, self._shape(period), "a permutation for each block of a period")

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        return Effect(source=secret.reshape(-1, secret.shape[-1]))

    def _shape(self, period: Period) -> tuple[int, int]:
        return period.blocks, period.length * (2 if self.cells == "nibble" else 1)
