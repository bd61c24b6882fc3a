"""ffx: half of the values are enciphered by a format-preserving Feistel cipher (FFX; arXiv 2105.14756)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from blockenc.feistel.ff1 import byte_tables
from blockenc.feistel.ffx_decimal import VALUES, decimal_tables
from blockenc.keys.keystream import KEY_BYTES, Secret
from blockenc.steps.base import Effect, Period, Step, checked_array, log2_masks


@dataclasses.dataclass(frozen=True)
class Ffx(Step):
    """Half of the values of a period become E(v), with one table E for all of them.

    profile: "byte" (FF1 of NIST SP 800-38G, a permutation of 0..255) or "decimal" (the papers' pyffx on
        three digits; values leave the byte range, so that the result is float32 or uint16).
    block_size, period: see `Step`.

    Its explicit secret: a pair of the mask, booleans [G, l], and the table, 256 different integers below 256,
    or 1000 in the decimal profile.
    """

    profile: Literal["byte", "decimal"] = "byte"

    kind: ClassVar[str] = "ffx"

    @property
    def within_blocks(self) -> str:
        return "enciphers values"

    @property
    def makes_integers(self) -> bool:
        return True

    def draw(self, secret: Secret, infos: Sequence[str], period: Period) -> tuple[np.ndarray, np.ndarray]:
        make = {"byte": byte_tables, "decimal": decimal_tables}[self.profile]
        masks = secret.keystreams(infos).masks(period.blocks * period.length)
        keys = secret.cipher_keys([info + "/cipher" for info in infos], self.profile)
        return masks.reshape(len(infos), period.blocks, -1), make(keys)

    def key_space_bits(self, period: Period) -> float:
        """Of the mask and, 256 bits, of the cipher's key: there are more tables, but no more keys."""
        return log2_masks(period.blocks * period.length) + 8 * KEY_BYTES

    def checked(self, secret: Any, period: Period) -> tuple[np.ndarray, np.ndarray]:
        if len(secret) != 2:
            raise ValueError("secret: expected a pair of a mask and a table")
        mask = checked_array(secret[0], (period.blocks, period.length), 2, "a mask of the values of a period")
        below = 256 if self.profile == "byte" else VALUES
        table = checked_array(secret[1], (256,), below, "a table of 256 values")
        if len(np.unique(table)) != 256:
            raise ValueError("secret: expected a table of 256 different values")
        return mask.astype(bool), table.astype(np.uint16)

    def effect(self, secret: tuple[np.ndarray, np.ndarray], period: Period) -> Effect:
        masks, tables = secret
        selected = masks.reshape(-1, masks.shape[-1])
        return Effect(selected=selected, tables=tables, decimal=self.profile == "decimal")
