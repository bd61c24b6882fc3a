"""scramble: the blocks of a period change places (block scrambling; EtC, ELE, and the ViT schemes)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

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
class Scramble(Step):
    """The blocks of a period change places: block g of the result is block s[g].

    block_size, period: see `Step`. In a period of a single block, the default, nothing moves.
    fixed: how many blocks of a period stay in their place (restricted permutations; arXiv 2408.08529 and
        2408.05737): 0, or at most G - 2. Which ones is secret.

    Its explicit secret: the permutation s, integers [G].

    >>> import numpy as np
    >>> from blockenc import Cipher, Scheme
    >>> blocks = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    >>> scheme = Scheme(1, [Scramble(period="image", fixed=30)], channels=1)
    >>> int((Cipher(bytes(32), scheme).encrypt(blocks) == blocks).sum()) >= 30
    True
    """

    fixed: int = 0

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

    def check_period(self, period: Period) -> None:
        check_fixed(self.fixed, period.blocks)

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> np.ndarray:
        drawn = secret.keystreams(infos).permutations(1, period.blocks)[:, 0]
        return with_fixed(drawn, self.fixed)

    def key_space_bits(self, period: Period) -> float:
        return log2_permutations(period.blocks, self.fixed)

    def checked(self, secret: Any, period: Period) -> np.ndarray:
        return checked_permutations(
            secret, (period.blocks,), "a permutation of the blocks of a period", self.fixed
        )

    def effect(self, secret: np.ndarray, period: Period) -> Effect:
        return Effect(moves=secret)
