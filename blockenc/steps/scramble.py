"""scramble: the blocks of a period change places (block scrambling; EtC, ELE, and the ViT schemes)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from blockenc.keys.keystream import Secret
from blockenc.steps.base import Effect, Period, Step, checked_permutations, log2_factorial


@dataclasses.dataclass(frozen=True)
class Scramble(Step):
    """The blocks of a period change places: block g of the result is block s[g].

    block_size, period: see `Step`. In a period of a single block, the default, nothing moves.

    Its explicit secret: the permutation s, integers [G].
    """

    kind: ClassVar[str] = "scramble"
    moves_blocks: ClassVar[bool] = True
    moves_geometry: ClassVar[bool] = True

    @property
    def is_idle(self) -> bool:
        return self.period == self.block_size

    @property
    def within_blocks(self) -> str:
        return ""

    @property
    def takes_any_values(self) -> bool:
        return True

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        return secret.keystreams(infos).permutations(1, period.blocks)[:, 0]

    def key_space_bits(self, period: Period) -> float:
        return log2_factorial(period.blocks)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_permutations(secret, (period.blocks,), "a permutation of the blocks of a period")

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        return Effect(moves=secret)
