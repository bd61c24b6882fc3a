"""shuffle: the values (or nibbles) of a block change places (pixel shuffle, SHF; arXiv 2105.14756)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import (
    Effect,
    Period,
    Step,
    check_fixed,
    checked_permutations,
    log2_permutations,
    with_fixed,
)


@dataclasses.dataclass(frozen=True)
class Shuffle(Step):
    """The values of each block change places: v'[p] = v[a[p]]; each block of a period has a permutation a.

    cells: "byte", or "nibble" to move the two halves of every byte on their own (LE; Tanaka 2018).
    fixed: how many of the values (or nibbles) of each block stay in their place (restricted permutations;
        arXiv 2408.08529 and 2408.05737): 0, or at most n - 2. Which ones is secret.
    block_size, period: see `Step`.

    Its explicit secret: the permutations, integers [G, n], n = l or 2l for nibbles (low halves first).
    """

    cells: Literal["byte", "nibble"] = "byte"
    fixed: int = 0

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

    def check_period(self, period: Period) -> None:
        check_fixed(self.fixed, self._shape(period)[1])

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        return with_fixed(secret.keystreams(infos).permutations(*self._shape(period)), self.fixed)

    def key_space_bits(self, period: Period) -> float:
        count, length = self._shape(period)
        return count * log2_permutations(length, self.fixed)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_permutations(
            secret, self._shape(period), "a permutation for each block of a period", self.fixed
        )

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        return Effect(source=secret.reshape(-1, secret.shape[-1]))

    def _shape(self, period: Period) -> tuple[int, int]:
        return period.blocks, period.length * (2 if self.cells == "nibble" else 1)
